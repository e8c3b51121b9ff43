from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

import msgspec
import pytest

from annexe.channel import Greeting, Provided, activate, hello
from annexe.channel.handshake import MAX_ACTIVATION_BYTES, ProvidedHook
from annexe.errors import ActivationError, CallTimeoutError, HandshakeError
from annexe_sdk.frames import pack_frame
from annexe_sdk.wire import NOTIFICATION, RESPONSE
from tests.unit.channel.peer import Ends, ends

GREETING = {"protocol": 1, "codec": "msgpack", "sdk": {"name": "x"}}


def greet(both: Ends, **more: Any) -> asyncio.Task[Greeting]:
    deadline = monotonic() + more.pop("deadline_s", 5.0)
    return asyncio.create_task(
        hello(both.connection, host={"name": "shop"}, plugin={"id": "sample"}, deadline=deadline, **more), name="hello"
    )


def test_hello_tells_who_is_there_and_what_holds() -> None:
    async def scenario() -> None:
        async with ends(greeted=False, concurrency=3, streams=5) as both:
            task = greet(both, codecs=("json",))
            message = await both.peer.called("annexe.hello")
            assert message[1] == 1
            assert message[3] == {
                "protocols": [1],
                "codecs": ["json"],
                "host": {"name": "shop"},
                "plugin": {"id": "sample"},
                "limits": {"max_frame_bytes": 10 * 1024 * 1024, "concurrency": 3, "streams": 5},
                "arenas": None,
            }
            await both.peer.answer(1, GREETING | {"codec": "json", "unknown": 1})
            assert await task == Greeting(protocol=1, codec="json", sdk={"name": "x"})
            assert both.connection.codec.name == "json"

    asyncio.run(scenario())


def test_what_comes_right_behind_the_answer_to_hello_is_welcome() -> None:
    async def scenario() -> None:
        async with ends(greeted=False) as both:
            task = greet(both)
            await both.peer.called("annexe.hello")
            answer = b'[1,1,null,{"protocol":1,"codec":"json"},{}]'
            await both.peer.raw(pack_frame(answer) + pack_frame(b'[2,"log",{"message":"loading"},{}]'))
            await task
            await both.works()
            assert both.notified == [("log", {"message": "loading"}, None)]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("answer", "data", "part"),
    [
        (GREETING | {"protocol": 2}, {"expected": [1], "actual": 2}, "upgrade the host"),
        (GREETING | {"protocol": 0}, {"expected": [1], "actual": 0}, "upgrade the plugin's SDK"),
        (GREETING, {"expected": ["json"], "actual": "msgpack"}, "chose codec 'msgpack'"),
        (GREETING | {"codec": "cbor"}, {}, "cbor"),
        ([1], {}, "array"),
        (None, {}, "null"),
    ],
)
def test_a_wrong_answer_to_hello_says_what_and_who(answer: Any, data: dict[str, Any], part: str) -> None:
    async def scenario() -> None:
        async with ends(greeted=False) as both:
            task = greet(both, codecs=("json",))
            await both.peer.called("annexe.hello")
            await both.peer.answer(1, answer)
            with pytest.raises(HandshakeError) as caught:
                await task
            assert (caught.value.plugin, dict(caught.value.data)) == ("sample", data)
            assert part in caught.value.message

    asyncio.run(scenario())


def test_no_answer_to_hello_is_a_handshake_that_failed() -> None:
    async def scenario() -> None:
        async with ends(greeted=False) as both:
            with pytest.raises(HandshakeError) as caught:
                await greet(both, deadline_s=0.02)
            assert caught.value.plugin == "sample"
            assert isinstance(caught.value.__cause__, CallTimeoutError)

    asyncio.run(scenario())


def activated(both: Ends, deadline_s: float = 5.0) -> asyncio.Task[Provided]:
    greeting = Greeting(protocol=1, codec="msgpack")
    params = {"config": {"a": 1}, "grants": ["kv"], "data_dir": None, "log_level": "debug"}
    return asyncio.create_task(activate(both.connection, greeting, params, deadline=monotonic() + deadline_s))


def test_after_activation_the_host_speaks_the_codec_that_was_chosen() -> None:
    async def scenario() -> None:
        async with ends() as both:
            task = activated(both)
            message = await both.peer.called("annexe.activate")
            assert message[3] == {"config": {"a": 1}, "grants": ["kv"], "data_dir": None, "log_level": "debug"}
            await both.peer.send(4, 1, {"fraction": 0.5}, {})  # progress
            await both.peer.answer(1, {"hooks": {"a.b": {"kind": "filter"}}, "unknown": 1})
            assert await task == Provided(hooks={"a.b": ProvidedHook(kind="filter")})
            assert both.connection.codec.name == "msgpack"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "error",
    [
        {"code": "activation-failed", "message": "no model", "data": {"at": "a.py:3"}},
        {"code": "rejected", "message": "no model", "data": None},
    ],
)
def test_a_plugin_that_does_not_activate_says_why(error: dict[str, Any]) -> None:
    async def scenario() -> None:
        async with ends() as both:
            task = activated(both)
            await both.peer.called("annexe.activate")
            await both.peer.send(RESPONSE, 1, error, None, {})
            with pytest.raises(ActivationError, match="no model") as caught:
                await task
            assert caught.value.plugin == "sample"
            assert both.connection.codec.name == "json"

    asyncio.run(scenario())


@pytest.mark.parametrize("result", [b"5", b'{"hooks":[]}', b'{"hooks":{"a":{"at":"\xff"}}}', b'{"hooks":' + b"[" * 50_000])
def test_nonsense_for_an_answer_is_an_activation_that_failed(result: bytes) -> None:
    async def scenario() -> None:
        async with ends() as both:
            task = activated(both)
            await both.peer.called("annexe.activate")
            await both.peer.raw(pack_frame(b"[1,1,null," + result + b",{}]"))
            with pytest.raises(ActivationError):
                await task

    asyncio.run(scenario())


def test_messages_of_every_kind_are_refused_before_hello_is_answered() -> None:
    async def scenario() -> None:
        async with ends(greeted=False) as both:
            greet(both).add_done_callback(lambda task: task.exception())
            await both.peer.called("annexe.hello")
            await both.peer.send(NOTIFICATION, "log", {}, {})
            assert await both.broken_rule() == "before-hello"
            await asyncio.sleep(0)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"hooks": {}, "topics": {"a": [{}] * (MAX_ACTIVATION_BYTES // 3)}}, "expected at most 262144"),
        ({"hooks": {"a.b": {"kind": "filter", "at": "A" * MAX_ACTIVATION_BYTES}}}, "expected at most 262144"),
        ({"hooks": {"a.b": {"kind": ["filter"]}}}, "Expected `str | null`"),
        ({"extensions": {"a": {"methods": ["b"]}}}, "Expected `object`"),
    ],
)
def test_an_answer_to_activate_that_is_too_large_or_of_another_form_is_refused(answer: Any, told: str) -> None:
    async def scenario() -> None:
        async with ends() as both:
            task = activated(both)
            await both.peer.called("annexe.activate")
            await both.peer.answer(1, answer)
            with pytest.raises(ActivationError, match=told):
                await task

    asyncio.run(scenario())


def test_what_the_host_has_no_use_for_in_the_answer_to_activate_is_not_built() -> None:
    async def scenario() -> None:
        async with ends() as both:
            task = activated(both)
            await both.peer.called("annexe.activate")
            await both.peer.answer(1, {"hooks": {"a.b": {"kind": "filter", "more": [{}] * 9}}, "topics": {"a": {"b": [{}] * 9}}})
            assert await task == Provided(hooks={"a.b": ProvidedHook(kind="filter")})

    asyncio.run(scenario())


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_messagepack_is_read_where_it_was_chosen_and_ends_the_connection_elsewhere(codec: str) -> None:
    async def scenario() -> None:
        async with ends(greeted=False) as both:
            task = greet(both)
            await both.peer.called("annexe.hello")
            await both.peer.answer(1, GREETING | {"codec": codec})
            await task
            await both.peer.raw(pack_frame(msgspec.msgpack.encode((2, "log", {"message": "hi"}, {}))))
            if codec == "json":
                assert await both.broken_rule() == "codec-not-agreed"
            else:
                await both.works()
                assert both.notified == [("log", {"message": "hi"}, None)]

    asyncio.run(scenario())
