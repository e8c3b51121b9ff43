"""Whatever a plugin sends, the connection goes on or ends by a named rule; nothing reaches the loop as an error."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from annexe.errors import AnnexeError, RemoteProtocolError
from annexe_sdk.frames import pack_frame
from tests.unit.channel.peer import ends

SCALARS = st.none() | st.booleans() | st.integers(-3, 12) | st.integers() | st.floats() | st.text(max_size=6)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=6
)
KEYS = st.sampled_from(["deadline_ms", "parent", "state", "outcome", "stream", "code", "message", "data"])
METAS = st.dictionaries(KEYS, VALUES, max_size=3) | VALUES
IDS = st.integers(-1, 9) | VALUES
MESSAGES = st.one_of(
    st.tuples(st.just(0), IDS, st.sampled_from(["kv.get", "cap.a.b", ""]) | VALUES, VALUES, METAS),
    st.tuples(st.just(1), IDS, METAS, VALUES, METAS),
    st.tuples(st.just(2), st.sampled_from(["log", "metric"]) | VALUES, VALUES, METAS),
    st.tuples(st.sampled_from([3, 5]), IDS),
    st.tuples(st.just(4), IDS, VALUES, METAS),
    st.tuples(st.just(6), IDS, st.integers(-5, 100) | VALUES),
    st.tuples(st.just(7), VALUES),
    st.lists(VALUES, max_size=6),
)


def _encoded(message: Any, as_json: bool) -> bytes:
    if as_json:
        return json.dumps(message).encode()
    try:
        return msgspec.msgpack.encode(message)
    except OverflowError:
        return b"\xc1"


FRAMES = st.builds(_encoded, MESSAGES, st.booleans())
BROKEN = st.builds(lambda body, at, byte: body[:at] + byte + body[at + 1 :], FRAMES, st.integers(0, 40), st.binary(max_size=2))


@settings(max_examples=400, deadline=None)
@given(st.lists(FRAMES | BROKEN | st.binary(min_size=1, max_size=30), max_size=6), st.booleans())
def test_any_frames_are_taken_or_end_the_connection_by_a_named_rule(frames: list[bytes], with_calls: bool) -> None:
    async def scenario() -> None:
        async with ends() as both:
            both.serve = lambda call: asyncio.sleep(0, result=1) if call.id % 4 else 1
            calls = [both.begin(), both.begin()] if with_calls else []
            streams = [both.stream("both"), both.stream("out")] if with_calls else []
            await both.peer.raw(b"".join(pack_frame(frame) for frame in frames if frame))
            for _ in range(6):
                await asyncio.sleep(0)
            if both.closed.done():
                error = both.closed.result()
                assert isinstance(error, RemoteProtocolError)
                assert error.rule
            both.connection.close()
            for call in calls:
                await asyncio.wait([call.future])
                assert call.future.exception() is None or isinstance(call.future.exception(), AnnexeError)
            assert all(stream.call.future.done() for stream in streams)

    asyncio.run(scenario())
