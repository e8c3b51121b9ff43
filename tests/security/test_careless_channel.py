"""Attacks on channel, protocol, time and captured output work on a host that is careless.

What holds these attacks is the host's own code, which is always on. So here just that code is written carelessly, one attack at a time and
with the walls off as well: the same attack must then succeed, and by the effect that is expected.

* A careless host that would wait for ever waits for ``_FREEZE_S``, so that the test ends; the judge's patience is shortened to match.
* What is careless is the code that is left when a defence is taken off, not code that helps the attacker.
"""

from __future__ import annotations

import asyncio
import ctypes
import dataclasses
import gc
import json
import marshal
import os
import re
import select
import socket
import subprocess
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from time import monotonic, sleep
from typing import Any

import msgspec
import pytest

from annexe.attack.catalogue import attacks
from annexe.attack.contract import Outcome
from annexe.attack.suite import run_attacks
from annexe.capabilities import services
from annexe.capabilities.kv_handle import KvHandle
from annexe.capabilities.services import PluginServices
from annexe.channel import RequestMeta
from annexe.channel.connection import Connection
from annexe.channel.transport import Transport
from annexe.errors import RemoteProtocolError
from annexe.record import PipeCapture, PluginLog, PluginMetrics
from annexe.record.entry import Entry
from annexe.record.lines import LineSplitter
from annexe.record.logs import LogStore
from annexe_sdk.frames import FrameBuffer, FrameError
from tests.security.test_attacks import without_walls

pytestmark = [pytest.mark.timeout(90), pytest.mark.any_user]

Patch = pytest.MonkeyPatch

_FREEZE_S = 0.9
_FROZEN_S = 0.7
_ATTACK_S = 0.2
_TRIES = 3  # some race with the host, and on a busy machine the attacker may not have its turn
_WHOLE_ATTACK_S = 8.0
_RUN = "ext.escape.run"


class Frozen:
    """How long a careless host may still stand still, in seconds: for ever, but for the test's sake.

    Attributes:
        is_under_attack: The attack was begun; what starts and ends before is nobody's business here.
    """

    def __init__(self, patch: Patch) -> None:
        self._left_s = _FREEZE_S
        self.is_under_attack = False
        begin = Connection.begin

        def begin_and_note(connection: Connection, method: str, *args: Any, **named: Any) -> Any:
            self.is_under_attack |= method == _RUN
            return begin(connection, method, *args, **named)

        patch.setattr(Connection, "begin", begin_and_note)

    def until(self) -> float:
        return monotonic() + self._left_s

    def spend(self, began: float) -> None:
        self._left_s = max(0.0, self._left_s - (monotonic() - began))


# Reading and writing.


def reads_message_by_message(patch: Patch, *, knows_the_end: bool = True) -> None:
    """Read as from a file: the length, then as many bytes, waiting where one stands. No length is too long, nobody else has a turn."""

    def take(sock: socket.socket, count: int, until: float) -> bytes:
        taken = bytearray()
        while len(taken) < count:
            if monotonic() > until:
                raise TimeoutError
            chunk = sock.recv(min(count - len(taken), 65536))
            if not chunk and knows_the_end:
                raise EOFError
            taken += chunk
        return bytes(taken)

    frozen, read = Frozen(patch), Transport._on_readable

    def on_readable(self: Transport) -> None:
        if not frozen.is_under_attack:
            read(self)
            return
        began, until = monotonic(), frozen.until()
        self._sock.settimeout(max(0.0, until - began))
        try:
            frame = take(self._sock, int.from_bytes(take(self._sock, 4, until), "big"), until)
        except (OSError, EOFError):
            frozen.spend(began)
            self._lose(None)
        else:
            self._sock.setblocking(False)
            self._on_frame(frame)

    patch.setattr(Transport, "_on_readable", on_readable)


def reads_all_in_one_task(patch: Patch) -> None:
    """Read for all plugins in one place: an exception that is not expected there ends it, and with it every connection."""
    transports: list[Transport] = []

    def on_readable(self: Transport) -> None:
        if self not in transports:
            transports.append(self)
        try:
            chunk = self._recv(65536)
        except OSError:
            chunk = b""
        try:
            if not chunk:
                self._lose(None)
                return
            for frame in self._buffer.feed(chunk):
                if not self._closed:
                    self._on_frame(frame)
        except (FrameError, RemoteProtocolError):
            self._lose(None)
        except Exception:
            for transport in transports:
                transport._lose(None)

    patch.setattr(Transport, "_on_readable", on_readable)


def reads_all_that_is_there(patch: Patch) -> None:
    """Read one plugin's messages until there are none any more, and only then look at anything else."""
    frozen, read = Frozen(patch), Transport._on_readable

    def on_readable(self: Transport) -> None:
        if not frozen.is_under_attack:
            read(self)
            return
        began, until = monotonic(), frozen.until()
        try:
            while not self._closed:
                chunk = self._recv(65536)
                if not chunk:
                    self._lose(None)
                    return
                for frame in self._buffer.feed(chunk):
                    self._on_frame(frame)
                if monotonic() > until:
                    self._lose(None)  # else the test would go on with it
        except BlockingIOError:
            return
        except OSError:
            self._lose(None)
        finally:
            frozen.spend(began)

    patch.setattr(Transport, "_on_readable", on_readable)


def takes_frames_of_any_length(patch: Patch) -> None:
    def feed(self: FrameBuffer, chunk: bytes) -> list[bytes]:
        self._pending += chunk
        frames = []
        while len(self._pending) >= 4:
            end = 4 + int.from_bytes(self._pending[:4], "big")
            if len(self._pending) < end:
                break
            frames.append(bytes(memoryview(self._pending)[4:end]))
            del self._pending[:end]
        return frames

    patch.setattr(FrameBuffer, "feed", feed)


def writes_where_it_stands(patch: Patch) -> None:
    def write(self: Transport, body: bytes, _alone: bool) -> None:
        if self._closed:
            return
        self._sock.settimeout(_FREEZE_S)
        try:
            self._sock.sendall(len(body).to_bytes(4, "big") + body)
            self._sock.setblocking(False)
        except OSError:
            self._lose(None)

    patch.setattr(Transport, "write", write)


def waits_where_it_stands(patch: Patch) -> None:
    """Wait for the answer of a call in the same place that made it, as a program without an event loop does."""
    begin = Connection.begin

    def begin_and_wait(self: Connection, method: str, *args: Any, **named: Any) -> Any:
        call = begin(self, method, *args, **named)
        until = monotonic() + _FREEZE_S
        while method == _RUN and not call.future.done() and monotonic() < until:
            if self._transport._closed:
                sleep(0.01)
            elif select.select([self._transport._sock], [], [], 0.1)[0]:
                self._transport._on_readable()
        return call

    patch.setattr(Connection, "begin", begin_and_wait)


# One careless host for each attack.


def decoded(raw: msgspec.Raw, codec: str) -> Any:
    return msgspec.msgpack.decode(raw) if codec == "msgpack" else msgspec.json.decode(raw)


def empty_frame(patch: Patch) -> None:
    """What comes is looked at from its first byte."""
    takes_frames_of_any_length(patch)
    reads_all_in_one_task(patch)


def trickle(patch: Patch) -> None:
    """Values are made as they come, before the message is whole: ten million lists, but here the machine shall live."""
    values: list[list[Any]] = []
    feed = FrameBuffer.feed

    def feed_and_make(self: FrameBuffer, chunk: bytes) -> list[bytes]:
        if len(values) < 1_200_000:
            values.extend([0] * 16 for _ in range(chunk.count(b"[")))
        return feed(self, chunk)

    patch.setattr(FrameBuffer, "feed", feed_and_make)


def deep_message(patch: Patch) -> None:
    """The decoder's own error is expected, that of the interpreter is not."""
    patch.setattr("annexe.channel.connection.DECODE_FAULTS", (msgspec.MsgspecError,))
    reads_all_in_one_task(patch)


def many_values(patch: Patch) -> None:
    """Whatever fits into a frame is decoded, and kept so that reading it again is quick."""
    kept: dict[str, Any] = {}

    def call_kv(_kv: KvHandle, _name: str, call: Any) -> None:
        params = decoded(call.params, call.codec)
        kept[params["key"]] = params["value"]

    patch.setattr("annexe.channel.incoming.is_too_much", lambda _frame: False)
    patch.setattr(services, "_call_kv", call_kv)


def false_length(patch: Patch) -> None:
    """Make room for as many values as are announced, until they come: for four billion, but here the machine shall live."""
    rooms: list[list[None]] = []
    on_frame = Connection._on_frame

    def make_room(self: Connection, frame: bytes) -> None:
        announced = int.from_bytes(frame[7:11], "big") if frame[6:7] == b"\xdd" and frame[:2] == b"\x94\x02" else 0
        if announced:
            rooms.append([None] * min(announced, 32 * 1024 * 1024))
        else:
            on_frame(self, frame)

    patch.setattr(Connection, "_on_frame", make_room)


def long_number(patch: Patch) -> None:
    """Parameters of any length are decoded, and numbers made of their digits one by one: in time that grows with the square of those."""
    call_kv = services._call_kv

    def number(digits: str) -> int:
        value, until = 0, monotonic() + _FREEZE_S
        for digit in digits:
            value = 10 * value + int(digit)
            if monotonic() > until:
                break
        return value

    def decode_and_call(kv: KvHandle, name: str, call: Any) -> Any:
        if call.codec == "json":
            json.loads(bytes(call.params), parse_int=number)
        return call_kv(kv, name, call)

    patch.setattr(services, "_call_kv", decode_and_call)


def answer_unasked(patch: Patch) -> None:
    """Every answer has its call."""

    def refuse_response(_self: Connection, ident: int) -> None:
        raise KeyError(ident)

    patch.setattr(Connection, "refuse_response", refuse_response)
    reads_all_in_one_task(patch)


def answer_others(patch: Patch) -> None:
    """Answers of all plugins lie in one table by their number, and nobody asks who gave them or when."""
    answers: dict[int, Any] = {}
    take_response, send = Connection.take_response, Connection._send

    def take(self: Connection, message: Any) -> None:
        if message.id in self.open_calls:
            take_response(self, message)
        else:
            answers[message.id] = message

    def send_and_look(self: Connection, call: Any) -> None:
        send(self, call)
        if call.id in answers:
            take_response(self, answers.pop(call.id))

    patch.setattr(Connection, "take_response", take)
    patch.setattr(Connection, "_send", send_and_look)


def old_frame(patch: Patch) -> None:
    """The host takes orders as the stub does, from whoever sends them, and waits for what it has started."""
    on_frame = Connection._on_frame

    def obey(self: Connection, frame: bytes) -> None:
        if frame[0] & 0x7F != 0x7B:  # a map in marshal
            on_frame(self, frame)
            return
        program = marshal.loads(frame)["program"]
        try:
            subprocess.run(program, check=False, timeout=_FREEZE_S)
        except subprocess.TimeoutExpired:
            return

    patch.setattr(Connection, "_on_frame", obey)


def host_freeze_pipe(patch: Patch) -> None:
    """Output is read line by line, waiting for the end of each."""

    def read(self: PipeCapture) -> bool:
        line, until = b"", monotonic() + _FREEZE_S
        while not line.endswith(b"\n") and monotonic() < until:
            if select.select([self._descriptor], [], [], max(0.0, until - monotonic()))[0]:
                byte = os.read(self._descriptor, 1)
                if not byte:
                    self._end()
                    return False
                line += byte
        self._splitter.feed(line)
        return bool(line)

    patch.setattr(PipeCapture, "_read", read)


def capability_not_granted(patch: Patch) -> None:
    """What the application offers is there for every plugin."""
    make = PluginServices.__init__

    def offer_all(self: PluginServices, manifest: Any, granted: frozenset[str], **named: Any) -> None:
        make(self, manifest, granted | {f"cap:{name}" for name in named["capabilities"]}, **named)

    patch.setattr(PluginServices, "__init__", offer_all)


def host_method(patch: Patch) -> None:
    """One table has what either side calls."""
    look_again = PluginServices.look_again

    def add_the_hosts(self: PluginServices) -> None:
        look_again(self)
        self._methods["annexe.shutdown"] = lambda _call: self.withdraw()

    patch.setattr(PluginServices, "look_again", add_the_hosts)


def other_plugin_keys(patch: Patch) -> None:
    """All plugins have one space of keys."""
    patch.setattr(KvHandle, "_space", lambda self, transaction: transaction.space("everybody", quota_bytes=self.quota_bytes))


def other_plugin_method(patch: Patch) -> None:
    """What the host does not know is passed on to the plugin that does."""
    connections: dict[str, Connection] = {}
    greeted, serve = Connection.greeted, PluginServices.serve

    def remember(self: Connection, *args: Any, **named: Any) -> None:
        connections[self.plugin] = self
        greeted(self, *args, **named)

    async def pass_on(call: Any) -> Any:
        response = await connections["annexe-bystander"].call(call.method, [], RequestMeta(), deadline=call.deadline)
        return decoded(response.result, response.codec)

    def serve_or_pass_on(self: PluginServices, call: Any) -> Any:
        return pass_on(call) if call.method.startswith("ext.bystander.") else serve(self, call)

    patch.setattr(Connection, "greeted", remember)
    patch.setattr(PluginServices, "serve", serve_or_pass_on)


def forge_log(patch: Patch) -> None:
    """A record is whose it says."""
    sinks: dict[str, PluginLog] = {}
    sink, put = LogStore.sink, PluginLog._put

    def remember(self: LogStore, plugin: str) -> PluginLog:
        sinks[plugin] = sink(self, plugin)
        return sinks[plugin]

    def put_where_it_says(self: PluginLog, entry: Entry) -> None:
        said = entry.fields.get("plugin", self.plugin) if isinstance(entry.fields, dict) else self.plugin
        put(sinks.get(said, self), dataclasses.replace(entry, plugin=said))

    patch.setattr(LogStore, "sink", remember)
    patch.setattr(PluginLog, "_put", put_where_it_says)


def log_escapes(patch: Patch) -> None:
    """The log is plain text."""
    patch.setattr("annexe.record.logs.encode_entry", lambda entry: f"{entry.level} {entry.message}\n".encode("utf-8", "replace"))


def log_flood(patch: Patch) -> None:
    """Every line is on disk before the next is read, however many there are."""

    def put(self: PluginLog, entry: Entry) -> None:
        path = self._journal._file._folder / "log.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, f"{entry.at} {entry.message} {entry.fields}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    patch.setattr(PluginLog, "is_open", lambda _self: True)
    patch.setattr(PluginLog, "_admits", lambda _self, _source: True)
    patch.setattr(PluginLog, "_put", put)
    reads_all_that_is_there(patch)


def endless_line(patch: Patch) -> None:
    """A line of any length is kept as text until its end comes."""
    held: list[bytes] = []

    def keep(self: LineSplitter, end: int) -> None:
        held.append(self._chunk[self._start : end].decode("latin-1").encode("utf-32"))
        self._start = end

    patch.setattr(LineSplitter, "_keep", keep)


def metric_bomb(patch: Patch) -> None:
    """Each name has room for the figure of every second of the last half-hour."""
    series: dict[tuple[str, str], array[float]] = {}

    def record(_self: PluginMetrics, name: Any, _kind: Any, value: Any, labels: Any = None) -> None:
        series.setdefault((name, str(labels)), array("d", bytes(8 * 1800)))[0] += value

    patch.setattr(services, "_METRICS_AT_ONCE", 1e9)
    patch.setattr(PluginMetrics, "record", record)


def wrong_answer(patch: Patch) -> None:
    """An answer is what was promised, and is read where it arrives."""
    take_response = Connection.take_response

    def read_and_take(self: Connection, message: Any) -> None:
        if self.open_calls[message.id].method == _RUN:
            Outcome(**decoded(message.result, message.codec))
        take_response(self, message)

    patch.setattr(Connection, "take_response", read_and_take)
    reads_all_in_one_task(patch)


def crash(patch: Patch) -> None:
    """No plugin goes away while it is called."""
    lost = Connection._lost

    def lose(self: Connection, error: Any) -> None:
        is_busy = self.is_busy
        lost(self, error)
        if is_busy:
            raise EOFError

    patch.setattr(Connection, "_lost", lose)
    reads_all_in_one_task(patch)


def exit_politely(patch: Patch) -> None:
    """Who goes without an error is not missed, so what it was asked stays asked."""
    lost = Connection._lost

    def lose_later(self: Connection, error: Any) -> None:
        if self.is_busy:
            self.loop.call_later(_FREEZE_S, lost, self, error)
        else:
            lost(self, error)

    patch.setattr(Connection, "_lost", lose_later)
    waits_where_it_stands(patch)


CARELESS: dict[str, Callable[[Patch], None]] = {
    "huge-frame": reads_message_by_message,
    "empty-frame": empty_frame,
    "garbage": reads_message_by_message,
    "half-a-frame": reads_message_by_message,
    "trickle": trickle,
    "deep-message": deep_message,
    "many-values": many_values,
    "false-length": false_length,
    "long-number": long_number,
    "answer-unasked": answer_unasked,
    "answer-others": answer_others,
    "never-read": writes_where_it_stands,
    "half-close": partial(reads_message_by_message, knows_the_end=False),
    "flood-requests": reads_all_that_is_there,
    "old-frame": old_frame,
    "host-freeze-pipe": host_freeze_pipe,
    "capability-not-granted": capability_not_granted,
    "host-method": host_method,
    "other-plugin-keys": other_plugin_keys,
    "other-plugin-method": other_plugin_method,
    "forge-log": forge_log,
    "log-escapes": log_escapes,
    "log-flood": log_flood,
    "endless-line": endless_line,
    "metric-bomb": metric_bomb,
    "huge-answer": takes_frames_of_any_length,
    "wrong-answer": wrong_answer,
    "stop-oneself": waits_where_it_stands,
    "never-return": waits_where_it_stands,
    "never-return-busy": waits_where_it_stands,
    "crash": crash,
    "exit-politely": exit_politely,
}


_IS_FROZEN = "the host did nothing else for"
_IS_LOST = "another plugin cannot be called"
_IS_FULL = r"the host has \d+ MiB more"
SEEN = {
    **dict.fromkeys(("empty-frame", "deep-message", "answer-unasked", "wrong-answer", "crash"), _IS_LOST),
    **dict.fromkeys(("trickle", "many-values", "false-length", "endless-line", "metric-bomb", "huge-answer"), _IS_FULL),
    "answer-others": "another plugin's answer was 'forged'",
    "capability-not-granted": "it answered 'the key to everything'",
    "host-method": "it answered None",
    "other-plugin-keys": "read one",
    "other-plugin-method": "it answered 'well'",
    "forge-log": "it is in another plugin's log",
    "log-escapes": "the log has them as they are",
}

TAKES_S = {"trickle": 5.0}
"""How long an attack is given that answers never, and yet takes its time."""


@pytest.fixture
def _memory_given_back() -> Iterator[None]:
    yield
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@pytest.mark.usefixtures("_memory_given_back")
@pytest.mark.parametrize("name", CARELESS)
def test_attack_works_on_a_careless_host(name: str, monkeypatch: Patch) -> None:
    seen = SEEN.get(name, _IS_FROZEN)
    limit_s = TAKES_S.get(name, _WHOLE_ATTACK_S if seen == _IS_FULL else _ATTACK_S)
    outcome = detail = ""
    for _ in range(_TRIES):
        with monkeypatch.context() as patch:
            patch.setattr("annexe.attack.suite._PATIENT_LIMIT_S", limit_s)
            patch.setattr("annexe.attack.judges._FROZEN_S", _FROZEN_S if seen == _IS_FROZEN else _WHOLE_ATTACK_S)
            patch.setattr("annexe.host.host.ProcessStrategy", without_walls())
            CARELESS[name](patch)
            outcome, detail = asyncio.run(made(name))
        if outcome == "through":
            break
    assert outcome == "through", detail
    assert re.search(seen, detail)


async def made(name: str) -> tuple[str, str]:
    """Make one attack; return what came of it, and the end of what is said of it, which may be long."""
    report = await run_attacks([attack for attack in attacks() if attack.name == name])
    return report.results[0].outcome, report.results[0].detail[-500:]
