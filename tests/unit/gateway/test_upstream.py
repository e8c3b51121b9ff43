"""Answers from the echo, and from a service over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from examples.gateway.contract import ChatMessage, ChatRequest
from examples.gateway.echo import EchoUpstream
from examples.gateway.shape import Assembly
from examples.gateway.upstream import HttpUpstream, UpstreamError


def request(content: Any, **extra: Any) -> ChatRequest:
    return ChatRequest(model="m", messages=[ChatMessage(role="user", content=content)], extra=extra)


async def streamed(upstream: Any, chat: ChatRequest) -> tuple[list[str], Any]:
    assembly = Assembly("m")
    pieces = []
    async for chunk in upstream.stream(chat, "Bearer key"):
        assembly.add(chunk)
        pieces += [choice.delta.content or "" for choice in chunk.choices]
    return pieces, assembly.answer()


def test_echo_streams_the_same_answer_in_pieces() -> None:
    async def scenario() -> None:
        echo = EchoUpstream(chunk_chars=4, chunk_delay_s=0)
        chat = request("Write to [EMAIL_1] now", stream_options={"include_usage": True})
        whole = await echo.complete(chat, None)
        text = whole.choices[0].message.content
        assert text == 'You wrote 4 words: "Write to [EMAIL_1] now" (Instead of personal data I saw EMAIL_1.)'
        pieces, assembled = await streamed(echo, chat)
        assert max(map(len, pieces)) == 4
        assert assembled.choices[0].message.content == text
        assert (assembled.usage, assembled.choices[0].finish_reason) == (whole.usage, "stop")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, 'You wrote 0 words: ""'),
        ("hi", 'You wrote 1 word: "hi"'),
        ([{"type": "text", "text": "a b"}, {"type": "x"}], 'You wrote 2 words: "a b"'),
    ],
)
def test_echo_of_any_content_answers(content: Any, text: str) -> None:
    answer = asyncio.run(EchoUpstream().complete(request(content), None))
    assert answer.choices[0].message.content == text


Reply = Callable[[bytes], bytes]


@asynccontextmanager
async def service(reply: Reply) -> AsyncIterator[HttpUpstream]:
    """A service that reads one request on each connection and answers with ``reply`` of it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next((int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
        writer.write(reply(head + await reader.readexactly(length)))
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    upstream = HttpUpstream(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
    try:
        yield upstream
    finally:
        await upstream.close()
        server.close()
        await server.wait_closed()


def http(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body


def against(reply: Reply, scenario: Callable[[HttpUpstream], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with service(reply) as upstream:
            await scenario(upstream)

    asyncio.run(run())


def test_http_complete_passes_the_request_and_the_key_on() -> None:
    seen: list[bytes] = []

    def reply(sent: bytes) -> bytes:
        seen.append(sent)
        return http(b'{"id":"x","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}')

    async def scenario(upstream: HttpUpstream) -> None:
        answer = await upstream.complete(request("hello", seed=7), "Bearer key")
        assert answer.choices[0].message.content == "hi"

    against(reply, scenario)
    assert seen[0].startswith(b"POST /v1/chat/completions ")
    assert b"authorization: bearer key" in seen[0].lower()
    assert b'"seed":7' in seen[0].replace(b" ", b"")


def test_http_stream_gives_chunks_until_done() -> None:
    events = (
        b': hello\n\ndata: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\ndata: {"choices":[{"index":0,"delta":{"content":"b"}}]}\n\n'
    )

    async def scenario(upstream: HttpUpstream) -> None:
        pieces, _ = await streamed(upstream, request("hello"))
        assert pieces == ["a", "b"]

    against(lambda _sent: http(events + b"data: [DONE]\n\ndata: nonsense\n\n"), scenario)


REFUSAL = b'{"error":{"message":"unknown key"}}'


@pytest.mark.parametrize(
    ("reply", "status", "body"),
    [
        pytest.param(http(REFUSAL, "401 Unauthorized"), 401, {"error": {"message": "unknown key"}}, id="refusal"),
        pytest.param(http(b"<html>", "503 Service Unavailable"), 503, None, id="refusal-without-json"),
        pytest.param(http(b"<html>"), 502, None, id="no-json"),
        pytest.param(http(b"[]"), 502, None, id="no-answer"),
        pytest.param(b"", 502, None, id="hangs-up"),
    ],
)
def test_http_complete_without_an_answer_is_a_typed_error(reply: bytes, status: int, body: Any) -> None:
    async def scenario(upstream: HttpUpstream) -> None:
        with pytest.raises(UpstreamError) as caught:
            await upstream.complete(request("hello"), None)
        assert (caught.value.status, caught.value.body) == (status, body)

    against(lambda _sent: reply, scenario)


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        pytest.param(http(REFUSAL, "429 Too Many Requests"), 429, id="refusal"),
        pytest.param(http(b"data: nonsense\n\n"), 502, id="no-json"),
        pytest.param(http(b'data: {"choices": 5}\n\n'), 502, id="no-chunk"),
        pytest.param(http(b"data: " + REFUSAL + b"\n\n"), 502, id="breaks-off"),
        pytest.param(b"", 502, id="hangs-up"),
    ],
)
def test_http_stream_without_an_answer_is_a_typed_error(reply: bytes, status: int) -> None:
    async def scenario(upstream: HttpUpstream) -> None:
        with pytest.raises(UpstreamError) as caught:
            await streamed(upstream, request("hello"))
        assert caught.value.status == status

    against(lambda _sent: reply, scenario)


def test_http_models_are_passed_on() -> None:
    async def scenario(upstream: HttpUpstream) -> None:
        assert await upstream.models(None) == {"data": []}

    against(lambda _sent: http(b'{"data":[]}'), scenario)
