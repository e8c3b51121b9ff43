"""The service behind ``ctx.fetch``: the host makes an HTTP request for a plugin that may reach the target.

* Each address on the way is held against the grant: the first, and that of every redirect. A refusal names the manifest's line.
* Everything has a bound (:class:`EgressLimits`), the whole of it the call's own deadline.
* Nothing of the host's goes along: no proxy and no credentials of its environment, no cookies, no connection used before.
* The machine's certificates are read at the first use, on a thread.

Source: feature HS6; docs/how-to/reach-the-network.md; ADR-0073.
"""

from __future__ import annotations

import asyncio
import ssl
from asyncio import StreamWriter, Task
from collections.abc import Callable
from time import monotonic
from typing import Annotated, Any, final

import msgspec

from annexe.capabilities.egress import EgressLimits, EgressRules, Target, Url, parse_url
from annexe.capabilities.egress_dial import Dialer
from annexe.capabilities.egress_http import HttpRequest, check_request
from annexe.capabilities.fetch_exchange import Answer, exchange
from annexe.capabilities.http_grammar import BadMessageError
from annexe.channel import CodecName, PluginCall
from annexe.errors import CallError, CallTimeoutError, InvalidParamsError, PluginBusyError
from annexe_sdk import wire

__all__ = ["FetchService", "fetch_target"]

_METHOD = "fetch"
# What an answer has beside its body, as JSON, which may need six characters for one.
_BESIDE_BODY_BYTES = 6 * 64 * 1024 + 64 * 1024


class _Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    url: str
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    timeout_s: Annotated[float, msgspec.Meta(gt=0)] | None = None


_DECODERS: dict[CodecName, Callable[[msgspec.Raw], _Params]] = {
    "json": msgspec.json.Decoder(_Params).decode,
    "msgpack": msgspec.msgpack.Decoder(_Params).decode,
}


def fetch_target(call: PluginCall) -> Target:
    """Return what a plugin's ``fetch`` wants to reach: for the refusal, when it may fetch nothing at all.

    Raises:
        InvalidParamsError: It does not say.
    """
    return _read(call)[0].url.target


def _read(call: PluginCall) -> tuple[HttpRequest, float | None]:
    try:
        params = _DECODERS[call.codec](call.params)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise InvalidParamsError(f"fetch: {error}.", method=_METHOD) from error
    request = HttpRequest(url=parse_url(params.url), method=params.method, headers=params.headers, body=params.body)
    return request, params.timeout_s


@final
class FetchService:
    """Makes the requests of one plugin; used on the host's loop.

    Args:
        rules: The plugin's.
        limits: Bounds.
        dialer: Makes the connections; one of its own when left out.
        make_tls: Makes the context that certificates are checked with; may block.
        on_used: Told of each right that is used, before it is.
    """

    def __init__(
        self,
        rules: EgressRules,
        *,
        limits: EgressLimits | None = None,
        dialer: Dialer | None = None,
        make_tls: Callable[[], ssl.SSLContext] = ssl.create_default_context,
        on_used: Callable[[str], None] | None = None,
    ) -> None:
        self._rules = rules
        self._limits = limits or EgressLimits()
        self._dialer = dialer or Dialer(rules, self._limits)
        self._make_tls = make_tls
        self._tls: ssl.SSLContext | None = None
        self._on_used = on_used
        self._tasks: set[Task[dict[str, Any]]] = set()

    def serve(self, call: PluginCall) -> Task[dict[str, Any]]:
        """Serve the wire method ``fetch``.

        Returns:
            A task whose result is ``{"status": int, "headers": [[name, value], ...], "body": bytes, "url": str}``. It may raise
            PermissionDeniedError, CallTimeoutError, and CallError, whose ``reason`` is ``dns``, ``connect``, ``tls``, ``protocol``,
            ``redirect`` or ``too-large``.

        Raises:
            InvalidParamsError: The parameters do not fit, or something in them may not be sent.
            PermissionDeniedError: The target was not granted.
            PluginBusyError: As many fetches as there may be are under way.
        """
        request, timeout_s = _read(call)
        check_request(request, self._limits)
        self._rules.check_target(request.url.target)
        if len(self._tasks) >= self._limits.fetches:
            text = f"plugin {self._rules.plugin!r} has {len(self._tasks)} fetches open; expected at most that many"
            raise PluginBusyError(text, plugin=self._rules.plugin, method=_METHOD)
        left_s = min(call.deadline - monotonic(), self._limits.time_s if timeout_s is None else min(timeout_s, self._limits.time_s))
        # The task is made here: one that is cancelled before its first step must be counted no longer.
        task = asyncio.get_running_loop().create_task(self._fetch(request, left_s, self._body_bytes(call.codec)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def close(self) -> None:
        """Call off what is under way."""
        for task in self._tasks:
            task.cancel()

    def _body_bytes(self, codec: CodecName) -> int:
        """Return how many bytes of a body fit into one frame: JSON makes four of three."""
        room = wire.MAX_FRAME_BYTES - _BESIDE_BODY_BYTES
        return min(self._limits.response_bytes, room // 4 * 3 if codec == "json" else room)

    async def _fetch(self, request: HttpRequest, left_s: float, body_bytes: int) -> dict[str, Any]:
        first = request.url
        try:
            async with asyncio.timeout(left_s):
                for _ in range(self._limits.redirects + 1):
                    answer = await self._one(request, body_bytes)
                    if answer.next is None:
                        return _result(answer, request.url)
                    request = answer.next
        except TimeoutError as error:
            text = f"fetch of {first} took longer than the {max(left_s, 0.0):.3g} s it had"
            raise CallTimeoutError(text, plugin=self._rules.plugin, method=_METHOD) from error
        raise self._failure(first, f"more than {self._limits.redirects} redirects", reason="redirect")

    async def _one(self, request: HttpRequest, body_bytes: int) -> Answer:
        """Make one request, and none that the grant does not hold for."""
        target = request.url.target
        self._rules.check_target(target)
        if self._on_used is not None:
            self._on_used(target.right)

        tls = await self._context(target) if request.url.scheme == "https" else None
        reader, writer = await self._dialer.connect(target, tls=tls)
        try:
            return await exchange(reader, writer, request, limits=self._limits, body_bytes=body_bytes)
        except BadMessageError as error:
            raise self._failure(request.url, str(error), reason="too-large" if error.is_too_large else "protocol") from error
        except InvalidParamsError as error:
            raise self._failure(request.url, error.message, reason="redirect") from error
        except OSError as error:
            raise self._failure(request.url, f"an end of the connection ({error})", reason="connect") from error
        finally:
            _drop(writer)

    async def _context(self, target: Target) -> ssl.SSLContext:
        if self._tls is None:
            try:
                self._tls = await asyncio.to_thread(self._make_tls)
            except OSError as error:
                text = f"no TLS connection to {target}: the certificates of this machine cannot be read: {error}."
                raise CallError(text, plugin=self._rules.plugin, method=_METHOD, reason="tls") from error
        return self._tls

    def _failure(self, url: Url, what: str, *, reason: str) -> CallError:
        return CallError(f"{url.target} answered with {what}.", plugin=self._rules.plugin, method=_METHOD, reason=reason)


def _drop(writer: StreamWriter) -> None:
    # Closed without waiting for what the other side may never read.
    writer.transport.abort()


def _result(answer: Answer, url: Url) -> dict[str, Any]:
    return {"status": answer.status, "headers": list(answer.headers), "body": answer.body, "url": str(url)}
