"""What the host looks at when an attacker cannot tell, or died of it: whether the attack worked.

Each check is a function of a ``Scene`` that returns what it saw when the attack worked, and None when it did not. What the attacker says
(``facts``) narrows a check down and never decides it.

Source: feature IS10.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, final

from annexe import Host
from annexe.attack.contract import Bystander
from annexe.attack.world import World
from annexe.errors import AnnexeError

__all__ = ["AFTER_END", "CHECKS", "PATIENT", "Measured", "Scene", "measure"]

_MIB = 1024 * 1024
_ARRIVAL_S = 0.3
_CHASE_S = 0.15
_ANSWER_S = 3.0
_FROZEN_S = 3.0  # an attack of ``PATIENT`` gets one second, and then the host is to look
_PIPE_BYTES = 65536
_F_GETPIPE_SZ = 1032
_MEMORY_BYTES = 192 * _MIB
_LOG_BYTES = 40 * _MIB
_STRAY_DESCRIPTORS = 8


@final
@dataclass(frozen=True, slots=True)
class Measured:
    """The host before an attack."""

    descriptors: int
    memory_bytes: int
    at: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Where an attack was made.

    Attributes:
        world: The targets.
        host: The host, with attacker and bystander.
        attacker: Id of the attacker.
        bystander: Id of the other plugin.
        before: The host before the attack.
        facts: What the attacker says; of any kind.
    """

    world: World
    host: Host
    attacker: str
    bystander: str
    before: Measured
    facts: Mapping[str, Any]


_Check = Callable[[Scene], Awaitable[str | None]]


def measure() -> Measured:
    """Return the host's figures as they are now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Measured(len(os.listdir("/proc/self/fd")), pages * os.sysconf("SC_PAGE_SIZE"), monotonic())  # noqa: PTH208 - names alone


# Files.


async def _planted(scene: Scene) -> str | None:
    found = scene.world.planted()
    return f"{found[0]} is there" if found else None


async def _changed(scene: Scene) -> str | None:
    return "the file is not as it was" if scene.world.is_changed() else None


async def _attribute(scene: Scene) -> str | None:
    try:
        value = os.getxattr(scene.world.root / "home" / "open-file", "user.escape")
    except OSError:
        return None
    return f"the attribute has {len(value)} bytes"


async def _precious(scene: Scene) -> str | None:
    return "the host removed its own files" if scene.world.has_lost() else None


async def _work_left(scene: Scene) -> str | None:
    return await asyncio.to_thread(_left_folder, scene)


def _left_folder(scene: Scene) -> str | None:
    folders = {_as_path(scene.facts.get("folder"))}
    scratch = scene.host.state_dir.path / "cache" / "scratch"
    folders |= set(scratch.glob(f"{scene.attacker}-*")) if scratch.is_dir() else set()
    left = [folder for folder in folders if folder.name.startswith(scene.attacker) and os.path.lexists(folder)]
    return f"{left[0]} is still there" if left else None


async def _on_host_disk(scene: Scene) -> str | None:
    places = (scene.host.state_dir.path, Path("/"), Path("/tmp"), Path("/var/cache"), Path("/dev/shm"))  # noqa: S108 - looked at alone
    device = scene.facts.get("device")
    found = [place for place in places if place.is_dir() and place.stat().st_dev == device]
    return f"on the file system of {found[0]}" if found else None


def _as_path(said: object) -> Path:
    return Path(said) if isinstance(said, str) and "\0" not in said else Path()


# Processes.


async def _left_alive(scene: Scene) -> str | None:
    found = await asyncio.to_thread(_living, scene.world.marker)
    return f"process {found} is alive" if found else None


async def _still_beats(scene: Scene) -> str | None:
    """See a process that forks and ends all the time, and so is seldom there at the very moment: it writes into a file."""
    beats = scene.world.root / "home" / "open" / scene.world.marker
    sizes = []
    for _ in range(2):
        sizes.append(beats.stat().st_size if beats.exists() else 0)
        await asyncio.sleep(_CHASE_S)
    return f"{sizes[1] - sizes[0]} generations since" if sizes[1] > sizes[0] else await _left_alive(scene)


def _living(name: str) -> int:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if (folder / "comm").read_text().strip() == name and not _has_ended(int(folder.name)):
                    return int(folder.name)
            except OSError:  # gone meanwhile
                continue
    return 0


def _has_ended(pid: int, *, states: str = "ZX") -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in states
    except OSError:
        return True


async def _victim_ended(scene: Scene) -> str | None:
    await asyncio.sleep(0.02)
    return "it ended, or was stopped" if _has_ended(scene.world.victim.child.pid, states="ZXTt") else None


# The host's own health.


async def _host_answers(scene: Scene) -> str | None:
    took_s = monotonic() - scene.before.at
    if took_s > _FROZEN_S:  # it answers again, now
        return f"the host did nothing else for {took_s:.1f} s"
    return await _others_answer(scene)


async def _others_answer(scene: Scene) -> str | None:
    began = monotonic()
    try:
        async with scene.host.request(deadline_s=_ANSWER_S) as request:
            answer = await request.extension(Bystander).ping()
    except AnnexeError as error:
        return f"another plugin cannot be called: {error.message}"
    if answer != "well":
        return f"another plugin's answer was {answer!r}"
    return f"another plugin's answer took {monotonic() - began:.1f} s" if monotonic() - began > _ANSWER_S / 2 else None


async def _host_memory(scene: Scene) -> str | None:
    grown = measure().memory_bytes - scene.before.memory_bytes
    return f"the host has {grown // _MIB} MiB more" if grown > _MEMORY_BYTES else await _host_answers(scene)


async def _host_descriptors(scene: Scene) -> str | None:
    more = measure().descriptors - scene.before.descriptors
    return f"the host has {more} descriptors more" if more > _STRAY_DESCRIPTORS else await _others_answer(scene)


async def _host_pipes(_scene: Scene) -> str | None:
    import fcntl  # not on Windows

    ends = os.pipe()
    try:
        size = fcntl.fcntl(ends[0], _F_GETPIPE_SZ)
    finally:
        for fd in ends:
            os.close(fd)
    return f"a new pipe of the host's has room for {size} bytes" if size < _PIPE_BYTES else None


async def _host_watches(_scene: Scene) -> str | None:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init()
    if fd >= 0:
        os.close(fd)
        return None
    return f"the host gets no watch any more: {os.strerror(ctypes.get_errno())}"


# The network and terminals.


async def _delivered(scene: Scene) -> str | None:
    until = monotonic() + _ARRIVAL_S
    while monotonic() < until:
        if scene.world.token.encode() in scene.world.services.take_arrived():
            return "it arrived"
        await asyncio.sleep(0.01)
    return None


async def _port_open(scene: Scene) -> str | None:
    said = scene.facts.get("port", scene.world.services.free_port)
    port = said if isinstance(said, int) and 0 < said < 65536 else scene.world.services.free_port
    return await asyncio.to_thread(_hears, scene.world.token, socket.AF_INET, ("127.0.0.1", port))


async def _name_taken(scene: Scene) -> str | None:
    return await asyncio.to_thread(_hears, scene.world.token, socket.AF_UNIX, f"\0{scene.world.services.abstract_free_name}")


def _hears(token: str, family: int, address: object) -> str | None:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(1.0)
        try:
            sock.connect(address)  # type: ignore[arg-type]  # of its family
            return "the host connected to it" if token.encode() in sock.recv(4096) else None
        except OSError:
            return None


async def _shown(scene: Scene) -> str | None:
    return "it was shown" if scene.world.token.encode() in _read(scene.world.terminal[0]) else None


async def _typed(scene: Scene) -> str | None:
    return "it was typed" if scene.world.token[:8].encode() in _read(scene.world.terminal[1]) else None


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:  # nothing there
        return b""


# Logs.


async def _log_size(scene: Scene) -> str | None:
    size = await asyncio.to_thread(lambda: sum(path.stat().st_size for path in _log_files(scene)))
    return f"its log has {size // _MIB} MiB" if size > _LOG_BYTES else await _others_answer(scene)


async def _other_log(scene: Scene) -> str | None:
    records = await asyncio.to_thread(scene.host.logs.tail, scene.bystander, 100)
    return "it is in another plugin's log" if scene.world.token in repr(records) else None


async def _log_escapes(scene: Scene) -> str | None:
    await asyncio.to_thread(scene.host.logs.tail, scene.attacker, 1)  # what is queued is on disk then
    content = await asyncio.to_thread(lambda: b"".join(path.read_bytes()[-_MIB:] for path in _log_files(scene)))
    return "the log has them as they are" if b"\x1b" in content or b"\r" in content else None


def _log_files(scene: Scene) -> list[Path]:
    return [path for path in scene.host.state_dir.logs.rglob("*") if path.is_file() and scene.attacker in str(path)]


CHECKS: Mapping[str, _Check] = {
    "planted": _planted,
    "changed": _changed,
    "attribute": _attribute,
    "precious": _precious,
    "work-left": _work_left,
    "on-host-disk": _on_host_disk,
    "left-alive": _left_alive,
    "still-beats": _still_beats,
    "victim-ended": _victim_ended,
    "host-answers": _host_answers,
    "host-memory": _host_memory,
    "host-descriptors": _host_descriptors,
    "host-pipes": _host_pipes,
    "host-watches": _host_watches,
    "delivered": _delivered,
    "port-open": _port_open,
    "name-taken": _name_taken,
    "shown": _shown,
    "typed": _typed,
    "log-size": _log_size,
    "other-log": _other_log,
    "log-escapes": _log_escapes,
}

AFTER_END = frozenset({"precious", "work-left", "left-alive", "still-beats"})
"""Checks that look at what is left when the attacker was stopped."""

PATIENT = frozenset({"host-answers", "host-memory"})
"""Checks of attacks that never answer: what counts is the host, meanwhile."""
