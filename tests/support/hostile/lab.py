"""The hostile plugin of tests/process/test_protocol_abuse.py: each call names what it is to do wrong."""

import json
import os
import signal
import struct
import time
from collections.abc import Callable
from typing import Any

# Beside this file in the plugin's folder.
from kit import CANCEL, CREDIT, END, ITEM, NOTIFICATION, RELEASE, REQUEST, RESPONSE, Wire  # type: ignore[import-not-found]

Call = list[Any]
CASES: dict[str, Callable[[Call], None]] = {}
wire = Wire()


def case(function: Callable[[Call], None]) -> Callable[[Call], None]:
    CASES[function.__name__.replace("_", "-")] = function
    return function


def mp_str(text: bytes) -> bytes:
    return b"\xdb" + struct.pack(">I", len(text)) + text


def mp_answer(call: Call, result: bytes) -> bytes:
    """A MessagePack response whose result is the bytes given."""
    return b"\x95\x01\xce" + struct.pack(">I", call[1]) + b"\xc0" + result + b"\x80"


# What ends the connection.


@case
def truncated_frame(call: Call) -> None:
    wire.raw((100).to_bytes(4, "big") + b"[1,")
    raise SystemExit(0)


@case
def oversized_frame(call: Call) -> None:
    wire.raw((10 * 1024 * 1024 + 1).to_bytes(4, "big"))


@case
def length_of_four_gib(call: Call) -> None:
    wire.raw(b"\xff\xff\xff\xff" + b"x" * 1000)


@case
def empty_frame(call: Call) -> None:
    wire.raw(bytes(4))


@case
def undecodable_msgpack(call: Call) -> None:
    wire.frame(b"\xc1\xc1\xc1")


@case
def undecodable_json(call: Call) -> None:
    wire.frame(b"[garbage")


@case
def deeply_nested_envelope(call: Call) -> None:
    wire.frame(b"[" * 200_000)


@case
def an_object(call: Call) -> None:
    wire.frame(b'{"a":1}')


@case
def empty_array(call: Call) -> None:
    wire.frame(b"[]")


@case
def unknown_kind(call: Call) -> None:
    wire.send(9, call[1], None)


@case
def kind_as_text(call: Call) -> None:
    wire.send("1", call[1], None, "x", {})


@case
def extra_element(call: Call) -> None:
    wire.send(RESPONSE, call[1], None, "x", {}, "more")


@case
def missing_element(call: Call) -> None:
    wire.send(RESPONSE, call[1], None, "x")


@case
def meta_is_no_map(call: Call) -> None:
    wire.send(RESPONSE, call[1], None, "x", [])


@case
def error_is_no_map(call: Call) -> None:
    wire.send(RESPONSE, call[1], "broken", None, {})


@case
def unknown_outcome(call: Call) -> None:
    wire.send(RESPONSE, call[1], None, None, {"outcome": "perhaps"})


@case
def error_in_bad_utf8(call: Call) -> None:
    wire.frame(b'[1,%d,{"code":"\xff","message":"a"},null,{}]' % call[1])


@case
def state_in_bad_utf8(call: Call) -> None:
    wire.frame(b'[1,%d,null,"x",{"state":{"a":"\xff"}}]' % call[1])


@case
def method_in_bad_utf8(call: Call) -> None:
    wire.last_id += 2
    wire.frame(b'[0,%d,"kv.\xff",{},{}]' % wire.last_id)
    wire.answer(call, wire.read_response(wire.last_id)[2]["code"])


@case
def notification_in_bad_utf8(call: Call) -> None:
    wire.frame(b'[2,"lo\xff",{},{}]')


@case
def very_long_method(call: Call) -> None:
    wire.send(REQUEST, 1_000_000, "x" * 5000, None, {})


@case
def odd_request_id(call: Call) -> None:
    wire.send(REQUEST, 3, "kv.get", {"key": "a"}, {})


@case
def zero_request_id(call: Call) -> None:
    wire.send(REQUEST, 0, "kv.get", {"key": "a"}, {})


@case
def negative_request_id(call: Call) -> None:
    wire.send(REQUEST, -2, "kv.get", {"key": "a"}, {})


@case
def request_id_beyond_the_largest(call: Call) -> None:
    wire.send(REQUEST, 2**53 + 2, "kv.get", {"key": "a"}, {})


@case
def reused_request_id(call: Call) -> None:
    wire.ask("kv.get", {"key": "a"})
    wire.send(REQUEST, wire.last_id, "kv.get", {"key": "a"}, {})


@case
def answer_to_what_was_never_asked(call: Call) -> None:
    wire.send(RESPONSE, 99_999, None, "x", {})


@case
def answer_to_an_even_id(call: Call) -> None:
    wire.send(RESPONSE, 2, None, "x", {})


@case
def second_answer_to_hello(call: Call) -> None:
    wire.send(RESPONSE, 1, None, {"protocol": 1, "codec": "json"}, {})


@case
def item_for_an_id_never_used(call: Call) -> None:
    wire.send(ITEM, 99_999, "x", {})


@case
def credit_for_an_id_never_used(call: Call) -> None:
    wire.send(CREDIT, 99_998, 5)


@case
def cancel_of_what_was_never_asked(call: Call) -> None:
    wire.send(CANCEL, 99_998)


@case
def cancel_of_the_hosts_call(call: Call) -> None:
    wire.send(CANCEL, call[1])


@case
def end_of_the_hosts_stream(call: Call) -> None:
    wire.send(END, call[1])


@case
def end_for_an_id_never_used(call: Call) -> None:
    wire.send(END, 99_998)


@case
def release_without_arenas(call: Call) -> None:
    wire.send(RELEASE, [[0, 10]])


@case
def random_bytes(call: Call) -> None:
    wire.raw(b"\x00\x00\x00\x20" + bytes(range(200, 232)))


# What fails its call alone.


@case
def broken_msgpack_result(call: Call) -> None:
    wire.frame(mp_answer(call, b"\xc1"))


@case
def broken_json_result(call: Call) -> None:
    wire.frame(b'[1,%d,null,{"a":nope},{}]' % call[1])


@case
def deeply_nested_json_result(call: Call) -> None:
    wire.frame(b"[1,%d,null,%s" % (call[1], b"[" * 200_000))


@case
def deeply_nested_msgpack_result(call: Call) -> None:
    wire.frame(mp_answer(call, b"\x91" * 200_000 + b"\xc0"))


@case
def result_of_65_levels(call: Call) -> None:
    wire.frame(b"[1,%d,null,%s%s,{}]" % (call[1], b"[" * 65, b"]" * 65))


@case
def bad_utf8_in_json(call: Call) -> None:
    wire.frame(b'[1,%d,null,"a\xff\xfe",{}]' % call[1])


@case
def bad_utf8_in_msgpack(call: Call) -> None:
    wire.frame(mp_answer(call, mp_str(b"a\xff\xfe")))


@case
def wrong_type(call: Call) -> None:
    wire.answer(call, {"not": ["what", "was", "asked"]})


@case
def null(call: Call) -> None:
    wire.answer(call, None)


@case
def nan_in_json(call: Call) -> None:
    wire.frame(b"[1,%d,null,NaN,{}]" % call[1])


@case
def nan_in_msgpack(call: Call) -> None:
    wire.frame(mp_answer(call, b"\xcb" + struct.pack(">d", float("nan"))))


@case
def infinity_in_msgpack(call: Call) -> None:
    wire.frame(mp_answer(call, b"\xcb" + struct.pack(">d", float("inf"))))


@case
def endless_digits(call: Call) -> None:
    wire.frame(b"[1,%d,null,%s,{}]" % (call[1], b"9" * 100_000))


@case
def extension_type(call: Call) -> None:
    wire.frame(mp_answer(call, b"\xd6\x05abcd"))


@case
def unknown_error_code(call: Call) -> None:
    wire.refuse(call, "made-up", "x" * 1_000_000, {"a": list(range(100))})


@case
def error_of_the_hosts(call: Call) -> None:
    wire.refuse(call, "permission-denied", "says the plugin")


@case
def rejects_with_a_wrong_status(call: Call) -> None:
    wire.refuse(call, "rejected", "go away", {"code": "gone", "status": 99_999})


@case
def huge_result(call: Call) -> None:
    wire.answer(call, "x" * (10 * 1024 * 1024 - 100))


@case
def large_state(call: Call) -> None:
    wire.answer(call, call[3][0], {"state": {"a": "x" * 70_000}})


@case
def state_of_endless_digits(call: Call) -> None:
    wire.frame(b'[1,%d,null,"x",{"state":{"a":%s}}]' % (call[1], b"9" * 400))


@case
def deeply_nested_state(call: Call) -> None:
    wire.frame(b'[1,%d,null,"x",{"state":{"a":%s%s}}]' % (call[1], b"[" * 800, b"]" * 800))


# What is well-formed and still not nice.


@case
def answers_twice(call: Call) -> None:
    wire.answer(call, "first")
    wire.answer(call, "second")


@case
def never_answers(call: Call) -> None:
    pass


@case
def answers_after_cancel(call: Call) -> None:
    while wire.read()[:2] != [CANCEL, call[1]]:
        pass
    wire.answer(call, "late")


@case
def answers_twice_after_cancel(call: Call) -> None:
    answers_after_cancel(call)
    wire.answer(call, "later")


@case
def closes(call: Call) -> None:
    wire.sock.close()
    time.sleep(5)


@case
def exits(call: Call) -> None:
    raise SystemExit(3)


@case
def dies_by_signal(call: Call) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


@case
def forks_and_exits(call: Call) -> None:
    if os.fork() == 0:
        time.sleep(60)
    os._exit(0)


@case
def prints(call: Call) -> None:
    os.write(1, b"\x00\x1b[31mnot a frame\xff\n" * 3)
    wire.answer(call, "printed")


@case
def floods_logs(call: Call) -> None:
    line = json.dumps([NOTIFICATION, "log", {"level": "info", "message": "y" * 100, "fields": {"n": 1}}, {}]).encode()
    wire.raw((len(line).to_bytes(4, "big") + line) * 20_000)
    wire.answer(call, "logged")


@case
def logs_nonsense(call: Call) -> None:
    nonsense: list[Any] = [
        None,
        5,
        "text",
        [],
        {"level": 5, "message": {"a": 1}, "fields": "no"},
        {"level": "x" * 500_000},
        {"message": None},
    ]
    for params in nonsense:
        wire.send(NOTIFICATION, "log", params, {})
        wire.send(NOTIFICATION, "metric", params, {})
        wire.send(NOTIFICATION, "no.such", params, {"parent": 7})
    wire.send(NOTIFICATION, "metric", {"name": ["a"], "kind": {}, "value": "1", "labels": [1]}, {})
    wire.answer(call, "logged")


@case
def floods_kv(call: Call) -> None:
    message = [REQUEST, 0, "kv.set", {"key": "a", "value": "x" * 20_000}, {"parent": call[1]}]
    for _ in range(3000):
        wire.last_id += 2
        message[1] = wire.last_id
        wire.send(*message)
    codes: dict[str, int] = {}
    for _ in range(3000):
        response = wire.read_response()
        code = response[2]["code"] if response[2] else "ok"
        codes[code] = codes.get(code, 0) + 1
    wire.answer(call, json.dumps(codes))


@case
def floods_calls(call: Call) -> None:
    for _ in range(20_000):
        wire.ask("no.such.method", None)
    for _ in range(20_000):
        response = wire.read_response()
        assert response[2]["code"] == "method-not-found", response
    wire.answer(call, "answered")


@case
def asks_with_broken_params(call: Call) -> None:
    wire.last_id += 2
    wire.frame(b'[0,%d,"kv.get",{"key":nope},{}]' % wire.last_id)
    wire.answer(call, wire.read_response(wire.last_id)[2]["code"])


@case
def asks_with_an_endless_deadline(call: Call) -> None:
    wire.last_id += 2
    wire.frame(b'[0,%d,"kv.get",{"key":"a"},{"deadline_ms":%s}]' % (wire.last_id, b"9" * 400))


@case
def asks_on_behalf_of_nobody(call: Call) -> None:
    wire.answer(call, wire.read_response(wire.ask("kv.get", {"key": "a"}, parent=call[1] + 1000))[2]["code"])


# Streams: [id, "hook.abuse.on_chunks"] with items in both directions.


@case
def item_over_its_credit(call: Call) -> None:
    wire.send(ITEM, call[1], "first", {})
    time.sleep(0.5)  # what comes later fails a stream that has begun
    for _ in range(50):
        wire.send(ITEM, call[1], "x" * 30_000, {})


@case
def item_over_64_kib(call: Call) -> None:
    wire.send(ITEM, call[1], "x" * 70_000, {})


@case
def negative_credit(call: Call) -> None:
    wire.send(CREDIT, call[1], -5)


@case
def credit_of_zero(call: Call) -> None:
    wire.send(CREDIT, call[1], 0)


@case
def endless_credit(call: Call) -> None:
    for _ in range(1000):
        wire.send(CREDIT, call[1], 2**53)
    wire.send(ITEM, call[1], "thanks", {})
    wire.answer(call, None)


@case
def echo(call: Call) -> None:
    wire.send(ITEM, call[1], "fine", {})
    wire.answer(call, None)


@case
def broken_item(call: Call) -> None:
    wire.frame(b'[4,%d,{"a":nope},{}]' % call[1])


@case
def item_of_the_wrong_type(call: Call) -> None:
    wire.send(ITEM, call[1], 5, {})


@case
def item_after_the_answer(call: Call) -> None:
    wire.answer(call, None)
    wire.send(ITEM, call[1], "too late", {})


@case
def stream_without_end(call: Call) -> None:
    wire.send(ITEM, call[1], "one", {})


wire.greet(
    codec="msgpack",
    hooks={
        "abuse.on_text": {"kind": "filter"},
        "abuse.strict": {"kind": "filter"},
        "abuse.on_chunks": {"kind": "stream_filter"},
    },
    extensions={"lab": {"methods": {"text": {}, "number": {}, "anything": {}}}},
)
for call in wire.calls():
    name = call[3][0]
    if name == "ping":
        wire.answer(call, "pong")
    else:
        CASES[name](call)
