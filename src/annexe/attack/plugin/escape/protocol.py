"""What the protocol allows, meant badly: rights one has not got, others' keys, logs that say what was not."""

from __future__ import annotations

import os
import struct

from .catalogue import attack
from .outcome import judge, stopped, through

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from .outcome import Outcome
    from .targets import Targets

__all__: list[str] = []

_CHANNEL = 3
_MIB = 1024 * 1024


def _write(content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(_CHANNEL, view) :]


def _asks(targets: Targets, method: str, params: object) -> Outcome:
    from annexe_sdk import CallFailed

    try:
        return through(f"it answered {targets.ctx._ask(method, params)!r}"[:200])
    except CallFailed as error:
        return stopped(f"{error.code}: {method}")


@attack("capability-not-granted", "Use what the application offers and did not grant.", stopped_by=("host",))
def _capability_not_granted(targets: Targets) -> Outcome:
    return _asks(targets, "cap.attack-vault.read", {"name": "key"})


@attack("host-method", "Call what only the host calls.", stopped_by=("host",))
def _host_method(targets: Targets) -> Outcome:
    return _asks(targets, "annexe.shutdown", None)


@attack("other-plugin-keys", "Read another plugin's keys from the store.", stopped_by=("host",))
def _other_plugin_keys(targets: Targets) -> Outcome:
    found = [targets.ctx.kv.get(key) for key in ("secret", f"{targets.other_plugin}/secret", f"../{targets.other_plugin}/secret")]
    return through("read one") if targets.token in found else stopped("it has its own alone")


@attack("other-plugin-method", "Call another plugin past the host.", stopped_by=("host",))
def _other_plugin_method(targets: Targets) -> Outcome:
    return _asks(targets, "ext.bystander.ping", [])


@attack("forge-log", "Write a line into the log that looks like another's.", stopped_by=("host",), check="other-log")
def _forge_log(targets: Targets) -> Outcome:
    line = f'{{"plugin": "{targets.other_plugin}", "source": "host", "message": "{targets.token}"}}'
    targets.ctx.log.info(f"harmless\n{line}", plugin=targets.other_plugin, source="host", instance=f"{targets.other_plugin}-1")
    os.write(2, f"\n{line}\n".encode())
    return judge("wrote it twice")


@attack("log-escapes", "Write commands for the terminal of whoever reads the log.", stopped_by=("host",), check="log-escapes")
def _log_escapes(targets: Targets) -> Outcome:
    targets.ctx.log.info("\x1b]0;owned\x07\x1b[2J\u202egnp", more="\x1b[31m\r\n")
    os.write(2, b"\x1b]0;owned\x07\x1b[2J\r\xe2\x80\xae\n")
    return judge("wrote them")


@attack("log-flood", "Log 100,000 lines at once.", stopped_by=("host",), check="host-answers")
def _log_flood(_targets: Targets) -> Outcome:
    body = b'[2,"log",{"level":"info","message":"flood","fields":{}},{}]'  # by hand: faster than the host can write them
    _write((struct.pack(">I", len(body)) + body) * 100_000)
    return judge("wrote them")


@attack("endless-line", "Print 64 MiB without the end of a line.", stopped_by=("host",), check="host-memory")
def _endless_line(_targets: Targets) -> Outcome:
    block = b"\xff" * _MIB
    for _ in range(64):
        os.write(1, block)
    return judge("printed it")


@attack("metric-bomb", "Measure 20,000 things of different names, each kept by the host.", stopped_by=("host",), check="host-memory")
def _metric_bomb(targets: Targets) -> Outcome:
    for number in range(20_000):
        targets.ctx.metrics.count(f"m{number}", 1, label="x" * 100)
    return judge("measured them")


@attack("huge-answer", "Answer with 256 MiB.", stopped_by=("host",), check="host-memory")
def _huge_answer(targets: Targets) -> Outcome:
    call = targets.ctx._call
    assert call is not None
    head, tail = b'[1,%d,null,{"verdict":"judge","facts":{},"detail":"' % call.id, b'"},{}]'  # by hand: the SDK would send an error
    _write(struct.pack(">I", len(head) + 256 * _MIB + len(tail)) + head)
    for block in (*[b"x" * _MIB] * 256, tail):
        _write(block)
    return judge("answered")


@attack("wrong-answer", "Answer with what is no answer.", stopped_by=("host",), check="host-answers")
def _wrong_answer(_targets: Targets) -> Outcome:
    return {"verdict": ["through"], "facts": {"a": [1] * 1000}}
