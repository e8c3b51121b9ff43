"""Frames in MessagePack: the host sends them as soon as activation is answered, which may be before we have imported msgspec."""

import msgspec
import pytest

from annexe_sdk.codec import json_codec
from annexe_sdk.frames import pack_frame
from annexe_sdk.session import Broken, Session
from annexe_sdk.wire import REQUEST


def a_request() -> bytes:
    return pack_frame(msgspec.msgpack.encode([REQUEST, 1, "ext.echo.say", ["word"], {}]))


def test_msgpack_frame_that_comes_before_the_import_is_taken_when_it_was_agreed() -> None:
    session = Session(json_codec())
    session.expects_msgpack = True
    session.receive(a_request(), 0.0)
    assert session.msgpack is not None
    assert [call.params for call in session.ready] == [["word"]]


def test_msgpack_frame_that_was_not_agreed_breaks_the_protocol() -> None:
    session = Session(json_codec())
    with pytest.raises(Broken) as caught:
        session.receive(a_request(), 0.0)
    assert caught.value.rule == "codec-not-agreed"
