"""The gateway: OpenAI's chat completions over HTTP, with plugins between the client and the model.

* Plugins see a hash of the client's API key, never the key; the model's service gets it as it came.
* Every chat response carries ``x-request-id``, the client's own if it sent one. ``annexe explain`` tells what plugins did under that name.
* A client that goes away cancels its request everywhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any
from uuid import uuid4

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from annexe import Host, Responded
from annexe.ids import is_request_id, new_request_id
from examples.gateway.contract import Chat, ChatAnswer, ChatChunk, ChatExchange, ChatRequest, Source, UsageReport
from examples.gateway.failures import Failure, failure_of
from examples.gateway.respond import Responder, until_disconnect
from examples.gateway.shape import Assembly, answer_to, chunk_to, chunks_of, request_from
from examples.gateway.upstream import Upstream

__all__ = ["make_app"]

_DEADLINE_S = 300.0
_MAX_BODY_BYTES = 8 * 1024 * 1024

_log = logging.getLogger("examples.gateway")


def make_app(host: Host, upstream: Upstream, *, greeting: str = "") -> Starlette:
    """Return the ASGI application. Host and upstream are the caller's to open and close."""
    gateway = _Gateway(host, upstream)

    async def index(_http: Request) -> Response:
        return PlainTextResponse(greeting)

    return Starlette(
        routes=[
            Route("/", index),
            Route("/v1/chat/completions", _ChatEndpoint(gateway), methods=["POST"]),
            Route("/v1/models", gateway.models),
            Route("/v1/usage", gateway.usage),
        ]
    )


class _ChatEndpoint:
    """Serves one chat as plain ASGI: answer, stream and refusal all happen in one place, and end when the client goes."""

    def __init__(self, gateway: _Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        http = Request(scope, receive)
        body = await _body_of(http)
        await until_disconnect(receive, self._gateway.chat(http, body, send))


class _Gateway:
    def __init__(self, host: Host, upstream: Upstream) -> None:
        self._host = host
        self._upstream = upstream

    async def models(self, http: Request) -> Response:
        return await _answered("list of models", self._upstream.models(http.headers.get("authorization")))

    async def usage(self, http: Request) -> Response:
        """Say what the asking key used so far."""
        return await _answered("usage", self._totals(_key_of(http)))

    async def _totals(self, key: str) -> dict[str, Any]:
        return {"object": "list", "data": await self._host.extension(UsageReport).totals(key)}

    async def chat(self, http: Request, body: bytes | None, send: Send) -> None:
        """Serve one chat, to its answer or its refusal."""
        request_id = _request_id_of(http)
        responder = Responder(send, {"x-request-id": request_id})
        if body is None:
            message = f"The request is larger than {_MAX_BODY_BYTES} bytes."
            await responder.fail(Failure(status=413, code="request_too_large", message=message))
            return
        try:
            chat = request_from(msgspec.json.decode(body))
        except msgspec.DecodeError as error:
            await responder.fail(failure_of(error))
            return
        async with self._host.request(id=request_id, deadline_s=_DEADLINE_S, key=_key_of(http)) as request:
            hooks = request.hooks(Chat)
            try:
                await self._answer(hooks, chat, http.headers.get("authorization"), responder)
            except Exception as error:  # noqa: BLE001 - the edge: whatever it was, the client and the plugins that watch are told
                failure = _failure(error, f"request {request_id}")
                await hooks.on_error(failure.observed())
                await responder.fail(failure)

    async def _answer(self, hooks: Any, chat: ChatRequest, authorization: str | None, responder: Responder) -> None:
        """Ask plugins, then the model, and send what comes of it."""
        stream = chat.stream
        try:
            chat = await hooks.on_request(chat)
            answer = await hooks.answer(chat)
        except Responded as responded:
            answer = responded.value
        if answer is not None:
            # A plugin need not know what every answer has.
            answer.extra = {"id": f"chatcmpl-{uuid4().hex}", "object": "chat.completion", "created": int(time.time()), **answer.extra}
        # How the answer is delivered is between the client and us.
        chat.stream = stream
        source: Source = "upstream" if answer is None else "plugin"
        responder.add_headers({"x-answered-by": source})
        if stream:
            await self._send_stream(hooks, chat, answer, authorization, responder)
            return
        if answer is None:
            answer = await self._upstream.complete(chat, authorization)
        # Before the answer is restored: who watches sees what the model saw.
        await hooks.on_answered(ChatExchange(request=chat, answer=answer, source=source))
        await responder.json(answer_to(await hooks.on_response(answer)))

    async def _send_stream(
        self, hooks: Any, chat: ChatRequest, answer: ChatAnswer | None, authorization: str | None, responder: Responder
    ) -> None:
        chunks = self._upstream.stream(chat, authorization) if answer is None else _each(answer)
        assembly = Assembly(chat.model)
        complete = False
        try:
            async for chunk in hooks.on_stream(_tapped(chunks, assembly)):
                await responder.event(chunk_to(chunk))
            complete = True
            await responder.end_events()
        finally:
            # Also when the client has gone: the model has worked.
            source: Source = "upstream" if answer is None else "plugin"
            await hooks.on_answered(ChatExchange(request=chat, answer=assembly.answer(), source=source, complete=complete))


async def _tapped(chunks: AsyncIterator[ChatChunk], assembly: Assembly) -> AsyncIterator[ChatChunk]:
    async for chunk in chunks:
        assembly.add(chunk)
        yield chunk


async def _each(answer: ChatAnswer) -> AsyncIterator[ChatChunk]:
    for chunk in chunks_of(answer):
        yield chunk
        await asyncio.sleep(0)


async def _body_of(http: Request) -> bytes | None:
    """Return the body; None when it is too large."""
    parts = []
    size_bytes = 0
    async for part in http.stream():
        size_bytes += len(part)
        if size_bytes > _MAX_BODY_BYTES:
            return None
        parts.append(part)
    return b"".join(parts)


def _key_of(http: Request) -> str:
    """Return what plugins know a client by: the same for the same API key, and of no use to anyone else."""
    authorization = http.headers.get("authorization", "")
    if not authorization:
        return "anonymous"
    return "key-" + hashlib.sha256(b"annexe gateway\0" + authorization.encode()).hexdigest()[:32]


def _request_id_of(http: Request) -> str:
    wanted = http.headers.get("x-request-id", "")
    return wanted if is_request_id(wanted) else new_request_id()


async def _answered(what: str, work: Awaitable[Any]) -> Response:
    try:
        return _json(await work)
    except Exception as error:  # noqa: BLE001 - the edge: whatever it was, the client gets an answer
        failure = _failure(error, what)
    return _json(failure.body(), status=failure.status, headers=failure.headers)


def _failure(error: Exception, what: str) -> Failure:
    """Return what the client is told of an error; what nobody expected is logged, for it says nothing of itself."""
    failure = failure_of(error)
    if failure.status == 500:
        _log.error("%s failed", what, exc_info=error)
    return failure


def _json(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status_code=status, headers=headers, media_type="application/json")
