"""bubblewrap's command line for one plugin.

Pure: text in, text out. Options that a version lacks are not used; what is lost by that is made up for here or said in ``Bubblewrap``.

* Every namespace there is, no capability, nothing inherited but what the launcher passes.
* The root is an empty file system in memory with the view's places in it, made read-only at the end: bubblewrap's own root and ``/dev``
  could otherwise be filled.
* ``/proc/sys`` is read-only also to a user that the kernel takes for root.
* Folders above a place in ``/tmp`` are read-only: who was granted a file there, and writes beside it, would write into memory that nobody
  else sees and that is gone at the end. A safeguard, not a wall: they belong to the plugin.

Source: bwrap(1); docs/adr/0070-one-view-many-walls.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from posixpath import dirname
from typing import final

from annexe.sandbox.view import DEVICES, Access, Place

__all__ = ["OPTIONS_WANTED", "TMP", "Bubblewrap", "arguments"]

OPTIONS_WANTED = ("--size", "--disable-userns", "--perms")
"""Options that not every version has: 0.4 has none, 0.6 the last one, 0.8 all."""

TMP = "/tmp"  # noqa: S108 - the plugin's own, in memory

_NAMESPACES = ("user", "pid", "net", "ipc", "uts", "cgroup")
_DEV_BYTES = 65536
_SHM_BYTES = 4 * 1024 * 1024
_BIND = {Access.READ: "--ro-bind-try", Access.RUN: "--ro-bind-try", Access.WRITE: "--bind", Access.USE: "--dev-bind-try"}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Bubblewrap:
    """A bubblewrap that works here.

    Attributes:
        path: The program.
        options: Of ``OPTIONS_WANTED``, what it knows.
        mounts_proc: ``/proc`` can be mounted; in many containers it cannot, and the plugin then has none.
        links: Links in the root that the system has: name and target.
    """

    path: str
    options: frozenset[str] = frozenset(OPTIONS_WANTED)
    mounts_proc: bool = True
    links: tuple[tuple[str, str], ...] = ()

    @property
    def private(self) -> tuple[str, ...]:
        """Folders for temporary files inside."""
        return (TMP, "/dev/shm") if self.caps_tmp else (TMP,)  # noqa: S108 - mounts of its own

    @property
    def caps_tmp(self) -> bool:
        """Whether ``/tmp`` is in memory and of a limited size; otherwise it is the launch's private folder on disk."""
        return "--size" in self.options


def arguments(
    found: Bubblewrap,
    places: Iterable[Place],
    *,
    tmp_bytes: int,
    scratch: str,
    info_fd: int,
    block_fd: int | None,
    in_memory: Mapping[str, int] | None = None,
) -> list[str]:
    """Return the command up to the program that is to run.

    Args:
        found: Which bubblewrap.
        places: The view.
        tmp_bytes: Size of ``/tmp`` where it can be limited.
        scratch: Folder on disk that becomes ``/tmp`` where it cannot.
        info_fd: Descriptor on which it tells the process that it made.
        in_memory: Size in bytes of further folders in memory, by path; only for one that ``caps_tmp``.
        block_fd: Descriptor on which it waits before it runs anything; None: it does not wait.
    """
    command = [found.path, *(f"--unshare-{name}" for name in _NAMESPACES)]
    if "--disable-userns" in found.options:
        command.append("--disable-userns")
    command += ["--hostname", "plugin", "--die-with-parent", "--cap-drop", "ALL", "--chdir", "/", "--info-fd", str(info_fd)]
    if block_fd is not None:
        command += ["--block-fd", str(block_fd)]
    command += [part for name, target in found.links for part in ("--symlink", target, name)]
    command += _kernel_folders(found)
    command += ["--size", str(tmp_bytes), "--tmpfs", TMP] if found.caps_tmp else ["--bind", scratch, TMP]
    mounts: list[tuple[tuple[str, ...], str]] = [
        ((_BIND[place.access], place.path), place.path) for place in _mounted(places, dict(found.links))
    ]
    mounts += [(("--size", str(size_bytes), "--tmpfs"), path) for path, size_bytes in (in_memory or {}).items()]
    known = {TMP: True}
    for words, path in mounts:
        if "--perms" in found.options:
            command += [word for folder in _unmade_above(path, known) for word in ("--perms", "0555", "--dir", folder)]
        command += [*words, path]
    return [*command, "--remount-ro", "/dev", "--remount-ro", "/", "--"]


def _mounted(places: Iterable[Place], links: Mapping[str, str]) -> Iterator[Place]:
    """Yield the places that need a mount: not those that are in one with the same access already. Folders come before what is in them."""
    within: dict[str, bool] = {}
    for place in places:
        if place.access is Access.USE:
            yield place
            continue
        parts = place.path.split("/")
        root = links.get(f"/{parts[1]}")
        parts = ["", *root.split("/"), *parts[2:]] if root else parts
        is_writable = place.access is Access.WRITE
        above = ("/".join(parts[:count]) for count in range(len(parts), 1, -1))
        nearest = next((within[path] for path in above if path in within), None)
        if nearest is not is_writable:
            within["/".join(parts)] = is_writable
            yield Place("/".join(parts), place.access)


def _unmade_above(path: str, is_ours: dict[str, bool]) -> list[str]:
    """Return folders to be made above a place in ``/tmp``, outermost first.

    Args:
        path: The place.
        is_ours: What there is in ``/tmp``: folders of its own, and places of the machine; what is returned is added, and the place.
    """
    if not path.startswith(f"{TMP}/"):
        return []
    unmade, folder = [], dirname(path)
    while folder not in is_ours:
        unmade.append(folder)
        folder = dirname(folder)
    if not is_ours[folder]:  # nothing is made in a place of the machine
        return []
    is_ours.update(dict.fromkeys(unmade, True), **{path: False})
    return unmade[::-1]


def _kernel_folders(found: Bubblewrap) -> Iterator[str]:
    if found.mounts_proc:
        yield from ("--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys")
    if found.caps_tmp:
        yield from ("--size", str(_DEV_BYTES))
    yield from ("--tmpfs", "/dev")
    for device in DEVICES:
        yield from ("--dev-bind", device, device)
    if found.mounts_proc:
        yield from ("--symlink", "/proc/self/fd", "/dev/fd")
    if found.caps_tmp:
        yield from ("--size", str(_SHM_BYTES), "--tmpfs", "/dev/shm")  # noqa: S108 - a mount of its own
