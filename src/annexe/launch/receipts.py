"""What the launcher put up around one launch, and its receipt. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from annexe.launch.strategy import LaunchRequest
from annexe.sandbox import Layer, Receipt, Walls, receipt_for
from annexe.sandbox.receipt import Lack, LayerState, TreeKill

__all__ = ["PutUp", "in_mib"]

_MIB = 1024 * 1024


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PutUp:
    """What was put up around one launch.

    Attributes:
        request: What was asked for.
        walls: Which walls.
        python: Interpreter that ran the stub, and the plugin if it is a Python one.
        uid: User it runs as.
        limits: Limits of the kernel, by their name in the ``resource`` module.
        filters: How many filters of system calls.
        tmp: What its temporary folder is, in words.
        is_linux: Otherwise macOS, where less can be done.
        can_tag: Its descendants can be recognised.
        notes: What else an operator should know.
        lacks: Walls that could not be had.
        is_warm: It was forked from a fork server of its own, which stays.
    """

    request: LaunchRequest
    walls: Walls
    python: str
    uid: int
    limits: Mapping[str, int]
    filters: int
    tmp: str
    is_linux: bool
    can_tag: bool
    notes: tuple[str, ...]
    lacks: tuple[Lack, ...] = ()
    is_warm: bool = False

    def receipt(self, *, confirmed: bool = False) -> Receipt:
        """Return the receipt.

        Args:
            confirmed: All that can be read back from the kernel was, and is as it should be.
        """
        layers = [*self._surroundings(confirmed), *self._walls(confirmed), *self._limits(confirmed)]
        return receipt_for(
            self.walls,
            uid=self.uid,
            layers=tuple(layers),
            tree_kill=self._tree_kill(),
            more=(*self.notes, *self._of_devices()),
            lacks=self.lacks,
        )

    def _surroundings(self, confirmed: bool) -> list[Layer]:
        own_uid, linux = self.walls.own_uid, _state(self.is_linux)
        shared = "memory shared with the host, " if self.request.arena_bytes else ""
        return [
            Layer("environment", "on", "from an allow-list, and what was granted"),
            Layer("descriptors", "on", f"the channel, {shared}standard streams, and no other"),
            Layer("own user", _state(own_uid), str(self.uid) if own_uid else "it takes a host that runs as root", confirmed and own_uid),
            Layer("no new privileges", linux, "", confirmed),
            Layer("end with the host", linux, self._how_ended()),
        ]

    def _how_ended(self) -> str:
        if not self.is_linux:
            return "it is told only by the end of the channel"
        return "by the kernel" if self.walls.namespaces or self._cannot_fork() else "by the kernel; its children by a warden of the host's"

    def _walls(self, confirmed: bool) -> list[Layer]:
        walls, here = self.walls, "see `annexe doctor`"
        calls = f"{self.filters} filters{self._refused_calls()}"
        return [
            _layer("namespaces", walls.namespaces, "files, processes, network, IPC, names, users", here, confirmed),
            Layer("temporary folder", _state(walls.keep_files), self.tmp + (", emptied when none of it runs" if self.is_warm else "")),
            # The kernel shows it nowhere: the stub has tried it, or there would be no plugin.
            _layer("landlock", walls.landlock_abi > 0, f"version {walls.landlock_abi}; a folder was refused to it", here, False),
            _layer("system calls", walls.seccomp, calls, here, confirmed),
        ]

    def _refused_calls(self) -> str:
        if self.request.profile.subprocess:
            return ""
        # A program has to be executed, and can execute itself anew.
        return "; no fork, no program" if self.request.kind == "python" else "; no fork"

    def _limits(self, confirmed: bool) -> list[Layer]:
        profile, group, walls = self.request.profile, self.walls.cgroup, self.walls
        limited = _state(walls.rlimits)
        memory: LayerState = "on" if "memory" in group else "soft" if self.is_linux and walls.rlimits else "off"
        whose = "for all its processes" if "memory" in group else "private to each process"
        counted = "pids" in group or "RLIMIT_NPROC" in self.limits
        tree_kill = self._tree_kill()
        return [
            Layer("memory", memory, f"{in_mib(profile.memory_bytes)} {whose}", confirmed and walls.rlimits),
            _layer("cpu", "cpu" in group, f"{profile.cpu:g} of a core", "it takes a control group", confirmed),
            _layer("tasks", counted, f"{profile.tasks} processes and threads, with those of the SDK", "counted per user", confirmed),
            Layer("open files", limited, f"{profile.open_files} for each process", confirmed and walls.rlimits),
            Layer("file size", limited, f"{in_mib(profile.file_bytes)} each", confirmed and walls.rlimits),
            Layer("core dumps", limited, "the kernel writes none", confirmed and walls.rlimits),
            Layer("niceness", "on", f"+{profile.nice}"),
            Layer("tree kill", "on" if tree_kill == "hard" else "soft" if self.can_tag else "off", self._how_killed()),
            Layer("python", "on", self.python + (", warm: forked from a fork server of its own" if self.is_warm else "")),
        ]

    def _of_devices(self) -> tuple[str, ...]:
        devices = self.request.profile.devices
        return (f"It may use {', '.join(devices)}: whatever the driver of these offers is within its reach.",) if devices else ()

    def _tree_kill(self) -> TreeKill:
        return "hard" if self.walls.own_uid or self.walls.namespaces or self._cannot_fork() else "soft"

    def _cannot_fork(self) -> bool:
        return self.walls.seccomp and not self.request.profile.subprocess

    def _how_killed(self) -> str:
        if self.is_warm:
            return "it can have no children"
        if self.walls.namespaces:
            return "its namespace of processes ends with it"
        if self.walls.own_uid:
            return "everything of its user"
        if self._cannot_fork():
            return "it can have no children"
        return "its process group, and descendants by the tag they inherit" if self.can_tag else "its process group only"


def in_mib(size_bytes: int) -> str:
    """Return a size in words; one below a MiB is not nothing."""
    return f"{size_bytes / _MIB:.10g} MiB"


def _state(is_on: bool) -> LayerState:
    return "on" if is_on else "off"


def _layer(name: str, is_on: bool, detail: str, otherwise: str, confirmed: bool) -> Layer:
    return Layer(name, "on", detail, confirmed) if is_on else Layer(name, "off", otherwise)
