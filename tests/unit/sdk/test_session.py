from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annexe_sdk.calls import Wait
from annexe_sdk.codec import CodecError, json_codec
from annexe_sdk.frames import FrameBuffer, pack_frame
from annexe_sdk.session import Broken, Session
from annexe_sdk.wire import CANCEL, CREDIT, END, INITIAL_CREDIT_BYTES, ITEM, NOTIFICATION, RELEASE, REQUEST, RESPONSE


class Ends:
    """A session and what comes out of it."""

    def __init__(self) -> None:
        self.session = Session(json_codec())

    def take(self, *messages: list[Any], raw: bytes = b"") -> list[list[Any]]:
        stream = b"".join(pack_frame(json.dumps(message).encode()) for message in messages) + raw
        self.session.receive(stream, 1.0)
        return [json.loads(frame) for frame in FrameBuffer().feed(self.session.take_answers())]

    def breaks(self, *messages: list[Any], raw: bytes = b"") -> str:
        with pytest.raises(Broken) as caught:
            self.take(*messages, raw=raw)
        return caught.value.rule


def request(ident: int, method: str = "hook.a.b", **meta: Any) -> list[Any]:
    return [REQUEST, ident, method, [], meta]


def test_calls_are_ready_in_the_order_of_their_ids() -> None:
    ends = Ends()
    ends.take(request(1), request(5, deadline_ms=100), request(7))
    assert [call.id for call in ends.session.ready] == [1, 5, 7]
    assert ends.session.ready[1].meta == {"deadline_ms": 100}
    assert ends.session.ready[1].received == 1.0


@pytest.mark.parametrize(
    ("messages", "rule"),
    [
        ([request(2)], "bad-id"),
        ([request(1), request(1)], "bad-id"),
        ([request(5), request(3)], "bad-id"),
        ([[REQUEST, "1", "a", [], {}]], "bad-envelope"),
        ([[REQUEST, 1, 5, [], {}]], "bad-envelope"),
        ([[REQUEST, 1, "a", [], None]], "bad-envelope"),
        ([[REQUEST, 1, "a", []]], "unknown-kind"),
        ([[9, 1]], "unknown-kind"),
        ([["0", 1, "a", [], {}]], "unknown-kind"),
        ([[]], "not-an-array"),
        ([[RESPONSE, 2, None, 1, {}]], "unknown-id"),
        ([[RESPONSE, 1, None, 1, {}]], "unknown-id"),
        ([[CANCEL, 1]], "unknown-id"),
        ([[ITEM, 7, 1, {}]], "unknown-id"),
        ([[CREDIT, "x", 1]], "unknown-id"),
    ],
)
def test_what_breaks_the_protocol_names_the_rule(messages: list[list[Any]], rule: str) -> None:
    assert Ends().breaks(*messages) == rule


@pytest.mark.parametrize(
    ("raw", "rule"),
    [
        (bytes(4), "frame-empty"),
        (b"\x00\x01\x00\x01", "frame-too-large"),
        (pack_frame(b"[nope"), "undecodable"),
        (pack_frame(b"\x91\x01"), "codec-not-agreed"),
    ],
)
def test_bytes_that_break_the_protocol_name_the_rule(raw: bytes, rule: str) -> None:
    assert Ends().breaks(raw=raw) == rule


@given(st.binary(max_size=200))
def test_any_bytes_are_taken_or_break_a_named_rule(junk: bytes) -> None:
    ends = Ends()
    for stream in (junk, pack_frame(b"[" + junk)):
        try:
            ends.session.receive(stream, 0.0)
        except Broken as broken:
            assert broken.rule
            ends = Ends()


def test_pings_are_answered_at_once() -> None:
    ends = Ends()
    assert ends.take(request(1, "annexe.ping")) == [[RESPONSE, 1, None, None, {}]]
    assert not ends.session.calls


def test_broken_params_are_answered_and_the_id_is_used() -> None:
    ends = Ends()
    (answer,) = ends.take(raw=pack_frame(b'[0,3,"a",[nope],{}]'))
    assert (answer[:2], answer[2]["code"]) == ([RESPONSE, 3], "invalid-params")
    assert ends.breaks(request(3)) == "bad-id"


def test_messages_for_calls_that_are_over_are_ignored() -> None:
    ends = Ends()
    ends.take(request(1, stream="both"))
    del ends.session.calls[1]
    assert ends.take([CANCEL, 1], [ITEM, 1, "a", {}], [END, 1], [CREDIT, 1, 5], [NOTIFICATION, "a", {}, {}], [RELEASE, []]) == []


def test_a_call_cancelled_before_its_start_is_answered_and_forgotten() -> None:
    ends = Ends()
    ends.take(request(1), request(3, stream="out"))
    answers = ends.take([CANCEL, 1], [CANCEL, 3])
    assert [(answer[1], answer[2]["code"]) for answer in answers] == [(1, "cancelled"), (3, "cancelled")]
    assert not ends.session.ready
    assert not ends.session.streams
    assert not ends.session.calls


def test_a_call_cancelled_while_it_runs_only_knows() -> None:
    ends = Ends()
    ends.take(request(1))
    call = ends.session.ready.popleft()
    call.started = True
    assert ends.take([CANCEL, 1]) == []
    assert call.cancelled


def test_own_requests_get_even_ids_and_their_answers() -> None:
    session, first, second = Session(json_codec()), Wait(), Wait()
    frames = [session.request("kv.get", {"key": "a"}, None, first), session.request("kv.get", {}, None, second)]
    assert [json.loads(frame[4:])[:2] for frame in frames] == [[REQUEST, 2], [REQUEST, 4]]
    session.receive(pack_frame(b'[1,4,null,"later",{}]') + pack_frame(b'[1,2,{"code":"busy"},null,{}]'), 0.0)
    assert (second.done, second.result, second.error) == (True, "later", None)
    assert (first.done, first.result, first.error) == (True, None, {"code": "busy"})


def test_a_request_that_cannot_be_sent_uses_no_id() -> None:
    session = Session(json_codec())
    with pytest.raises(CodecError):
        session.request("kv.set", {"value": object()}, None, Wait())
    assert json.loads(session.request("kv.get", {}, None, Wait())[4:])[1] == 2


def test_a_call_that_serves_a_waiting_one_goes_to_its_thread_and_not_to_the_queue() -> None:
    ends = Ends()
    ends.take(request(1))
    call = ends.session.ready.popleft()
    call.wait = Wait()
    ends.take(request(3, parent=1), request(5, parent=99))
    assert [nested.id for nested in call.wait.nested] == [3]
    assert [ready.id for ready in ends.session.ready] == [5]


def test_streams_start_with_credit_and_gather_items() -> None:
    ends = Ends()
    ends.take(request(1, stream="both"), [ITEM, 1, "a", {}], [CREDIT, 1, 10], [END, 1])
    (call,) = ends.session.streams
    assert list(call.inbox) == [("a", len(json.dumps([ITEM, 1, "a", {}])))]
    assert call.credit == INITIAL_CREDIT_BYTES + 10
    assert call.ended


def test_frames_above_the_agreed_limit_are_not_made() -> None:
    session = Session(json_codec())
    session.agree(100)
    with pytest.raises(CodecError, match="expected at most 100"):
        session.result(1, "x" * 100)


def test_error_texts_are_bounded_and_sendable() -> None:
    error = json.loads(Session(json_codec()).error(1, "plugin-raised", "\ud800" + "x" * 10_000)[4:])[2]
    assert error["message"].startswith("\\ud800xxx")
    assert len(error["message"]) < 4200
