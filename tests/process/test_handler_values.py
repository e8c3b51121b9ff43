"""What a plugin's author gives and gets, in both codecs: real plugins, whose interpreter can or cannot load msgspec."""

# mypy: disable-error-code="empty-body"
from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from annexe import ExtensionPoint, HookSpec, hook
from annexe.errors import RejectedError
from annexe.testing import PluginRunner
from tests.process.hosts import Doc, T, connection_of, open_host, run, steps, write_plugin

pytestmark = pytest.mark.any_user

KINDS = [pytest.param("def", id="def"), pytest.param("async def", id="async def")]


@pytest.fixture(params=["msgpack", "json"])
def codec(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the codec that hosts and plugins of this test agree on."""
    if request.param == "json":
        monkeypatch.setattr("annexe.launch.runtime._is_compiled", lambda _: False)
    return str(request.param)


BAD_REJECTS = """
from datetime import timedelta
from decimal import Decimal

class Half(Reject):
    def __init__(self):
        pass

@plugin.filter("t.edit")
KIND edit(doc, ctx):
    if doc["text"] == "half":
        raise Half
    if doc["text"] == "changed":
        error = Reject("full", "no room")
        error.retry_after_s = object()
        raise error
    raise Reject("full", "no room", status=429, retry_after_s=eval(doc["text"]))
"""


@pytest.mark.parametrize("kind", KINDS)
def test_refusal_that_cannot_be_sent_fails_the_call_and_not_the_plugin(tmp_path: Path, codec: str, kind: str) -> None:
    write_plugin(tmp_path / "plugins", "alpha", BAD_REJECTS.replace("KIND", kind), hooks=["t.edit"])
    wrong = {
        "half": "Half: , which cannot be sent (AttributeError: ",
        "changed": "Reject: no room, which cannot be sent (CodecError: ",
        "float('inf')": "ValueError: Reject: retry_after_s: expected 0 to 31536000 seconds, got inf (at main.py:",
        "timedelta(seconds=2)": "TypeError: Reject: retry_after_s: expected a number of seconds or None, got datetime.timedelta(",
        "Decimal(2)": "TypeError: Reject: retry_after_s: expected a number of seconds or None, got Decimal('2') (at main.py:",
    }

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            assert connection_of(host, "alpha").codec.name == codec
            pid = host.plugin("alpha").pid
            for text, reason in wrong.items():
                async with host.request(id=text) as request:
                    assert await request.hooks(T).edit(Doc(text)) == Doc(text)  # the failure policy is open
                assert steps(host, text) == [("alpha", "failed")]
                assert reason in host.explain(text)["steps"][0]["reason"]
                with pytest.raises(RejectedError) as rejected:
                    await host.hooks(T).edit(Doc("2"))
                assert (rejected.value.status, rejected.value.retry_after_s) == (429, 2)
            assert host.plugin("alpha").pid == pid

    run(scenario)


@dataclasses.dataclass
class Part:
    text: str
    audio: bytes = b""


class V(HookSpec, name="v", revision=1):
    @hook.filter
    async def voice(self, audio: bytes) -> bytes: ...

    @hook.filter
    async def parts(self, parts: list[Part]) -> list[Part]: ...

    @hook.first_result
    async def anything(self, what: str) -> Any | None: ...

    @hook.stream_filter
    def chunks(self, chunks: AsyncIterator[Part], first: Part, by: str) -> AsyncIterator[Part]: ...


class Speech(ExtensionPoint, name="speech", revision=1):
    def louder(self, audio: AsyncIterator[bytes], first: Part) -> AsyncIterator[bytes]: ...
    async def length(self, audio: AsyncIterator[bytes], first: Part) -> int: ...


class Recorder:
    """The application's own functions."""

    name: ClassVar[str] = "recorder"

    def __init__(self) -> None:
        self.taken = b""

    async def take(self, audio: bytes) -> None:
        self.taken += audio


VALUES = """
import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

@dataclass
class Part:
    text: str
    audio: bytes = b""

@plugin.filter("v.voice")
KIND voice(audio: bytes, ctx) -> bytes:
    assert type(audio) is bytes
    AWAIT ctx.cap("recorder").take(audio)
    return audio[::-1]

@plugin.filter("v.parts")
KIND parts(parts: list[Part]) -> list[Part]:
    return [Part(part.text.upper(), part.audio * 2) for part in parts]

@plugin.first_result("v.anything")
KIND anything(what, ctx):
    try:
        if what == "kv":
            AWAIT ctx.kv.set("bytes", b"bytes")
        if what == "state":
            ctx.state["bytes"] = b"bytes"
    except Exception as error:
        return str(error)
    return "kept"

@plugin.stream_filter("v.chunks")
KIND chunks(chunks: ITERATOR[Part], first: Part, by: str, ctx) -> ITERATOR[Part]:
    assert type(first) is Part and by == "-", (first, by)
    yield first
    EACH chunk in chunks:
        yield Part(chunk.text + by, chunk.audio + b"!")

@plugin.extension("speech")
class Speech:
    KIND louder(self, audio: ITERATOR[bytes], first: Part, ctx) -> ITERATOR[bytes]:
        yield first.audio
        EACH part in audio:
            yield part.upper()

    KIND length(self, audio: ITERATOR[bytes], first: Part) -> int:
        total = len(first.audio)
        EACH part in audio:
            assert type(part) is bytes
            total += len(part)
        return total
"""
HOOKS = ["v.voice", "v.parts", "v.anything", "v.chunks"]
MORE = '[provides.extensions]\nspeech = { revision = 1 }\n[permissions]\nkv = {}\ncapabilities = ["recorder"]\n'
SOUND = bytes(range(256))


def values_plugin(root: Path, kind: str, *, head: str = "") -> Path:
    words = {"KIND": kind, "AWAIT ": "", "ITERATOR": "Iterator", "EACH": "for"}
    if kind == "async def":
        words |= {"AWAIT ": "await ", "ITERATOR": "AsyncIterator", "EACH": "async for"}
    code = VALUES
    for word, meant in words.items():
        code = code.replace(word, meant)
    folder = write_plugin(root / "plugins", "alpha", code, hooks=HOOKS, extra=MORE)
    main = folder / "main.py"
    main.write_text(head + main.read_text())
    return folder


async def source(*items: Any) -> AsyncIterator[Any]:
    for item in items:
        yield item


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", ["", "from __future__ import annotations\n"], ids=["types", "strings"])
def test_annotated_handler_gets_dataclasses_and_bytes_in_either_codec(tmp_path: Path, codec: str, kind: str, head: str) -> None:
    values_plugin(tmp_path, kind, head=head)

    async def scenario() -> None:
        recorder = Recorder()
        async with open_host(tmp_path, contracts=[V, Speech], capabilities=[recorder]) as host:
            assert connection_of(host, "alpha").codec.name == codec
            hooks, speech = host.hooks(V), host.extension(Speech)
            assert await hooks.voice(SOUND) == SOUND[::-1]
            assert recorder.taken == SOUND
            assert await hooks.voice(b"") == b""
            assert await hooks.parts([Part("a", b"x"), Part("b")]) == [Part("A", b"xx"), Part("B")]
            passed = [part async for part in hooks.chunks(source(Part("a", b"x"), Part("b")), Part("first", SOUND), "-")]
            assert passed == [Part("first", SOUND), Part("a-", b"x!"), Part("b-", b"!")]
            assert [part async for part in speech.louder(source(b"a", SOUND), Part("", b"0"))] == [b"0", b"A", SOUND.upper()]
            assert await speech.length(source(b"ab", SOUND), Part("", b"cd")) == 4 + len(SOUND)

    run(scenario)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_where_no_contract_declares_them_are_refused_in_either_codec(tmp_path: Path, codec: str, kind: str) -> None:
    values_plugin(tmp_path, kind)

    async def scenario() -> None:
        async with open_host(tmp_path, contracts=[V, Speech], capabilities=[Recorder()]) as host:
            assert connection_of(host, "alpha").codec.name == codec
            assert "bytes" in (await host.hooks(V).anything("kv") or "")
            async with host.request(id="r") as request:
                assert await request.hooks(V).anything("state") is None
            assert "bytes" in host.explain("r")["steps"][0]["reason"]

    run(scenario)


@pytest.mark.parametrize("kind", KINDS)
def test_runner_gives_an_annotated_handler_the_same(tmp_path: Path, kind: str) -> None:
    folder = values_plugin(tmp_path, kind)
    recorder = Recorder()
    with PluginRunner(folder, capabilities=[recorder]) as runner:
        assert runner.call("v.voice", SOUND) == SOUND[::-1]
        assert recorder.taken == SOUND
        assert runner.call("v.parts", [Part("a", b"x")]) == [{"text": "A", "audio": b"xx"}]
        passed = runner.stream("v.chunks", [Part("a", b"x")], Part("first", SOUND), "-")
        assert passed == [{"text": "first", "audio": SOUND}, {"text": "a-", "audio": b"x!"}]
        speech = runner.extension("speech")
        assert speech.louder(iter([b"a"]), Part("", b"0")) == [b"0", b"A"]
        assert speech.length(iter([b"ab"]), Part("", b"cd")) == 4
