"""Where answers come from: any service that speaks OpenAI's API, over HTTP."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Any, final

import httpx
import msgspec

from examples.gateway.contract import ChatAnswer, ChatChunk, ChatRequest
from examples.gateway.shape import answer_from, chunk_from, request_to

__all__ = ["HttpUpstream", "Upstream", "UpstreamError"]

_CONNECT_TIMEOUT_S = 10.0
_SILENCE_TIMEOUT_S = 120.0
_DATA = "data:"
_DONE = "[DONE]"


class UpstreamError(Exception):
    """The service did not answer, or refused.

    Args:
        status: HTTP status for the client.
        body: What the service said, if it was JSON; else None.
    """

    def __init__(self, message: str, *, status: int = 502, body: Any = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = body


class Upstream(ABC):
    """What a gateway asks. ``authorization`` is the client's own header, passed on to the service and to nobody else."""

    @abstractmethod
    async def models(self, authorization: str | None) -> dict[str, Any]:
        """Return the list of models as OpenAI's API gives it."""

    @abstractmethod
    async def complete(self, request: ChatRequest, authorization: str | None) -> ChatAnswer:
        """Answer in one piece."""

    @abstractmethod
    def stream(self, request: ChatRequest, authorization: str | None) -> AsyncIterator[ChatChunk]:
        """Answer in chunks; refusals are raised at the first."""

    async def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Let go of connections."""


@final
class HttpUpstream(Upstream):
    """A service at a URL like ``https://api.openai.com/v1``."""

    def __init__(self, url: str) -> None:
        self._client = httpx.AsyncClient(base_url=url, timeout=httpx.Timeout(_SILENCE_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S))

    async def models(self, authorization: str | None) -> dict[str, Any]:
        body = await self._ask("GET", "models", authorization)
        if not isinstance(body, dict):
            raise UpstreamError("The upstream's list of models is no JSON object.")
        return body

    async def complete(self, request: ChatRequest, authorization: str | None) -> ChatAnswer:
        body = await self._ask("POST", "chat/completions", authorization, request_to(request))
        try:
            return answer_from(body)
        except msgspec.ValidationError as error:
            raise UpstreamError(f"The upstream's answer is no chat completion: {error}") from error

    async def stream(self, request: ChatRequest, authorization: str | None) -> AsyncIterator[ChatChunk]:
        try:
            async with self._client.stream(
                "POST", "chat/completions", headers=_headers(authorization), json=request_to(request)
            ) as response:
                if response.is_error:
                    await response.aread()
                    raise _refusal(response)
                async for line in response.aiter_lines():
                    if not line.startswith(_DATA):
                        continue
                    text = line.removeprefix(_DATA).strip()
                    if text == _DONE:
                        return
                    yield _chunk(text)
        except httpx.HTTPError as error:
            raise UpstreamError(f"The upstream did not answer: {error!r}") from error

    async def close(self) -> None:
        await self._client.aclose()

    async def _ask(self, method: str, path: str, authorization: str | None, body: Any = None) -> Any:
        try:
            response = await self._client.request(method, path, headers=_headers(authorization), json=body)
        except httpx.HTTPError as error:
            raise UpstreamError(f"The upstream did not answer: {error!r}") from error
        if response.is_error:
            raise _refusal(response)
        try:
            return msgspec.json.decode(response.content)
        except msgspec.DecodeError as error:
            raise UpstreamError(f"The upstream's answer is no JSON: {error}") from error


def _headers(authorization: str | None) -> dict[str, str]:
    return {"authorization": authorization} if authorization else {}


def _chunk(text: str) -> ChatChunk:
    try:
        body = msgspec.json.decode(text)
        if isinstance(body, dict) and "error" in body and "choices" not in body:
            raise UpstreamError("The upstream broke its answer off.", body=body)
        return chunk_from(body)
    except msgspec.DecodeError as error:  # a ValidationError is one, too
        raise UpstreamError(f"The upstream's chunk is none: {error}") from error


def _refusal(response: httpx.Response) -> UpstreamError:
    try:
        body = msgspec.json.decode(response.content)
    except msgspec.DecodeError:
        body = None
    message = f"The upstream answered with status {response.status_code}."
    return UpstreamError(message, status=response.status_code, body=body if isinstance(body, dict) and "error" in body else None)
