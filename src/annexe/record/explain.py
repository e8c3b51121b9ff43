"""What plugins did to a request: who ran, in which order, how long, what each changed, who was skipped and why.

A bounded ring of requests. ``RequestRecord.add_step`` is on the hot path and only keeps references; decoding, comparing and cutting
happen in ``Explain.render``, when somebody asks.

* At most ``capacity`` requests, ``max_bytes`` bytes of values and 256 steps a request; the oldest requests go first.
* A value above 64 KiB is kept as its size and SHA-256 only.
* Encoded values (``bytes``) are kept as they are. Views are copied, or a view of a small value would keep a whole read buffer alive.
  Any other object is kept by reference, so the caller must not change it any more; it is charged a flat KiB.

Called on the host's loop thread.

Source: features HK6; ADR-0026.
"""

from __future__ import annotations

import hashlib
from collections import deque
from enum import StrEnum
from typing import Any, NamedTuple, final

import msgspec

from annexe.contract.values import Written
from annexe.errors import HostError
from annexe.record.diff import diff
from annexe.record.entry import rfc3339
from annexe.record.fields import bounded

__all__ = ["MAX_STEPS", "MAX_STEPS_WITHIN", "MAX_VALUE_BYTES", "Explain", "Outcome", "RequestRecord"]

MAX_STEPS = 256
MAX_STEPS_WITHIN = 128
"""A plugin that has much done at a hook of its own must leave room for what the application has done."""
MAX_VALUE_BYTES = 64 * 1024
_OBJECT_BYTES = 1024
_MAX_WITHIN_BYTES = 128 * 1024  # nor must its values push out other requests
_MAX_SHOWN_BYTES = 2048
_MAX_REASON_CHARS = 2048


@final
class Outcome(StrEnum):
    """How one plugin's step ended."""

    UNCHANGED = "unchanged"
    CHANGED = "changed"
    RESPONDED = "responded"
    REJECTED = "rejected"
    SKIPPED = "skipped"
    FAILED = "failed"
    ANSWERED = "answered"
    NONE = "none"
    DONE = "done"
    OBSERVED = "observed"


_WITH_CODE = frozenset({Outcome.SKIPPED, Outcome.FAILED})  # their reason begins with the code of an error


class _Digest(NamedTuple):
    """What is left of a value that was too large to keep."""

    size_bytes: int
    sha256: str


_Step = tuple[str, str, float, float, str, "str | None", Any, Any, "Written | None", "str | None"]


class RequestRecord(msgspec.Struct, eq=False):
    """The steps of one request, in order. Made by ``Explain.start``; a struct, for one is made per request."""

    request_id: str
    at: float
    _ring: Any  # the Explain it belongs to; None once pushed out: then steps go nowhere
    held_bytes: int = 0
    _steps: list[_Step] = []
    _steps_dropped: int = 0
    _absent: list[tuple[str, tuple[str, ...]]] = []

    def add_step(
        self,
        plugin: str,
        hook: str,
        started_s: float,
        ended_s: float,
        outcome: str,
        reason: str | None = None,
        before: Any = None,
        after: Any = None,
        codec: Written | None = None,
        within: str | None = None,
    ) -> None:
        """Keep one step. Positional, for it is called for every plugin of every request.

        Args:
            plugin: Who.
            hook: Qualified name of the hook or method.
            started_s: Monotonic seconds.
            ended_s: Monotonic seconds.
            outcome: One of ``Outcome``.
            reason: Why it was skipped, failed or rejected; cut to 2,048 characters.
            before: The value the plugin got; None if there is nothing to compare.
            after: The value it gave; None if it changed nothing.
            codec: What ``before`` and ``after`` are encoded in, if they are; None if they are objects.
            within: The plugin that had it done, at a hook of its own, while it worked on the request; None: the application.
        """
        ring = self._ring
        if ring is None:
            return
        if len(self._steps) >= (MAX_STEPS if within is None else MAX_STEPS_WITHIN):
            self._steps_dropped += 1
            return
        if within is not None and self.held_bytes > _MAX_WITHIN_BYTES:
            before = after = codec = None
        if not ring.keeps_values:
            before = after = codec = None
            # A text of the plugin's may hold what it was given; the code of an error is ours.
            reason = reason.partition(":")[0] if reason is not None and outcome in _WITH_CODE else None
        if codec is None:
            held_bytes = 0 if before is None and after is None else _OBJECT_BYTES
        else:
            held_bytes = 0
            if before is not None:
                if before.__class__ is not bytes or len(before) > MAX_VALUE_BYTES:
                    before = _small(before)
                held_bytes = len(before)
            if after is not None:
                if after.__class__ is not bytes or len(after) > MAX_VALUE_BYTES:
                    after = _small(after)
                held_bytes += len(after)
        if reason is not None:
            # A text of the plugin's may be in it.
            reason = reason[:_MAX_REASON_CHARS]
            held_bytes += len(reason)
        self._steps.append((plugin, hook, started_s, ended_s, outcome, reason, before, after, codec, within))
        if held_bytes:
            self.held_bytes += held_bytes
            ring.charge(held_bytes)

    def add_absent(self, hook: str, names: tuple[str, ...]) -> None:
        """Keep which plugins a hook's order names that are not there, once for each hook."""
        if self._ring is not None and len(self._absent) < MAX_STEPS and (hook, names) not in self._absent:
            self._absent.append((hook, names))

    def copy(self) -> RequestRecord:
        """Return what is known now, as a record that does not change."""
        return RequestRecord(
            self.request_id, self.at, None, _steps=[*self._steps], _steps_dropped=self._steps_dropped, _absent=[*self._absent]
        )

    def detach(self) -> None:
        """Let go of everything; the ring calls this when it pushes the request out."""
        self._ring = None
        self._steps = []
        self._absent = []

    def render(self) -> dict[str, Any]:
        """Return the record for people and scripts: values compared, cut to a size and safe to show."""
        steps = self._steps
        if any(step[-1] is not None for step in steps):
            steps = sorted(steps, key=lambda step: step[2])  # a step ends after those within it
        first_s = steps[0][2] if steps else 0.0
        return {
            "request": self.request_id,
            "time": rfc3339(self.at),
            "steps": [_rendered(step, position, first_s) for position, step in enumerate(steps, start=1)],
            "steps_dropped": self._steps_dropped,
            "absent": [{"hook": hook, "names": list(names)} for hook, names in self._absent],
        }


@final
class Explain:
    """The last requests.

    Args:
        capacity: How many.
        max_bytes: The most bytes their values may take.
        keeps_values: Keep what plugins were given and gave, and what they said of it; without, who did what and when remains.
    """

    def __init__(self, *, capacity: int = 1024, max_bytes: int = 32 * 1024 * 1024, keeps_values: bool = True) -> None:
        self.keeps_values = keeps_values
        self._capacity = capacity
        self._max_bytes = max_bytes
        # Oldest first; found by looking through it, which only those who ask pay for.
        self._records: deque[RequestRecord] = deque()
        self._held_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of values in memory now."""
        return self._held_bytes

    def start(self, request_id: str, at: float) -> RequestRecord:
        """Begin the record of a request; an earlier one of the same id cannot be found any more.

        Args:
            request_id: As the application or the host chose it.
            at: Unix time in seconds.
        """
        record = RequestRecord(request_id, at, self)
        records = self._records
        records.append(record)
        if len(records) > self._capacity:
            self._let_go(records.popleft())
        return record

    def charge(self, size_bytes: int) -> None:
        """Count bytes that a record took, and push out the oldest requests while there are too many. Called by records."""
        self._held_bytes += size_bytes
        while self._held_bytes > self._max_bytes:
            self._let_go(self._records.popleft())

    def live(self, request_id: str) -> RequestRecord | None:
        """Return the record of a request to add to, None where none is remembered; looks through all."""
        return next((record for record in reversed(self._records) if record.request_id == request_id), None)

    def latest(self, count: int = 20) -> list[str]:
        """Return the ids of the last requests, newest first."""
        newest_first = dict.fromkeys(record.request_id for record in reversed(self._records))
        return list(newest_first)[: max(count, 0)]

    def render(self, request_id: str) -> dict[str, Any]:
        """Return what is known of a request.

        Raises:
            HostError: Nothing is; ``request`` holds the id.
        """
        return self.find(request_id).render()

    def find(self, request_id: str) -> RequestRecord:
        """Return a copy of what is known of a request, to be rendered on another thread: that can take long.

        Raises:
            HostError: Nothing is; ``request`` holds the id.
        """
        record = self.live(request_id)
        if record is None:
            text = f"no record of request {request_id!r}: expected one of the last {self._capacity} requests that reached a plugin"
            raise HostError(text, request=request_id)
        return record.copy()

    def _let_go(self, record: RequestRecord) -> None:
        self._held_bytes -= record.held_bytes
        record.detach()


def _small(value: Any) -> bytes | _Digest:
    """Return the value in bytes of its own, or what is kept of it if it is too large."""
    if len(value) > MAX_VALUE_BYTES:
        return _Digest(len(value), hashlib.sha256(value).hexdigest())
    return bytes(value)


def _rendered(step: _Step, position: int, first_s: float) -> dict[str, Any]:
    plugin, hook, started_s, ended_s, outcome, reason, before, after, codec, within = step
    shown: dict[str, Any] = {
        "position": position,
        "plugin": plugin,
        "hook": hook,
        "started_ms": round((started_s - first_s) * 1000, 3),
        "duration_ms": round((ended_s - started_s) * 1000, 3),
        "outcome": str(outcome),
        "reason": reason if reason is None else bounded(reason, _MAX_SHOWN_BYTES)[0],
    }
    if within is not None:
        shown["within"] = within
    if after is None:
        return shown
    if isinstance(before, _Digest) or isinstance(after, _Digest):
        return shown | {"before": _size_of(before), "after": _size_of(after)}
    new = _decoded(after, codec)
    if before is None:
        return shown | {"value": bounded(new, _MAX_SHOWN_BYTES)[0]}
    changes, is_cut = diff(_decoded(before, codec), new)
    shown["changes"] = [{name: bounded(part, _MAX_SHOWN_BYTES)[0] for name, part in change.items()} for change in changes]
    shown["changes_cut"] = is_cut
    return shown


def _size_of(value: Any) -> dict[str, Any] | None:
    if isinstance(value, _Digest):
        return {"bytes": value.size_bytes, "sha256": value.sha256}
    return {"bytes": len(value), "sha256": hashlib.sha256(value).hexdigest()} if isinstance(value, bytes) else None


def _decoded(value: Any, codec: Written | None) -> Any:
    try:
        if codec == "json":
            return msgspec.json.decode(value)
        if codec in ("msgpack", "blobs"):
            return msgspec.msgpack.decode(value, ext_hook=lambda code, _: f"<ext {code}>", strict=False)
        return msgspec.to_builtins(value, enc_hook=_as_builtins)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        return f"<cannot be shown: {type(error).__name__}>"


def _as_builtins(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)  # pydantic
    return dump(mode="json") if callable(dump) else f"<{type(value).__name__}>"
