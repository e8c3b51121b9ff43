from __future__ import annotations

import msgspec
import pytest

from annexe.dispatch.request import MAX_STATE_BYTES, Request
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
