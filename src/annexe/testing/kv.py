"""The key-value store of a plugin under test: a dictionary that answers the ``kv.*`` methods as the host does.

Parameters are checked by the host's own checks, and values are kept encoded as the host keeps them: so the same is refused with the same
error, and a value that was read can be changed without changing what is stored. There is no quota, and no limit on requests.

Source: docs/reference/kv.md.
"""

from __future__ import annotations

from typing import Any, NamedTuple, final

from annexe.capabilities import kv_params
from annexe.capabilities.kv_params import read_params
from annexe.clock import Clock
from annexe.errors import InvalidParamsError, MethodNotFoundError
from annexe.storage.kv_values import decode_value, encode_value

__all__ = ["FakeKv"]

_INT64 = 1 << 63


class _Entry(NamedTuple):
    """A stored value, encoded, and the Unix time in seconds at which it ends, if it does."""

    value: bytes
    expires_at: float | None


@final
class FakeKv:
    """Values with their times, by key.

    Args:
        clock: Decides what is over.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._methods = {
            "kv.get": self._get,
            "kv.set": self._set,
            "kv.delete": self._delete,
            "kv.increment": self._increment,
            "kv.list": self._list,
            "kv.compare_and_set": self._compare_and_set,
        }

    def answer(self, method: str, params: Any) -> Any:
        """Answer one wire method.

        Args:
            method: ``kv.get`` and so on.
            params: What came over the wire: a map of name to value.

        Raises:
            MethodNotFoundError: There is no such method.
            InvalidParamsError: The parameters do not fit it, or what is stored.
        """
        answer = self._methods.get(method)
        if answer is None:
            raise MethodNotFoundError(f"no method {method!r}; expected one of {', '.join(self._methods)}.", method=method)
        return answer(params)

    def values(self) -> dict[str, Any]:
        """Return what is stored and not over, by key in order; a copy."""
        return {key: decode_value(entry.value) for key, entry in sorted(self._alive().items())}

    def _alive(self) -> dict[str, _Entry]:
        now = self._clock.now()
        self._entries = {key: entry for key, entry in self._entries.items() if entry.expires_at is None or entry.expires_at > now}
        return self._entries

    def _end(self, ttl_s: float | None) -> float | None:
        return None if ttl_s is None else self._clock.now() + ttl_s

    def _get(self, params: Any) -> Any:
        entry = self._alive().get(read_params(params, kv_params.OneKey, method="kv.get").key)
        return None if entry is None else decode_value(entry.value)

    def _set(self, params: Any) -> None:
        read = read_params(params, kv_params.Set, method="kv.set")
        self._entries[read.key] = _Entry(encode_value(read.value, method="kv.set"), self._end(read.ttl_s))

    def _delete(self, params: Any) -> bool:
        key = read_params(params, kv_params.OneKey, method="kv.delete").key
        return self._alive().pop(key, None) is not None

    def _increment(self, params: Any) -> int:
        method = "kv.increment"
        read = read_params(params, kv_params.Increment, method=method)
        entry = self._alive().get(read.key)
        count = 0 if entry is None else decode_value(entry.value)
        if type(count) is not int:
            raise _not_counted(read.key, f"expected an integer under the key, got a {type(count).__name__}")
        count += read.by
        if not -_INT64 <= count < _INT64:
            raise _not_counted(read.key, "expected a sum of at most 64 bits, got more")
        # A time to live counts from the first one.
        self._entries[read.key] = _Entry(encode_value(count, method=method), self._end(read.ttl_s) if entry is None else entry.expires_at)
        return count

    def _list(self, params: Any) -> dict[str, Any]:
        read = read_params(params, kv_params.List, method="kv.list")
        keys = [key for key in sorted(self._alive()) if key.startswith(read.prefix) and key > (read.after or "")]
        page = keys[: read.limit]
        return {"keys": page, "next": page[-1] if len(keys) > read.limit else None}

    def _compare_and_set(self, params: Any) -> bool:
        method = "kv.compare_and_set"
        read = read_params(params, kv_params.CompareAndSet, method=method)
        # Compared as bytes, which differ where types do: 1 is not 1.0.
        expected = None if read.expected is None else encode_value(read.expected, method=method, name="expected")
        value = None if read.value is None else encode_value(read.value, method=method)
        entry = self._alive().get(read.key)
        if (None if entry is None else entry.value) != expected:
            return False
        if value is None:
            self._entries.pop(read.key, None)
        else:
            self._entries[read.key] = _Entry(value, self._end(read.ttl_s))
        return True


def _not_counted(key: str, text: str) -> InvalidParamsError:
    return InvalidParamsError(f"kv.increment: key {key!r}: {text}.", method="kv.increment", param="key")
