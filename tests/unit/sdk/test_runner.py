from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import annexe_sdk
from annexe_sdk import CallCancelled, CallFailed, Context, PermissionDenied, Plugin, Reject, Respond
from annexe_sdk.frames import pack_frame
from annexe_sdk.wire import CANCEL, CREDIT, ITEM, REQUEST, RESPONSE
from tests.unit.sdk.host_end import HostEnd, served

HELLO = {"protocols": [1], "codecs": ["msgpack", "json"], "limits": {"max_frame_bytes": 100_000, "concurrency": 1, "streams": 8}}


def shout() -> Plugin:
    plugin = Plugin()

    @plugin.filter("chat.on_text")
    def on_text(text: str) -> str:
        return text.upper()

    return plugin


# Life.


def test_hello_is_answered_before_the_plugin_is_loaded() -> None:
    with served(shout(), activated=False) as host:
        assert host.result("annexe.hello", HELLO) == {
            "protocol": 1,
            "codec": "json",
            "sdk": {"name": "annexe-sdk", "language": "python", "version": annexe_sdk.__version__},
        }
        at = f"test_runner.py:{shout.__code__.co_firstlineno + 3}"
        assert host.activate() == {
            "hooks": {"chat.on_text": {"kind": "filter", "at": at}},
            "extensions": {},
            "services": {},
            "events": {},
            "watches": {},
            "state": {},
        }


def test_no_common_protocol_is_refused_with_both_ranges() -> None:
    with served(shout(), activated=False) as host:
        error = host.error("annexe.hello", HELLO | {"protocols": [7, 8]})
        assert (error["code"], error["data"]) == ("protocol-unsupported", {"protocols": [1]})
        assert "[1]" in error["message"]
        assert "[7, 8]" in error["message"]


def test_msgpack_is_spoken_after_activation_and_json_still_understood() -> None:
    with served(shout(), codecs=("msgpack", "json")) as host:
        host.call("hook.chat.on_text", ["a"])
        assert host.read_frame()[0] == 0x95
        host.is_msgpack = False
        assert host.result("hook.chat.on_text", ["b"]) == "B"


def test_a_plugin_that_does_not_load_says_why_and_where(capsys: pytest.CaptureFixture[str]) -> None:
    plugin = Plugin()

    @plugin.on_activate
    def start() -> None:
        raise LookupError("no model")

    with served(plugin, activated=False) as host:
        host.hello()
        error = host.error("annexe.activate", {"config": {}, "grants": []})
    assert (error["code"], error["data"]["type"]) == ("activation-failed", "LookupError")
    assert error["message"].startswith("LookupError: no model (at test_runner.py:")
    assert "LookupError: no model" in capsys.readouterr().err


def test_life_cycle_functions_may_use_the_store_beside_streams() -> None:
    plugin = Plugin()

    @plugin.on_activate
    def start(ctx: Context) -> None:
        ctx.progress(0.5, "half")
        assert ctx.kv.get("seen") == 4

    @plugin.on_configure
    def configure(ctx: Context) -> str:
        ctx.kv.set("config", ctx.config)
        return "restart"

    @plugin.stream_filter("chat.on_chunks")
    def on_chunks(chunks: Iterator[str]) -> Iterator[str]:
        yield from chunks

    with served(plugin, activated=False) as host:
        host.hello()
        ident = host.call("annexe.activate", {"config": {}, "grants": []})
        assert host.read() == [ITEM, ident, {"fraction": 0.5, "message": "half"}, {}]
        host.answer(host.asked("kv.get"), 4)
        assert host.answered(ident)[2] is None
        ident = host.call("annexe.configure", {"config": {"a": 1}})
        request = host.asked("kv.set")
        assert request[3] == {"key": "config", "value": {"a": 1}, "ttl_s": None}
        host.answer(request, None)
        assert host.answered(ident)[3] == {"restart": True}
        stream = host.call("hook.chat.on_chunks", [], stream="both")
        host.item(stream, "still")
        assert host.read()[:3] == [ITEM, stream, "still"]


def test_shutdown_runs_the_plugins_functions_and_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    plugin, ran = shout(), []

    @plugin.on_shutdown
    def broken() -> None:
        raise LookupError("while stopping")

    @plugin.on_shutdown
    def stop(ctx: Context) -> None:
        ran.append(ctx.config)

    with served(plugin) as host:
        assert host.result("annexe.shutdown", None) is None
        with pytest.raises(EOFError):
            host.read()
    assert ran == [{}]
    assert "while stopping" in capsys.readouterr().err


def test_an_unknown_method_is_answered() -> None:
    with served(shout()) as host:
        assert host.error("hook.chat.nothing", [])["code"] == "method-not-found"
        assert host.error("annexe.nothing", None)["code"] == "method-not-found"
        assert host.error("hook.chat.nothing", [], stream="out")["code"] == "method-not-found"


@pytest.mark.parametrize(("message", "rule"), [([0, 2, "a", [], {}], "bad-id"), ([9], "unknown-kind"), ([3, 99], "unknown-id")])
def test_a_host_that_breaks_the_protocol_ends_the_plugin_which_says_why(
    message: list[Any], rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(shout()) as host:
        host.send(*message)
        with pytest.raises(EOFError):
            host.read()
    assert f"the host broke the protocol ({rule})" in capsys.readouterr().err


# Answers.


def answering(answer: Any) -> Plugin:
    plugin = Plugin()

    @plugin.filter("chat.on_text")
    def on_text(text: str, ctx: Context) -> Any:
        return answer(text, ctx)

    return plugin


def raise_(error: BaseException) -> Any:
    raise error


def test_unchanged_is_an_outcome_without_a_value() -> None:
    with served(answering(lambda text, ctx: ctx.unchanged)) as host:
        assert host.answered(host.call("hook.chat.on_text", ["a"]))[2:] == [None, None, {"outcome": "unchanged"}]


def test_respond_is_an_outcome_with_the_answer() -> None:
    with served(answering(lambda text, ctx: raise_(Respond({"a": 1})))) as host:
        assert host.answered(host.call("hook.chat.on_text", ["a"]))[2:] == [None, {"a": 1}, {"outcome": "respond"}]


def test_a_rejection_carries_code_status_and_when_to_try_again() -> None:
    with served(answering(lambda text, ctx: raise_(Reject("rate-limited", "slow down", status=429, retry_after_s=2.5)))) as host:
        assert host.error("hook.chat.on_text", ["a"]) == {
            "code": "rejected",
            "message": "slow down",
            "data": {"code": "rate-limited", "message": "slow down", "status": 429, "retry_after_s": 2.5},
        }


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class HalfReject(Reject):
    def __init__(self) -> None: ...


class HalfRespond(Respond):
    def __init__(self) -> None: ...


def changed_later(**attributes: Any) -> Reject:
    """Return a refusal whose attributes were set after it was checked."""
    error = Reject("full", "no room")
    vars(error).update(attributes)
    return error


@pytest.mark.parametrize("codecs", [("json",), ("msgpack", "json")], ids=["json", "msgpack"])
@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
@pytest.mark.parametrize(
    "error",
    [
        pytest.param(HalfReject(), id="half a reject"),
        pytest.param(HalfRespond(), id="half a respond"),
        pytest.param(changed_later(code=Unspeakable()), id="code"),
        pytest.param(changed_later(status=1j), id="status"),
        pytest.param(changed_later(retry_after_s=object()), id="retry_after_s"),
    ],
)
def test_an_answer_raised_that_cannot_be_sent_is_a_failure_of_the_handler(
    codecs: tuple[str, ...], is_async: bool, error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = Plugin()

    async def on_text_async(text: str) -> Any:
        raise error

    plugin.filter("chat.on_text")(on_text_async if is_async else lambda text: raise_(error))
    with served(plugin, codecs=codecs) as host:
        for _ in range(2):
            answer = host.error("hook.chat.on_text", ["a"])
            assert (answer["code"], answer["data"]["type"]) == ("plugin-raised", type(error).__name__)
            assert answer["data"]["at"].startswith("test_runner.py:")
            assert ", which cannot be sent (" in answer["message"]


def test_a_rejection_whose_text_cannot_be_sent_is_one_all_the_same() -> None:
    with served(answering(lambda text, ctx: raise_(Reject("full\ud800", "x" * 5000 + "\ud800", status=409)))) as host:
        answer = host.error("hook.chat.on_text", ["a"])
    assert (answer["code"], answer["data"]["code"], answer["data"]["status"]) == ("rejected", "full\\ud800", 409)
    assert answer["message"] == answer["data"]["message"] == "x" * 4096 + "…"


def test_an_error_whose_facts_cannot_be_sent_is_sent_without_them(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(compile("def lose():\n    raise LookupError('lost')", "odd\udcff.py", "exec"), names)  # as a file of no UTF-8 name is called
    with served(answering(lambda text, ctx: names["lose"]())) as host:
        answer = host.error("hook.chat.on_text", ["a"])
        assert (answer["code"], answer["data"]) == ("plugin-raised", None)
        assert answer["message"] == "LookupError: lost (at odd\\udcff.py:2)"


def code_at(path: str, code: str) -> Any:
    """Return the function ``run`` of a module that was read from there."""
    names: dict[str, Any] = {}
    exec(compile(code, path, "exec"), names)
    return names["run"]


FAILS = "def run(text, ctx):\n    raise LookupError"
OPENS = "from pathlib import Path\ndef run(text, ctx):\n    Path('/no/such').read_text()"
PACKAGE = code_at("/plugins/a/.venv/lib/python3.13/site-packages/slugs.py", FAILS)


@pytest.mark.parametrize(
    ("run", "at"),
    [
        pytest.param(code_at("/plugins/a/mine.py", OPENS), "mine.py:3", id="standard-library"),
        pytest.param(lambda text, ctx: PACKAGE(text, ctx), "test_runner.py:", id="package"),
        pytest.param(PACKAGE, "slugs.py:2", id="nothing-of-its-own"),
    ],
)
def test_an_error_is_told_at_the_plugins_own_line(run: Any, at: str, capsys: pytest.CaptureFixture[str]) -> None:
    plugin = Plugin()
    plugin.filter("chat.on_text")(run)
    with served(plugin) as host:
        answer = host.error("hook.chat.on_text", ["a"])
    assert answer["data"]["at"].startswith(at)
    assert f"(at {at}" in answer["message"]


def test_state_is_sent_back_when_it_changed() -> None:
    def change(text: str, ctx: Context) -> str:
        ctx.state["new"] = [1]
        ctx.state["list"].append(2)
        del ctx.state["gone"]
        return text

    with served(answering(change)) as host:
        message = host.answered(host.call("hook.chat.on_text", ["a"], state={"list": [1], "gone": 1, "same": {"a": 1}}))
        assert message[4] == {"state": {"new": [1], "list": [1, 2], "gone": None}}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (LookupError("lost"), "LookupError"),
        (SystemExit(1), "SystemExit"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (Unspeakable(), "Unspeakable"),
        (ValueError("\ud800" + "x" * 10_000), "ValueError"),
        (RecursionError(), "RecursionError"),
    ],
)
def test_whatever_a_handler_raises_is_answered(error: BaseException, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with served(answering(lambda text, ctx: raise_(error))) as host:
        answer = host.error("hook.chat.on_text", ["a"])
        assert (answer["code"], answer["data"]["type"]) == ("plugin-raised", kind)
        assert answer["data"]["at"].startswith("test_runner.py:")
        assert len(answer["message"]) < 5000
        assert host.error("hook.chat.on_text", ["a"])["code"] == "plugin-raised"
    assert capsys.readouterr().err


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}, {b"bytes": 1}, "\ud800", {"deep": None}, "x" * 2_000_000])
def test_a_result_that_cannot_be_sent_names_the_handler(value: Any) -> None:
    if value == {"deep": None}:
        value["deep"] = value
    with served(answering(lambda text, ctx: value)) as host:
        error = host.error("hook.chat.on_text", ["a"])
        assert error["code"] == "invalid-result"
        assert error["message"].startswith("test_runner.py:")
        assert error["data"]["at"].startswith("test_runner.py:")


def test_broken_params_fail_their_call_alone() -> None:
    with served(shout()) as host:
        for body in (b'[0,%d,"hook.chat.on_text",["\xff"],{}]', b'[0,%d,"hook.chat.on_text",[nope],{}]', b'[0,%d,"a",' + b"[" * 100_000):
            host._last_id += 2
            frame = body % host._last_id
            host.sock.sendall(len(frame).to_bytes(4, "big") + frame)
            assert host.answered(host._last_id)[2]["code"] == "invalid-params"
        assert host.result("hook.chat.on_text", ["a"]) == "A"


def test_wrong_params_are_the_handlers_error(capsys: pytest.CaptureFixture[str]) -> None:
    with served(shout()) as host:
        assert host.error("hook.chat.on_text", ["a", "b"])["data"]["type"] == "TypeError"
        assert host.error("hook.chat.on_text", 5)["data"]["type"] == "TypeError"
    assert "TypeError" in capsys.readouterr().err


# Logs.


def test_log_lines_are_tied_to_the_call_and_never_fail() -> None:
    cyclic: dict[str, Any] = {}
    cyclic["self"] = cyclic

    class Mute:
        def __repr__(self) -> str:
            raise RuntimeError("nothing to show")

    def talk(text: str, ctx: Context) -> Any:
        ctx.log.info("hi", a=1)
        ctx.log.warning("odd", thing={1}, number=float("nan"), name="\ud800")
        ctx.log.error("cyclic", value=cyclic)
        ctx.log.error("mute", value=Mute())
        ctx.log.debug("huge", value="x" * 2_000_000)
        return ctx.unchanged

    with served(answering(talk)) as host:
        ident = host.call("hook.chat.on_text", ["a"])
        assert host.answered(ident)[2:] == [None, None, {"outcome": "unchanged"}]
    assert host.logs[0] == {"level": "info", "message": "hi", "fields": {"a": 1}, "parent": ident}
    assert host.logs[1]["fields"] == {"thing": "{1}", "number": "nan", "name": "\\ud800"}
    assert [line["message"] for line in host.logs] == ["hi", "odd"]


# Asking the host.


def test_a_handler_that_asks_names_its_call_and_gets_the_answer() -> None:
    with served(answering(lambda text, ctx: [ctx.kv.get("a", "none"), ctx.cap("orders").find(7), ctx.cap("orders").find(id=7)])) as host:
        ident = host.call("hook.chat.on_text", ["a"])
        request = host.asked("kv.get")
        assert request[3:] == [{"key": "a"}, {"parent": ident}]
        host.answer(request, None)
        request = host.asked("cap.orders.find")
        assert request[3] == [7]
        host.answer(request, "first")
        request = host.asked("cap.orders.find")
        assert request[3] == {"id": 7}
        host.answer(request, "second")
        assert host.answered(ident)[3] == ["none", "first", "second"]


def test_an_error_of_the_hosts_is_raised_in_the_handler() -> None:
    def ask(text: str, ctx: Context) -> Any:
        try:
            ctx.kv.get("a")
        except PermissionDenied as error:
            return [error.code, error.message, error.data]

    with served(answering(ask)) as host:
        ident = host.call("hook.chat.on_text", ["a"])
        request = host.asked("kv.get")
        host.send(RESPONSE, request[1], {"code": "permission-denied", "message": "no", "data": {"permission": "kv"}}, None, {})
        assert host.answered(ident)[3] == ["permission-denied", "no", {"permission": "kv"}]


def test_an_answer_that_cannot_be_decoded_fails_the_request_alone() -> None:
    def ask(text: str, ctx: Context) -> Any:
        try:
            ctx.kv.get("a")
        except CallFailed as error:
            return error.code

    with served(answering(ask)) as host:
        ident = host.call("hook.chat.on_text", ["a"])
        frame = b"[1,%d,null,{nope},{}]" % host.asked("kv.get")[1]
        host.sock.sendall(len(frame).to_bytes(4, "big") + frame)
        assert host.answered(ident)[3] == "invalid-result"


def test_pings_are_answered_while_the_only_thread_waits() -> None:
    with served(answering(lambda text, ctx: ctx.kv.get("a"))) as host:
        ident = host.call("hook.chat.on_text", ["a"])
        request = host.asked("kv.get")
        assert host.result("annexe.ping", None) is None
        host.answer(request, 1)
        assert host.answered(ident)[3] == 1


def test_a_call_that_serves_the_waiting_one_runs_at_once_on_its_thread() -> None:
    def deepen(text: str, ctx: Context) -> Any:
        return f"{text}:{ctx.kv.get(text)}:{threading.get_ident()}" if text != "leaf" else f"leaf:{threading.get_ident()}"

    with served(answering(deepen)) as host:
        outer = host.call("hook.chat.on_text", ["outer"])
        first = host.asked("kv.get")
        other = host.call("hook.chat.on_text", ["leaf"])  # not nested: waits for the slot
        inner = host.call("hook.chat.on_text", ["inner"], parent=outer)
        second = host.asked("kv.get")
        assert second[4] == {"parent": inner}
        leaf = host.call("hook.chat.on_text", ["leaf"], parent=inner)
        thread = host.answered(leaf)[3].rpartition(":")[2]
        host.answer(second, "in")
        assert host.answered(inner)[3] == f"inner:in:{thread}"
        host.answer(first, "out")
        assert host.answered(outer)[3] == f"outer:out:{thread}"
        host.answered(other)


# Cancellation and concurrency.


def test_a_call_cancelled_before_it_starts_is_answered_and_never_run() -> None:
    ran = []

    def note(text: str, ctx: Context) -> Any:
        ran.append(text)
        return ctx.kv.get("a") if text == "first" else text

    with served(answering(note)) as host:
        first, second = host.call("hook.chat.on_text", ["first"]), host.call("hook.chat.on_text", ["second"])
        request = host.asked("kv.get")
        host.cancel(second)
        assert host.answered(second)[2]["code"] == "cancelled"
        host.answer(request, 1)
        host.answered(first)
    assert ran == ["first"]


def test_a_cancelled_handler_can_see_it() -> None:
    def ask(text: str, ctx: Context) -> Any:
        try:
            ctx.kv.get("a")
        except CallCancelled:
            return ctx.cancelled

    with served(answering(ask)) as host:
        ident = host.call("hook.chat.on_text", ["a"])
        request = host.asked("kv.get")
        host.cancel(ident)
        host.send(RESPONSE, request[1], {"code": "cancelled", "message": "over", "data": None}, None, {})
        assert host.answered(ident)[3] is True


@pytest.mark.parametrize("concurrency", [2, 4])
def test_as_many_calls_as_there_are_slots_run_at_once_and_no_more(concurrency: int) -> None:
    gate, started = threading.Event(), threading.Semaphore(0)
    running: set[str] = set()

    def hold(text: str, ctx: Context) -> str:
        running.add(text)
        started.release()
        gate.wait(5)
        return text

    with served(answering(hold), concurrency=concurrency) as host:
        idents = []
        for number in range(concurrency):
            # One after the other: each must be started while those before it run.
            idents.append(host.call("hook.chat.on_text", [str(number)]))
            assert started.acquire(timeout=5)
        idents.append(host.call("hook.chat.on_text", ["one more"]))
        time.sleep(0.05)
        assert running == {str(number) for number in range(concurrency)}
        gate.set()
        assert {host.read()[1] for _ in idents} == set(idents)


def test_thousands_of_calls_from_many_slots_are_each_answered_once() -> None:
    with served(answering(lambda text, ctx: text if len(text) % 3 else ctx.kv.get(text)), concurrency=4) as host:
        expected = {}
        waiting: list[list[Any]] = []
        for number in range(2000):
            text = "x" * (number % 7) + str(number)
            expected[host.call("hook.chat.on_text", [text])] = text
        while expected:
            message = host.read()
            if message[0] == REQUEST:
                waiting.append(message)
                if len(waiting) >= 3 or len(expected) < 10:
                    while waiting:
                        request = waiting.pop()
                        host.answer(request, request[3]["key"])
            else:
                assert message[3] == expected.pop(message[1])


def test_calls_far_larger_than_a_read_are_taken_in() -> None:
    with served(answering(lambda text, ctx: len(text))) as host:
        # More full reads in a row than Python allows calls within calls.
        text = "x" * 900_000
        writer = threading.Thread(target=lambda: [host.call("hook.chat.on_text", [text]) for _ in range(120)])
        writer.start()
        assert [host.read()[3] for _ in range(120)] == [900_000] * 120
        writer.join()


# Streams.


def streaming(function: Any) -> Plugin:
    plugin = Plugin()
    plugin.stream_filter("chat.on_chunks")(function)
    return plugin


def upper(chunks: Iterator[str], suffix: str, ctx: Context) -> Iterator[str]:
    for chunk in chunks:
        yield chunk.upper() + suffix


async def upper_async(chunks: AsyncIterator[str], suffix: str, ctx: Context) -> AsyncIterator[str]:
    async for chunk in chunks:
        yield chunk.upper() + suffix


@pytest.mark.parametrize("function", [upper, upper_async])
def test_the_stream_comes_first_and_items_flow_both_ways(function: Any) -> None:
    with served(streaming(function)) as host:
        ident = host.call("hook.chat.on_chunks", ["!"], stream="both")
        host.item(ident, "a")
        assert host.read() == [ITEM, ident, "A!", {}]
        # Waiting for more, it acknowledges what it took: the length of the item's body.
        assert host.read() == [CREDIT, ident, len(b'[4, 5, "a", {}]')]
        host.end(ident)
        assert host.answered(ident)[2:] == [None, None, {}]


@pytest.mark.parametrize("function", [upper, upper_async])
def test_no_item_is_sent_beyond_the_credit(function: Any) -> None:
    with served(streaming(function)) as host:
        ident = host.call("hook.chat.on_chunks", [""], stream="both")
        for _ in range(3):
            host.item(ident, "x" * 30_000)
        host.end(ident)
        got: list[list[Any]] = []
        while sum(message[0] == ITEM for message in got) < 2:
            got.append(host.read())
        host.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            while True:
                message = host.read()
                assert message[0] != ITEM  # the third has to wait: 60,000 of 65,536 bytes are used
        host.sock.settimeout(5)
        host.credit(ident, 60_000)
        message = host.read()
        while message[0] == CREDIT:
            message = host.read()
        assert message[:2] == [ITEM, ident]
        host.answered(ident)


@pytest.mark.parametrize("function", [upper, upper_async])
def test_a_cancelled_stream_ends_and_frees_its_thread(function: Any) -> None:
    with served(streaming(function)) as host:
        ident = host.call("hook.chat.on_chunks", [""], stream="both")
        host.item(ident, "a")
        host.read(), host.read()
        host.cancel(ident)
        assert host.answered(ident)[2]["code"] == "cancelled"


def test_many_sync_streams_run_at_once_with_one_slot() -> None:
    with served(streaming(upper)) as host:
        idents = [host.call("hook.chat.on_chunks", [""], stream="both") for _ in range(8)]
        for ident in reversed(idents):
            host.item(ident, f"s{ident}")
            assert host.read() == [ITEM, ident, f"S{ident}", {}]
            host.read()
        for ident in idents:
            host.end(ident)
            host.answered(ident)


def too_large(chunks: Iterator[str]) -> Iterator[str]:
    yield "x" * 70_000


def leaves(chunks: Iterator[str]) -> Iterator[str]:
    yield "a"
    raise SystemExit(1)


@pytest.mark.parametrize(("function", "kind"), [(too_large, "ValueError"), (leaves, "SystemExit")])
def test_a_stream_that_fails_is_answered(function: Any, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with served(streaming(function)) as host:
        ident = host.call("hook.chat.on_chunks", [], stream="both")
        message = host.read()
        if message[0] == ITEM:
            message = host.read()
        assert message[:2] == [RESPONSE, ident]
        assert (message[2]["code"], message[2]["data"]["type"]) == ("plugin-raised", kind)
    assert kind in capsys.readouterr().err


@pytest.mark.parametrize("is_async", [False, True])
def test_a_service_that_yields_says_how_to_ask_for_it(is_async: bool) -> None:
    plugin = Plugin()

    class Words:
        def split(self, text: str) -> Iterator[str]:
            yield from text.split()

    class WordsAsync:
        async def split(self, text: str) -> AsyncIterator[str]:
            yield text

    plugin.service("words")(WordsAsync if is_async else Words)
    with served(plugin) as host:
        error = host.answered(host.call("svc.words.split", ["a b"]))[2]
        assert error["code"] == "invalid-params"
        assert error["message"].startswith("it yields (test_runner.py:")
        assert error["message"].endswith("; ask for it as a stream: ctx.service('words').split.stream(…)")


def test_an_extension_may_take_a_stream_in_and_give_one_result() -> None:
    plugin = Plugin()

    @plugin.extension("words")
    class Words:
        def count(self, chunks: Iterator[str], ctx: Context) -> int:
            return sum(len(chunk.split()) for chunk in chunks)

        def numbers(self, to: int) -> Iterator[int]:
            yield from range(to)

    with served(plugin) as host:
        ident = host.call("ext.words.count", [], stream="in")
        host.item(ident, "a b")
        host.item(ident, "c")
        host.end(ident)
        message = host.read()
        while message[0] == CREDIT:
            message = host.read()
        assert message == [RESPONSE, ident, None, 3, {}]
        ident = host.call("ext.words.numbers", [3], stream="out")
        assert [host.read()[2] for _ in range(3)] == [0, 1, 2]
        host.answered(ident)


# Async plugins.


def test_async_handlers_run_beside_each_other_and_await_the_host() -> None:
    plugin = Plugin()

    @plugin.filter("chat.on_text")
    async def on_text(text: str, ctx: Any) -> Any:
        return await ctx.kv.get(text)

    @plugin.filter("chat.sync")
    def sync(text: str, ctx: Context) -> Any:
        return ctx.kv.get(text)

    with served(plugin, concurrency=3) as host:
        idents = [host.call("hook.chat.on_text", ["a"]), host.call("hook.chat.on_text", ["b"]), host.call("hook.chat.sync", ["c"])]
        requests = {message[3]["key"]: message for message in (host.asked("kv.get") for _ in range(3))}
        for ident, key in zip(reversed(idents), "cba", strict=True):
            host.answer(requests[key], key.upper())
            assert host.answered(ident)[3] == key.upper()


def test_a_cancelled_async_handler_is_cancelled() -> None:
    plugin = Plugin()

    @plugin.filter("chat.on_text")
    async def on_text(text: str, ctx: Any) -> Any:
        return await ctx.kv.get(text)

    with served(plugin) as host:
        ident = host.call("hook.chat.on_text", ["a"])
        host.asked("kv.get")
        host.cancel(ident)
        assert host.answered(ident)[2]["code"] == "cancelled"
        assert host.result("annexe.ping", None) is None


def test_async_life_cycle_functions_and_nested_calls_work() -> None:
    plugin = Plugin()

    @plugin.on_activate
    async def start(ctx: Any) -> None:
        assert await ctx.kv.get("ready") == 1

    @plugin.filter("chat.on_text")
    async def on_text(text: str, ctx: Any) -> Any:
        return text if text == "leaf" else await ctx.kv.get(text)

    with served(plugin, activated=False) as host:
        host.hello()
        ident = host.call("annexe.activate", {"config": {}, "grants": []})
        host.answer(host.asked("kv.get"), 1)
        host.answered(ident)
        outer = host.call("hook.chat.on_text", ["outer"])
        request = host.asked("kv.get")
        assert host.result("hook.chat.on_text", ["leaf"], parent=outer) == "leaf"
        host.answer(request, 2)
        assert host.answered(outer)[3] == 2
        assert host.result("annexe.shutdown", None) is None


def test_the_hosts_end_closing_wakes_a_handler_that_waits() -> None:
    ended = threading.Event()

    def ask(text: str, ctx: Context) -> Any:
        try:
            ctx.kv.get("a")
        finally:
            ended.set()

    with served(answering(ask)) as host:
        host.call("hook.chat.on_text", ["a"])
        host.asked("kv.get")
        host.sock.shutdown(socket.SHUT_RDWR)
        assert ended.wait(5)


def test_two_ends_are_apart() -> None:
    with served(shout()) as one, served(shout()) as other:
        assert isinstance(one, HostEnd)
        assert one.result("hook.chat.on_text", ["a"]) == other.result("hook.chat.on_text", ["a"]) == "A"


def test_an_async_stream_cancelled_before_its_first_step_is_answered() -> None:
    plugin = Plugin()

    @plugin.stream_filter("chat.on_words")
    async def on_words(words: AsyncIterator[str]) -> AsyncIterator[str]:
        async for word in words:
            yield word

    with served(plugin, codecs=("json",)) as host:
        # The request and an item fill one read of the SDK's to the last byte, so that it reads on and finds the cancel before it goes back
        # to the event loop.
        ident = host._last_id = host._last_id + 2
        request = pack_frame(json.dumps([REQUEST, ident, "hook.chat.on_words", [], {"stream": "both"}]).encode())
        empty = pack_frame(json.dumps([ITEM, ident, "", {}]).encode())
        item = pack_frame(json.dumps([ITEM, ident, "x" * (65536 - len(request) - len(empty)), {}]).encode())
        assert len(request) + len(item) == 65536
        host.sock.sendall(request + item + pack_frame(json.dumps([CANCEL, ident]).encode()))
        assert host.answered(ident)[2]["code"] == "cancelled"
