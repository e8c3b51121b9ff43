"""What the gateway itself runs into: whoever asks is told, nothing of it leaks, and the log has it once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, final

import httpx
import pytest

from annexe import Host
from examples.gateway.app import make_app
from examples.gateway.contract import Chat, ChatAnswer, ChatChunk, ChatRequest, UsageReport
from examples.gateway.upstream import Upstream

ASKED = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@final
class Broken(Upstream):
    """A model's service with a fault that nobody expected."""

    async def models(self, authorization: str | None) -> dict[str, Any]:
        raise KeyError("secret")

    async def complete(self, request: ChatRequest, authorization: str | None) -> ChatAnswer:
        raise KeyError("secret")

    async def stream(self, request: ChatRequest, authorization: str | None) -> AsyncIterator[ChatChunk]:
        raise KeyError("secret")
        yield  # makes this a generator


def answers(tmp_path: Path, *asked: tuple[str, str, Any]) -> list[httpx.Response]:
    """Return what a gateway without plugins answers."""

    async def ask() -> list[httpx.Response]:
        (tmp_path / "plugins").mkdir()
        async with Host(plugins=tmp_path / "plugins", contracts=[Chat, UsageReport], state_dir=tmp_path / "state", control=False) as host:
            transport = httpx.ASGITransport(app=make_app(host, Broken()), raise_app_exceptions=True)
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
                return [await client.request(method, path, json=body) for method, path, body in asked]

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("asked", "logged"),
    [
        pytest.param(("GET", "/v1/models", None), "list of models failed", id="models"),
        pytest.param(("POST", "/v1/chat/completions", ASKED), "request r-", id="chat"),
        pytest.param(("POST", "/v1/chat/completions", ASKED | {"stream": True}), "request r-", id="chat, streamed"),
    ],
)
def test_what_nobody_expected_is_answered_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, asked: tuple[str, str, Any], logged: str
) -> None:
    (answer,) = answers(tmp_path, asked)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    (record,) = [record for record in caplog.records if record.name == "examples.gateway"]
    assert record.getMessage().startswith(logged) and record.exc_info is not None


def test_usage_without_its_plugin_is_unavailable(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (answer,) = answers(tmp_path, ("GET", "/v1/usage", None))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert "no plugin fills the extension point" in answer.json()["error"]["message"]
    assert not [record for record in caplog.records if record.name == "examples.gateway"]
