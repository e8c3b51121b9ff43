from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annexe_sdk.frames import FrameBuffer, FrameError, pack_frame, read_head
from annexe_sdk.wire import MAX_FRAME_BYTES, MAX_ID

BODIES = st.lists(st.binary(min_size=1, max_size=300), max_size=12)


@given(BODIES, st.data())
def test_frames_come_out_whole_however_the_bytes_are_cut(bodies: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(pack_frame, bodies))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    buffer = FrameBuffer()
    got = [frame for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True) for frame in buffer.feed(stream[start:end])]
    assert got == bodies
    assert buffer.feed(pack_frame(b"next")) == [b"next"], "nothing was left over"


@given(st.binary(min_size=1, max_size=50))
def test_a_frame_comes_out_with_its_last_byte_and_not_before(body: bytes) -> None:
    buffer, stream = FrameBuffer(), pack_frame(body)
    for index in range(len(stream) - 1):
        assert buffer.feed(stream[index : index + 1]) == []
    assert buffer.feed(stream[-1:]) == [body]


@given(st.binary(max_size=400))
def test_any_bytes_are_frames_or_a_named_error(junk: bytes) -> None:
    buffer = FrameBuffer(64)
    try:
        frames = buffer.feed(junk)
    except FrameError as error:
        assert error.rule in ("frame-empty", "frame-too-large")
    else:
        whole = b"".join(map(pack_frame, frames))
        assert junk.startswith(whole)
        rest = junk[len(whole) :]
        assert len(rest) < 4 or len(rest) < 4 + int.from_bytes(rest[:4], "big"), "what is left is no whole frame"


@pytest.mark.parametrize(("size", "rule"), [(0, "frame-empty"), (65, "frame-too-large"), (2**32 - 1, "frame-too-large")])
def test_a_bad_length_is_refused_before_anything_of_that_size_is_kept(size: int, rule: str) -> None:
    buffer = FrameBuffer(64)
    with pytest.raises(FrameError) as caught:
        buffer.feed(size.to_bytes(4, "big") + b"x")
    assert caught.value.rule == rule


def test_a_frame_at_the_limit_is_accepted_and_the_limit_can_be_raised() -> None:
    buffer = FrameBuffer(4)
    assert buffer.feed(pack_frame(b"1234")) == [b"1234"]
    buffer.limit_bytes = 5
    assert buffer.feed(pack_frame(b"12345")) == [b"12345"]
    assert FrameBuffer().limit_bytes == MAX_FRAME_BYTES


KINDS_WITH_ID = st.sampled_from([0, 1, 3, 4, 5, 6])


@given(KINDS_WITH_ID, st.integers(1, MAX_ID), st.lists(st.none() | st.text(max_size=5), max_size=3))
def test_the_head_is_read_in_both_codecs_whatever_follows(kind: int, ident: int, rest: list[str | None]) -> None:
    message = [kind, ident, *rest]
    for body in (json.dumps(message).encode(), json.dumps(message, separators=(",", ":")).encode(), msgspec.msgpack.encode(message)):
        assert read_head(body) == (kind, ident)
        assert read_head(body[:2] + body[2:] + b"\xc1 broken") == (kind, ident)


@given(st.binary(min_size=1, max_size=60))
def test_the_head_of_any_bytes_is_none_or_in_range(junk: bytes) -> None:
    head = read_head(junk)
    assert head is None or (head[0] != 2 and 0 < head[1] <= MAX_ID)


@pytest.mark.parametrize(
    "body",
    [
        b"[2,5,",  # a notification has no id
        b"[1,0,",
        b"[1,-5,",
        b"[1,1.5,",
        b"[1,true,",
        b'["1",5,',
        b"[1]",
        b"[]",
        b"[",
        b"[ , ,",
        b"[1,%d," % (MAX_ID + 1),
        b"[1,\xb2,",  # a digit to str.isdigit, not to int
        b"\x91\x01",
        b"\x95\x01\xd0\x05",
        b"\x95\x01\xcf" + b"\xff" * 8,
        b"\x95\x01\xcd\x00",
        b"\x05\x01\x01",
    ],
)
def test_a_head_that_is_none_is_told_as_none(body: bytes) -> None:
    assert read_head(body) is None
