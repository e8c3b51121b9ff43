"""Files and folders of the machine that a plugin was granted: their real paths, or why they are not given.

A grant is text that a person read; what it leads to is decided here, at each start. Blocking.

Invariants:

* Only real paths are given: every link is followed here, once. What was found (device and inode) is told to the stub, which finds the same
  or does not start: nobody can exchange a folder for a link between the check and the mount.
* What would give more than its name says is refused: whole system folders, homes and hidden files in them, folders of sockets, the
  host's own state. A person who wants that gives the plugin a copy, or a folder made for it.

Source: feature PE1; docs/reference/permissions.md.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from annexe.errors import PluginBlockedError
from annexe.launch.folders import unreachable_at

__all__ = ["GrantedPath", "granted_paths", "why_not_given"]

_WHOLE = frozenset(
    f"/{name}" for name in ("", "boot", "etc", "home", "media", "mnt", "opt", "root", "srv", "tmp", "usr", "var", "var/lib", "var/tmp")
)
_KERNELS = ("/boot", "/dev", "/proc", "/run", "/sys", "/var/run")
_PROGRAMS = ("/bin", "/etc", "/lib", "/lib32", "/lib64", "/sbin", "/usr")


@final
@dataclass(frozen=True, slots=True)
class GrantedPath:
    """What a granted path leads to.

    Attributes:
        path: Real path.
        device: Number of its device.
        inode: Number of its inode.
    """

    path: str
    device: int
    inode: int


def granted_paths(
    plugin: str, wanted: Iterable[str], *, for_writing: bool, uid: int | None, hosts_own: Sequence[Path] = ()
) -> tuple[GrantedPath, ...]:
    """Return what granted paths lead to.

    Args:
        plugin: Id, for messages.
        wanted: As the manifest asks for them: absolute, without ``..``.
        for_writing: Whether it may also write there.
        uid: The user that it will run as; None: the host's.
        hosts_own: Folders of the host that nobody is given.

    Raises:
        PluginBlockedError: One of them is not there, cannot be reached, or is not given.
    """
    wanted = tuple(wanted)
    homes = tuple(_homes()) if wanted else ()
    return tuple(_granted(plugin, path, "write" if for_writing else "read", uid, hosts_own, homes) for path in wanted)


def why_not_given(plugin: str, *, read: Iterable[str], write: Iterable[str], uid: int | None, hosts_own: Sequence[Path]) -> list[str]:
    """Return why paths could not be given to a plugin that started now, one text each.

    Args:
        plugin: Id, for messages.
        read: As the manifest asks for them.
        write: The same, for writing.
        uid: A user such as it will run as; None: the host's.
        hosts_own: Folders of the host that nobody is given.
    """
    problems = []
    for paths, for_writing in ((read, False), (write, True)):
        for path in paths:
            try:
                granted_paths(plugin, [path], for_writing=for_writing, uid=uid, hosts_own=hosts_own)
            except PluginBlockedError as error:
                problems.append(error.message)
    return problems


def _granted(plugin: str, wanted: str, verb: str, uid: int | None, hosts_own: Sequence[Path], homes: Sequence[Path]) -> GrantedPath:
    def refusal(problem: str, cure: str) -> PluginBlockedError:
        text = f"plugin {plugin!r} asks to {verb} {wanted}, and {problem}; {cure}"
        return PluginBlockedError(text, plugin=plugin, path=wanted, verb=verb)

    try:
        real = Path(wanted).resolve(strict=True)
        found = real.stat()
    except (OSError, RuntimeError) as error:
        raise refusal(
            f"it cannot be found ({getattr(error, 'strerror', None) or error})", f"make it: mkdir -p {shlex.quote(wanted)}"
        ) from error
    if (reason := _reason_not_given(real, verb, hosts_own, homes)) is not None:
        where = f" leads to {real}, which" if str(real) != wanted else ""
        raise refusal(f"it{where} {reason}", "grant a folder that was made for it")
    if uid is None:
        wants = os.R_OK | (os.W_OK if verb == "write" else 0) | (os.X_OK if real.is_dir() else 0)
        if not os.access(real, wants):
            raise refusal(f"{real} is closed to the host's own user, whom it runs as", f"let that user {verb} it")
    elif (closed := unreachable_at(real, uid, for_writing=verb == "write")) is not None:
        modes, whom = ("x", "pass") if closed != real else (_modes(real, verb), verb)
        raise refusal(f"{closed} is closed to the plugin's own user", f"let others {whom}: chmod o+{modes} {shlex.quote(str(closed))}")
    return GrantedPath(str(real), found.st_dev, found.st_ino)


def _modes(real: Path, verb: str) -> str:
    """Return what others need there, as ``chmod`` takes it."""
    return f"r{'w' if verb == 'write' else ''}{'x' if real.is_dir() else ''}"


def _reason_not_given(real: Path, verb: str, hosts_own: Sequence[Path], homes: Sequence[Path]) -> str | None:
    """Return why nobody is given this real path; None when it can be."""
    if str(real) in _WHOLE:
        return "is a whole folder of the system"
    if any(real.is_relative_to(folder) for folder in _KERNELS):
        return "belongs to the kernel, or has sockets in it"
    if verb == "write" and any(real.is_relative_to(folder) for folder in _PROGRAMS):
        return "has the system's programs or settings in it"
    for folder in hosts_own:
        if real.is_relative_to(folder) or folder.is_relative_to(real):
            return "has the host's own files in it"
    for home in homes:
        if home.is_relative_to(real):
            return "is a home, or has one in it"
        if real.is_relative_to(home) and any(part.startswith(".") for part in real.relative_to(home).parts):
            return "is hidden in a home, where keys and passwords are kept"
    return None


def _homes() -> Iterable[Path]:
    """Return the homes of people on this machine, the host's own user's first."""
    import pwd  # not on Windows

    yield Path(os.path.realpath(os.path.expanduser("~")))  # noqa: PTH111 - the environment's word counts too
    for user in pwd.getpwall():
        if (user.pw_uid == 0 or user.pw_uid >= 1000) and user.pw_dir not in ("/", "/nonexistent", ""):
            yield Path(os.path.realpath(user.pw_dir))
