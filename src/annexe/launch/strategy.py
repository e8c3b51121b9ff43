"""How a plugin is brought to life: the seam between the supervisor and whatever makes processes.

Only the supervisor uses this. It asks a strategy for one ``LaunchedPlugin`` per instance, talks to the plugin over its ``sock``, and
takes it down with ``terminate``, ``kill`` and ``close``. A strategy knows nothing of the protocol, of restarts or of calls.

Source: features IS2, LC7, LC8; docs/explanation/launching.md.
"""

from __future__ import annotations

import signal as signals
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from annexe.channel.memory_files import MemoryFiles
from annexe.launch.egress import Egress
from annexe.sandbox import IsolationLevel, Profile, Receipt, Walls
from annexe.sandbox.cgroup import GroupUsage
from annexe.sandbox.receipt import TreeKill

__all__ = ["ExitStatus", "LaunchRequest", "LaunchStrategy", "LaunchedPlugin", "TreeReport"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """One instance to be launched, everything decided: strategies take no policy decisions.

    Attributes:
        plugin: Id from the verified manifest.
        instance: Name of this instance, for records and messages.
        kind: ``python``, ``binary`` or ``node``.
        entry: For Python the module's dotted name, otherwise the program's path relative to ``folder``.
        folder: The plugin's folder, absolute, symbolic links resolved.
        environment: What ``plugin_environment`` made; the strategy adds only ``TMPDIR`` and ``ANNEXE_FD``.
        profile: Limits.
        requires_python: Version range from the manifest; empty means any.
        floor: Lowest isolation level that manifest and operator accept.
        hosts_own: Folders of the host that no grant gives away.
        arena_bytes: Size of each of the two memory files that it shares with the host; 0: none.
        warm: Fork it from a fork server of the plugin's own, where that can be done; otherwise it is started like all others.
    """

    plugin: str
    instance: str
    kind: str
    entry: str
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    profile: Profile = field(default_factory=Profile)
    requires_python: str = ""
    floor: IsolationLevel = IsolationLevel.NONE
    hosts_own: tuple[Path, ...] = ()
    arena_bytes: int = 0
    warm: bool = False


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ExitStatus:
    """How a plugin ended; neither status nor signal when that cannot be known (something else in the application reaped the child).

    Attributes:
        code: Its exit status.
        signal: What killed it.
        out_of_memory: The kernel had killed processes of its control group for the group's memory limit.
    """

    code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False

    @property
    def text(self) -> str:
        """Return the ending in words."""
        if self.signal is not None:
            try:
                name = signals.Signals(self.signal).name
            except ValueError:  # real-time signals have no name
                name = f"signal {self.signal}"
            return f"killed by {name}" + ("; its control group had been at its memory limit" if self.out_of_memory else "")
        return "ended in an unknown way" if self.code is None else f"exited with status {self.code}"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TreeReport:
    """What ``close`` found of the plugin's process tree.

    Attributes:
        gone: Nothing of it is left, as far as this level can tell.
        stragglers: How many processes had left the plugin's process group and had to be hunted down.
        tree_kill: From the receipt: ``hard``, ``soft`` or ``none``.
    """

    gone: bool
    stragglers: int = 0
    tree_kill: TreeKill = "soft"


class LaunchedPlugin(ABC):
    """One live instance, from the moment the strategy made it until ``close`` has returned.

    Attributes:
        sock: The host's end of the channel, non-blocking. Closing it twice is harmless; ``close`` does so too.
        pid: Process id of the plugin; None where it has no process.
        stdout: Read end of the plugin's standard output, non-blocking; None where it is not captured. Owned by this object: readers
            use ``os.read`` and must stop before ``close`` is called, and must not close it.
        stderr: The same for standard error.
        egress: Its way out, for one that was granted network; None where there is none.
        receipt: What is enforced; until ``confirm`` has returned, what was put up.
        files: Memory shared with it, which the connection is to close; None where there is none.
    """

    sock: socket.socket
    pid: int | None
    stdout: int | None
    stderr: int | None
    egress: Egress | None = None
    receipt: Receipt
    files: MemoryFiles | None = None

    def confirm(self) -> None:  # noqa: B027 - where there is nothing to read, nothing is confirmed
        """Read back from the kernel what holds the plugin, and bring ``pid`` and ``receipt`` up to date.

        Called by the supervisor once the plugin has shaken hands and before its code is loaded. Takes some tenths of a millisecond.

        Raises:
            SandboxError: A wall that was put up does not stand.
        """

    def group_usage(self) -> GroupUsage | None:
        """Return what its control group tells; None without one. Called from worker threads.

        Raises:
            OSError: The group is gone, or cannot be read.
        """
        return None

    @abstractmethod
    async def wait(self) -> ExitStatus:
        """Return once the plugin's main process has ended.

        Called by the supervisor as soon as it has the instance, to learn of a crash, and again in the stop ladder. May be awaited many
        times and cancelled.
        """

    @abstractmethod
    def terminate(self) -> None:
        """Ask the plugin's process group to end (SIGTERM).

        Called by the supervisor when ``annexe.shutdown`` was not answered in time. No effect after the end.
        """

    @abstractmethod
    def kill(self) -> None:
        """End the plugin's process group at once (SIGKILL).

        Called by the supervisor when SIGTERM did not help, and for plugins that broke the protocol. No effect after the end.
        """

    @abstractmethod
    async def close(self) -> TreeReport:
        """Kill what is left, verify that the whole tree is gone, and give everything back: descriptors, uid, private folder.

        Called by the supervisor exactly when it is done with the instance, whatever happened before; further calls return the same
        report. Takes a few milliseconds when the plugin has ended, at most ``CLOSE_DEADLINE_S`` otherwise.

        Raises:
            LaunchError: Not everything could be given back; further calls raise it again.
        """


class LaunchStrategy(ABC):
    """Makes plugins live in one particular way."""

    async def expected_walls(self) -> Walls:
        """Return which walls a plugin that asks for nothing would get here; where nothing was launched yet, that is tried first.

        Called for plugins that do not run, to say what their rights and limits would be worth.
        """
        return Walls(own_process=False)

    @abstractmethod
    async def launch(self, request: LaunchRequest) -> LaunchedPlugin:
        """Start one instance and return at once; the plugin has not said hello yet.

        Called by the supervisor for every start and restart, also for several plugins at a time. If the call is cancelled, nothing
        stays behind.

        Raises:
            LaunchError: No process could be made; the text holds the cure.
            UnsupportedPlatformError: Not on this operating system.
            SandboxError: The level that can be had here is below ``request.floor``.
        """

    def release(self, plugin: str) -> None:  # noqa: B027 - where nothing is kept ready, nothing is given back
        """Keep nothing ready for a plugin that is not to run soon; without effect on what runs. Called on the event loop.

        Args:
            plugin: Id.
        """

    @abstractmethod
    async def close(self) -> None:
        """Give the strategy's own resources back.

        Called by the host once, after every launched plugin has been closed.
        """
