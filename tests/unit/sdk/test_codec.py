from __future__ import annotations

import base64
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annexe_sdk.codec import Codec, CodecError, _accelerated, _plain, has_msgspec, json_codec, msgpack_codec

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@dataclass
class Inner:
    count: int


@dataclass
class Outer:
    name: str
    inner: list[Inner]


@pytest.fixture(params=["json", "plain-json", "msgpack"])
def codec(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Codec:
    if request.param == "plain-json":
        monkeypatch.setattr("annexe_sdk.codec._IS_ACCELERATED", False)
    return msgpack_codec() if request.param == "msgpack" else json_codec()


@given(VALUES)
def test_both_ways_of_json_write_what_json_reads(value: Any) -> None:
    for encode, decode in (_accelerated(), _plain()):
        assert json.loads(encode(value)) == value
        assert decode(encode(value)) == value
        assert decode(f" \n{json.dumps(value)}\t") == value


@given(VALUES)
def test_msgpack_gives_back_what_it_was_given(value: Any) -> None:
    codec = msgpack_codec()
    assert codec.decode(codec.encode(value)) == value


def test_dataclasses_are_written_as_objects_of_their_fields(codec: Codec) -> None:
    assert codec.decode(codec.encode(Outer("a", [Inner(1), Inner(2)]))) == {"name": "a", "inner": [{"count": 1}, {"count": 2}]}


def test_tuples_are_arrays(codec: Codec) -> None:
    assert codec.decode(codec.encode((1, (2, 3)))) == [1, [2, 3]]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_json_writes_bytes_as_base64_text_but_where_all_must_be_plain(codec: Codec, kind: Any) -> None:
    audio = bytes(range(256))
    written = codec.decode(codec.encode({"audio": [kind(audio), Outer("a", [])]}))
    expected = audio if codec.name == "msgpack" else base64.b64encode(audio).decode()
    assert written == {"audio": [expected, {"name": "a", "inner": []}]}
    if codec.name == "json":
        with pytest.raises(CodecError, match=f"type {kind.__name__} cannot be sent"):
            codec.encode_plain([kind(audio)])
    assert codec.encode_plain([Inner(1)]) == codec.encode([Inner(1)])


def refused(codec: Codec, value: Any) -> bool:
    faults: tuple[type[BaseException], ...] = (CodecError, *codec.faults)
    try:
        codec.encode(value)
    except faults:
        return True
    return False


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), [float("nan")]])
def test_json_refuses_what_is_no_number(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(json_codec(), value)
    monkeypatch.setattr("annexe_sdk.codec._IS_ACCELERATED", False)
    assert refused(json_codec(), value)


def cyclic() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "value",
    [object(), cyclic(), "\ud800", {"a": "\udfff"}, 2**70 * 1j],
    ids=["object", "cycle", "surrogate", "surrogate inside", "complex"],
)
def test_what_cannot_be_written_is_refused(codec: Codec, value: Any) -> None:
    assert refused(codec, value)


@pytest.mark.parametrize(
    "frame", [b"", b"[", b"[1,]", b"nope", b"[NaN]", b"[Infinity]", b"[-Infinity]", b'["\xff"]', b"[1] [2]", b"[" * 100_000]
)
def test_bytes_that_are_no_json_are_an_error(frame: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    for codec in (json_codec(), _plain_codec(monkeypatch)):
        with pytest.raises((CodecError, *codec.faults)):
            codec.decode(frame)


def _plain_codec(monkeypatch: pytest.MonkeyPatch) -> Codec:
    monkeypatch.setattr("annexe_sdk.codec._IS_ACCELERATED", False)
    return json_codec()


@pytest.mark.parametrize("frame", [b"", b"\xc1", b"\x91", b"\xa1\xff", b"\x01\x02", b"\x91" * 100_000])
def test_bytes_that_are_no_msgpack_are_an_error(frame: bytes) -> None:
    codec = msgpack_codec()
    with pytest.raises(codec.faults):
        codec.decode(frame)


def test_msgspec_is_found_without_being_imported(tmp_path: Path) -> None:
    assert not has_msgspec([str(tmp_path), str(tmp_path / "nothing")])
    (tmp_path / "msgspec").mkdir()
    (tmp_path / "msgspec" / "__init__.py").touch()
    assert has_msgspec(["", str(tmp_path)])
    assert has_msgspec(sys.path)
