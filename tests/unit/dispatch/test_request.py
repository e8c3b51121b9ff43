from __future__ import annotations

from typing import Any

import msgspec
import pytest

from annexe.channel import RequestMeta
from annexe.dispatch.request import MAX_STATE_BYTES, Request, request_behind
from annexe.errors import InvalidResultError


def made() -> Request:
    return Request(id="r", deadline=1.0, key=None, traceparent="")


@pytest.mark.parametrize("encode", [msgspec.json.encode, msgspec.msgpack.encode])
def test_state_is_taken_over_key_by_key(encode: object) -> None:
    assert callable(encode)
    request = made()
    request.change_state("a", msgspec.Raw(encode({"x": 1, "y": [2]})), method="hook.a.b")
    request.change_state("a", msgspec.Raw(encode({"x": None, "z": 3})), method="hook.a.b")
    request.change_state("a", msgspec.Raw(encode(None)), method="hook.a.b")
    assert request.state_of("a") == {"y": [2], "z": 3}


@pytest.mark.parametrize(
    "raw",
    [
        msgspec.json.encode({"a": "v" * MAX_STATE_BYTES}),
        b"7",
        b"[]",
        b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b"\x81\x01\x01",
    ],
)
def test_state_too_large_or_no_map_is_refused_before_it_is_made(raw: bytes) -> None:
    request = made()
    with pytest.raises(InvalidResultError) as caught:
        request.change_state("a", msgspec.Raw(raw), method="hook.a.b")
    assert caught.value.plugin == "a"
    assert caught.value.data == {"method": "hook.a.b", "limit_bytes": MAX_STATE_BYTES}
    assert request.state_of("a") is None


class _Call:
    def __init__(self, meta: object) -> None:
        self.meta = meta


def test_request_within_shares_all_but_caller_and_deadline() -> None:
    request = Request(id="r", deadline=9.0, key="k", traceparent="t")
    records = iter(["record", "never"])
    inner = request.within("definer", deadline=2.0, new_record=lambda: next(records))
    assert (inner.id, inner.key, inner.traceparent, inner.deadline, inner.caller) == ("r", "k", "t", 2.0, "definer")
    assert request.record == inner.record == "record"
    inner.change_state("a", msgspec.Raw(msgspec.json.encode({"x": 1})), method="hook.a.b")
    assert request.state_of("a") == {"x": 1}
    again = request.within("other", deadline=3.0, new_record=lambda: next(records))
    assert again.record == "record" and again.state_of("a") == {"x": 1}


def test_request_is_found_behind_the_innermost_call_that_knows_it_and_is_never_sent() -> None:
    request = Request(id="r", deadline=9.0, key=None, traceparent="t")
    meta = request.meta_for("a")
    assert msgspec.json.decode(msgspec.json.encode(meta)) == {"request": "r", "traceparent": "t"}
    chain: Any = [_Call(meta), _Call(RequestMeta(request="r"))]
    assert request_behind(chain) is request
    inner = request.within("definer", deadline=2.0, new_record=lambda: None)
    deeper: Any = [*chain, _Call(inner.meta_for("b"))]
    assert request_behind(deeper) is inner
    assert request_behind(chain[1:]) is None
