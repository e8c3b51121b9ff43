"""The channel, by hand: bytes that no SDK would send. The host must not be troubled."""

from __future__ import annotations

import os
import socket
import struct
import time

from .catalogue import attack
from .outcome import judge

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from .outcome import Outcome
    from .targets import Targets

__all__: list[str] = []

_CHANNEL = 3
_MAX_FRAME = 10 * 1024 * 1024


def _send(body: bytes) -> None:
    """Send one frame."""
    view = memoryview(struct.pack(">I", len(body)) + body)
    while view:
        view = view[os.write(_CHANNEL, view) :]


@attack("huge-frame", "Announce a message of four gigabytes.", stopped_by=("host",), check="host-answers")
def _huge_frame(_targets: Targets) -> Outcome:
    os.write(_CHANNEL, b"\xff\xff\xff\xff")
    return judge("announced it")


@attack("empty-frame", "Send a message of no bytes.", stopped_by=("host",), check="host-answers")
def _empty_frame(_targets: Targets) -> Outcome:
    os.write(_CHANNEL, b"\x00\x00\x00\x00")
    return judge("sent it")


@attack("garbage", "Send chance.", stopped_by=("host",), check="host-answers")
def _garbage(_targets: Targets) -> Outcome:
    os.write(_CHANNEL, os.urandom(16384))
    return judge("sent it")


@attack("half-a-frame", "Begin a message and never end it.", stopped_by=("host",), check="host-answers")
def _half_a_frame(_targets: Targets) -> Outcome:
    os.write(_CHANNEL, struct.pack(">I", _MAX_FRAME) + b'[2, "log", {"level": "info", "message": "')
    time.sleep(60)
    return judge("waited")


@attack("trickle", "Send a message of 10 MiB nearly whole, and keep the host's memory.", stopped_by=("host",), check="host-memory")
def _trickle(_targets: Targets) -> Outcome:
    view = memoryview(struct.pack(">I", _MAX_FRAME) + b"[" * (_MAX_FRAME - 1))
    while view:
        view = view[os.write(_CHANNEL, view) :]
    time.sleep(60)
    return judge("waited")


@attack("deep-message", "Send lists within lists, 100,000 deep.", stopped_by=("host",), check="host-answers")
def _deep_message(_targets: Targets) -> Outcome:
    _send(b'[2,"log",' + b"[" * 100_000 + b"]" * 100_000 + b",{}]")
    return judge("sent it")


@attack(
    "many-values",
    "Send a message of three million empty lists, small to send and large to hold.",
    stopped_by=("host",),
    check="host-memory",
)
def _many_values(_targets: Targets) -> Outcome:
    _send(b'[0,2,"kv.set",{"key":"k","value":[' + b"[]," * 3_000_000 + b"0]},{}]")
    return judge("sent it")


@attack("false-length", "Send MessagePack that announces four billion values.", stopped_by=("host",), check="host-memory")
def _false_length(_targets: Targets) -> Outcome:
    _send(b"\x94\x02\xa3log\xdd\xff\xff\xff\xff\x80")
    return judge("sent it")


@attack("long-number", "Send a number of a million digits.", stopped_by=("host",), check="host-answers")
def _long_number(_targets: Targets) -> Outcome:
    _send(b'[0,2,"kv.get",{"key":' + b"9" * 1_000_000 + b"},{}]")
    return judge("sent it")


@attack("answer-unasked", "Answer what was never asked.", stopped_by=("host",), check="host-answers")
def _answer_unasked(_targets: Targets) -> Outcome:
    _send(b"[1,999999,null,42,{}]")
    return judge("answered")


@attack("answer-others", "Answer every question that the host may have asked of others.", stopped_by=("host",), check="host-answers")
def _answer_others(_targets: Targets) -> Outcome:
    for number in range(399, 0, -2):  # its own question is among the first, and with its answer the attack is over
        _send(b'[1,%d,null,"forged",{}]' % number)
    return judge("answered 200")


@attack("never-read", "Ask and never read the answers, so that the host's writing waits.", stopped_by=("host",), check="host-answers")
def _never_read(_targets: Targets) -> Outcome:
    number = 2
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        _send(b'[0,%d,"kv.list",{"prefix":"","limit":1000},{}]' % number)
        number += 2
    time.sleep(60)
    return judge("asked")


@attack("half-close", "Close one direction of the channel and live on.", stopped_by=("host",), check="host-answers")
def _half_close(_targets: Targets) -> Outcome:
    with socket.socket(fileno=os.dup(_CHANNEL)) as channel:
        channel.shutdown(socket.SHUT_WR)
    time.sleep(60)
    return judge("waited")


@attack("flood-requests", "Ask the host as fast as it goes.", stopped_by=("host",), check="host-answers")
def _flood_requests(_targets: Targets) -> Outcome:
    until = time.monotonic() + 10.0
    number = 2
    while time.monotonic() < until:
        bodies = [b'[0,%d,"no.such.method",null,{}]' % one for one in range(number, number + 400, 2)]
        view = memoryview(b"".join(struct.pack(">I", len(body)) + body for body in bodies))
        while view:
            view = view[os.write(_CHANNEL, view) :]
        number += 400
    return judge(f"asked {number // 2} times")


@attack("old-frame", "Send the host what only the host sends: orders, in marshal.", stopped_by=("host",), check="host-answers")
def _old_frame(_targets: Targets) -> Outcome:
    import marshal

    _send(marshal.dumps({"program": ["/bin/sleep", "60"], "host_pid": 0}))
    return judge("sent it")
