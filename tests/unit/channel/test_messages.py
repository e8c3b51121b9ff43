"""What goes on from one plugin to another."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from annexe.channel.messages import passed_on
from annexe.contract.blobs import Blob, BlobPayload
from annexe_sdk import wire

_VALUE = {"text": "é", "numbers": [1, 2.5, None, True], "deep": {"list": [{}]}}


def packed(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(value))


@pytest.mark.parametrize("codec", ["msgpack", "json"])
def test_payload_of_one_codec_is_passed_on_as_it_is(codec: Any) -> None:
    raw = msgspec.Raw(b"\xc1 whatever it is")
    assert passed_on(raw, codec, to=codec) is raw


def test_payload_is_encoded_anew_for_the_other_codec() -> None:
    assert msgspec.json.decode(passed_on(packed(_VALUE), "msgpack", to="json")) == _VALUE
    assert msgspec.msgpack.decode(passed_on(msgspec.Raw(msgspec.json.encode(_VALUE)), "json", to="msgpack")) == _VALUE
    assert passed_on(packed([b"\x00\xff"]), "msgpack", to="json") == msgspec.Raw(b'["AP8="]')


@pytest.mark.parametrize(
    ("raw", "written", "to"),
    [
        pytest.param(packed(float("nan")), "msgpack", "json", id="no-number"),
        pytest.param(packed({1: 2}), "msgpack", "json", id="key-that-is-no-text"),
        pytest.param(msgspec.Raw(b"\xc1"), "msgpack", "json", id="broken"),
        pytest.param(msgspec.Raw(b"{"), "json", "msgpack", id="broken-json"),
        pytest.param(msgspec.Raw(b"1" + b"0" * 30), "json", "msgpack", id="number-beyond-64-bits"),
    ],
)
def test_what_the_other_codec_cannot_say_is_refused(raw: msgspec.Raw, written: Any, to: Any) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        passed_on(raw, written, to=to)


def test_blobs_are_marked_for_shared_memory_and_text_for_json() -> None:
    raw = msgspec.msgpack.encode({"blob": msgspec.msgpack.Ext(wire.BLOB_EXTENSION, b"\x00")})
    marked = passed_on(BlobPayload(raw, [b"long"]), "blobs", to="msgpack")
    assert type(marked["blob"]) is Blob and marked["blob"].octets == b"long"
    assert passed_on(BlobPayload(raw, [b"long"]), "blobs", to="json") == msgspec.Raw(b'{"blob":"bG9uZw=="}')


def test_blobs_that_would_be_too_long_in_json_are_refused_before_they_are_written() -> None:
    blob = bytes(wire.MAX_FRAME_BYTES + 1)
    payload = BlobPayload(msgspec.msgpack.encode(msgspec.msgpack.Ext(wire.BLOB_EXTENSION, b"\x00")), [blob])
    with pytest.raises(ValueError, match="the other end speaks JSON"):
        passed_on(payload, "blobs", to="json")
