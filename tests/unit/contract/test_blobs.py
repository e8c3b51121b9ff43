"""Long bytes are found wherever a type declares them, and nothing else is touched."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypedDict

import msgspec
import pydantic
import pytest
from msgspec.msgpack import Ext

from annexe.channel.messages import MSGPACK, MSGPACK_WITH_ARENAS
from annexe.contract import InvalidValueError
from annexe.contract.annotations import _build
from annexe.contract.blobs import Blob, BlobPayload, as_inline
from annexe.contract.values import ValueType
from annexe_sdk.wire import BLOB_FROM_BYTES

LONG = b"x" * BLOB_FROM_BYTES
SHORT = b"x" * (BLOB_FROM_BYTES - 1)


@dataclass
class Page:
    number: int
    image: bytes
    pages: list[Page] = field(default_factory=list)


class Picture(pydantic.BaseModel):
    image: bytes


@dataclass
class Two:
    first: bytes
    second: bytes | None


class Record(msgspec.Struct):
    image: bytes


class Keyed(TypedDict, total=False):
    image: bytes


class Case(NamedTuple):
    kind: Any
    value: Any


def made(kind: Any) -> ValueType:
    value_type = _build(kind, "kind")
    assert isinstance(value_type, ValueType)
    return value_type


def blobs_in(value: Any) -> list[Any]:
    if isinstance(value, Blob):
        return [value.octets]
    if isinstance(value, dict):
        return [blob for item in value.values() for blob in blobs_in(item)]
    return [blob for item in value for blob in blobs_in(item)] if isinstance(value, list) else []


HOLDING = [
    pytest.param(Case(bytes, LONG), id="bytes"),
    pytest.param(Case(bytes | None, LONG), id="optional"),
    pytest.param(Case(int | list[bytes] | bytes, LONG), id="union"),
    pytest.param(Case(list[bytes], [SHORT, LONG]), id="list"),
    pytest.param(Case(tuple[int, bytes], (1, LONG)), id="tuple"),
    pytest.param(Case(tuple[bytes, ...], (SHORT, LONG)), id="tuple-of-any-length"),
    pytest.param(Case(dict[str, bytes], {"a": SHORT, "b": LONG}), id="dict"),
    pytest.param(Case(dict[str, bytes] | None, {"b": LONG}), id="optional-dict"),
    pytest.param(Case(list[bytes] | None, [LONG]), id="optional-list"),
    pytest.param(Case(Page, Page(1, LONG)), id="dataclass"),
    pytest.param(Case(Page, Page(1, SHORT, [Page(2, SHORT, [Page(3, LONG)])])), id="recursive"),
    pytest.param(Case(Two, Two(SHORT, LONG)), id="several-fields"),
    pytest.param(Case(Record | None, Record(LONG)), id="optional-struct"),
    pytest.param(Case(Keyed, {"image": LONG}), id="typed-dict"),
    pytest.param(Case(list[Page], [Page(1, SHORT), Page(2, LONG)]), id="list-of-dataclasses"),
]


@pytest.mark.parametrize("case", HOLDING)
def test_blob_is_found_where_it_is_declared_and_not_copied(case: Case) -> None:
    found = blobs_in(made(case.kind).to_send(case.value))
    assert len(found) == 1
    assert found[0] is LONG


@pytest.mark.parametrize("case", HOLDING)
def test_value_with_blobs_is_encoded_inline_as_any_other(case: Case) -> None:
    kind = made(case.kind)
    assert MSGPACK.encode(kind.to_send(case.value)) == msgspec.msgpack.encode(case.value)


@pytest.mark.parametrize("case", HOLDING)
def test_value_that_came_with_blobs_is_the_value(case: Case) -> None:
    kind = made(case.kind)
    blobs: list[bytes] = []

    def place(value: Any) -> Ext:
        blobs.append(value.octets)
        return Ext(1, bytes((len(blobs) - 1,)))

    raw = msgspec.msgpack.Encoder(enc_hook=place).encode(kind.to_send(case.value))
    assert len(raw) < len(LONG) + len(SHORT) or SHORT in raw
    assert kind.decoder("blobs")(BlobPayload(raw, blobs)) == case.value


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(bytes, SHORT), id="bytes"),
        pytest.param(Case(bytes | None, None), id="none"),
        pytest.param(Case(Page, Page(1, SHORT)), id="dataclass"),
        pytest.param(Case(Keyed, {}), id="typed-dict-without-it"),
        pytest.param(Case(str, "x" * BLOB_FROM_BYTES), id="text"),
        pytest.param(Case(bytes, 5), id="another-type"),
        pytest.param(Case(Two, "no two"), id="not-of-the-class"),
        pytest.param(Case(list[bytes], 5), id="no-list"),
    ],
)
def test_value_without_blobs_is_sent_as_it_is(case: Case) -> None:
    assert made(case.kind).to_send(case.value) is case.value


@pytest.mark.parametrize("octets", [bytearray(LONG), memoryview(LONG), memoryview(bytearray(LONG)).cast("I")])
def test_other_kinds_of_bytes_are_blobs_too(octets: Any) -> None:
    assert blobs_in(made(bytes).to_send(octets)) == [octets]


def test_memory_with_gaps_is_no_blob() -> None:
    gaps = memoryview(LONG * 2)[::2]
    assert made(bytes).to_send(gaps) is gaps


@pytest.mark.parametrize(("kind", "as_is"), [(str, True), (bytes, False), (Page, False), (float, False)])
def test_types_with_bytes_are_looked_at_before_they_are_sent(kind: Any, as_is: bool) -> None:
    assert made(kind).as_is is as_is


def test_check_and_blobs_go_together() -> None:
    kind = made(tuple[float, bytes])
    assert blobs_in(kind.to_send((1.0, LONG))) == [LONG]
    with pytest.raises(InvalidValueError) as refused:
        kind.to_send((float("nan"), LONG))
    assert refused.value.path == "$[0]"


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        pytest.param(Ext(1, b"\x01"), "blob 1 is named twice, or is none of the 1", id="index-beyond"),
        pytest.param([Ext(1, b"\x00"), Ext(1, b"\x00")], "blob 0 is named twice", id="named-twice"),
        pytest.param(Ext(1, b"\x00\x00"), "type 1 with 2 bytes", id="long-index"),
        pytest.param(Ext(1, b""), "type 1 with 0 bytes", id="no-index"),
        pytest.param(Ext(2, b"\x00"), "type 2 with 1 bytes", id="other-type"),
        pytest.param(5, "int", id="no-bytes"),
    ],
)
def test_extension_that_stands_for_no_blob_is_refused(raw: Any, why: str) -> None:
    with pytest.raises(InvalidValueError) as refused:
        made(bytes).decoder("blobs")(BlobPayload(msgspec.msgpack.encode(raw), [LONG]))
    assert why in refused.value.actual


def test_payload_tells_and_gives_what_it_came_as() -> None:
    payload = BlobPayload(b"\xd4\x01\x00", [LONG])
    assert (len(payload), bytes(payload), payload.plain()) == (3, b"\xd4\x01\x00", LONG)


def test_only_blobs_are_written_inline() -> None:
    with pytest.raises(TypeError, match="Encoding objects of type object is unsupported"):
        as_inline(object())


def test_value_that_no_codec_knows_is_no_blob() -> None:
    with pytest.raises(TypeError, match="objects of type object"):
        MSGPACK_WITH_ARENAS.encode((1, object()))


def test_pydantic_model_gets_no_bytes_by_way_of_blobs_either() -> None:
    with pytest.raises(InvalidValueError, match="got bytes"):
        made(Picture).decoder("blobs")(BlobPayload(msgspec.msgpack.encode({"image": Ext(1, b"\x00")}), [LONG]))
