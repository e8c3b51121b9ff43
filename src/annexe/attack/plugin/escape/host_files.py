"""Traps for the host: it must go through what a plugin leaves in a folder of its own, and will find this."""

from __future__ import annotations

import os

from .catalogue import attack
from .outcome import judge, stopped, through
from .probes import room, write

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from .outcome import Outcome
    from .targets import Targets

__all__: list[str] = []

_DEPTH = 1500


@attack("trap-link", "Leave links to the host's files where the host will clear up.", stopped_by=("host",), check="precious")
def _trap_link(targets: Targets) -> Outcome:
    folder = room(targets, "trap")
    os.symlink(targets.kept_file, os.path.join(folder, "file"))
    os.symlink(os.path.dirname(targets.kept_file), os.path.join(folder, "folder"))
    return judge("laid them", folder=targets.work)


@attack("trap-depth", "Leave folders 1,500 deep, deeper than recursion goes.", stopped_by=("host",), check="work-left")
def _trap_depth(targets: Targets) -> Outcome:
    at = os.open(room(targets, "deep"), os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(_DEPTH):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    return judge(f"made {_DEPTH}", folder=targets.work)


@attack("trap-modes", "Leave folders that nobody may enter.", stopped_by=("host",), check="work-left")
def _trap_modes(targets: Targets) -> Outcome:
    outer = room(targets, "closed")
    inner = os.path.join(outer, "closed")
    os.mkdir(inner)
    write(os.path.join(inner, "file"), b"x")
    os.chmod(inner, 0)
    os.chmod(outer, 0)
    return judge("made them", folder=targets.work)


@attack("trap-top-mode", "Close the plugin's own folder to everybody.", stopped_by=("host",), check="work-left")
def _trap_top_mode(targets: Targets) -> Outcome:
    write(os.path.join(targets.work, "file"), b"x")
    os.chmod(targets.work, 0)
    return judge("closed it", folder=targets.work)


@attack("trap-names", "Leave names that are no text, hold line breaks, or look like options.", stopped_by=("host",), check="work-left")
def _trap_names(targets: Targets) -> Outcome:
    folder = room(targets, "names").encode()
    for name in (b"\xff\xfe", b"a\nb", b"-rf", b"*", b" ", b"n" * 255, "\u202e".encode()):
        fd = os.open(os.path.join(folder, name), os.O_CREAT | os.O_WRONLY, 0o600)
        os.close(fd)
        os.mkdir(os.path.join(folder, name[:200] + b".d"))
    return judge("made them", folder=targets.work)


@attack("trap-fifo", "Leave a pipe, on which a careless reader waits for ever.", stopped_by=("host", "seccomp"), check="work-left")
def _trap_fifo(targets: Targets) -> Outcome:
    os.mkfifo(os.path.join(room(targets, "pipes"), "pipe"))
    return judge("made it", folder=targets.work)


@attack("trap-socket", "Leave a socket among the files.", stopped_by=("host", "seccomp"), check="work-left")
def _trap_socket(targets: Targets) -> Outcome:
    import socket

    with socket.socket(socket.AF_UNIX) as left:
        left.bind(os.path.join(targets.work, "s"))
    return judge("made it", folder=targets.work)


@attack("trap-many", "Leave 2,000 files, so that clearing up takes long.", stopped_by=("host",), check="work-left")
def _trap_many(targets: Targets) -> Outcome:
    folder = os.open(room(targets, "many"), os.O_RDONLY | os.O_DIRECTORY)
    for number in range(2000):
        os.close(os.open(str(number), os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=folder))
    os.close(folder)
    return judge("made them", folder=targets.work)


@attack(
    "trap-swap",
    "Put a link to the host's files in the place of the folder that the host will remove.",
    stopped_by=("host", "namespaces", "landlock", "uid"),
    check="precious",
)
def _trap_swap(targets: Targets) -> Outcome:
    folder = targets.work
    aside = os.path.join(os.path.dirname(folder), targets.marker)
    os.rename(folder, aside)
    os.symlink(os.path.dirname(targets.kept_file), folder)
    return judge("swapped it", folder=folder)


@attack("immutable-file", "Make a file that cannot be removed.", stopped_by=("seccomp", "landlock"), unix=True)
def _immutable_file(targets: Targets) -> Outcome:
    import fcntl

    path = os.path.join(targets.work, "for-ever")
    write(path, b"x")
    with open(path, "rb") as file:
        flags = bytearray(8)
        fcntl.ioctl(file, 0x80086601, flags)  # FS_IOC_GETFLAGS
        flags[0] |= 0x10  # FS_IMMUTABLE_FL
        fcntl.ioctl(file, 0x40086602, bytes(flags))  # FS_IOC_SETFLAGS
        flags[0] &= ~0x10
        fcntl.ioctl(file, 0x40086602, bytes(flags))
    return through("made one, and unmade it")


@attack("own-code", "Change the plugin's own program, for the next start.", stopped_by=("namespaces", "landlock", "uid"), phases=2)
def _own_code(targets: Targets) -> Outcome:
    if targets.phase == 2:
        try:
            from . import planted  # type: ignore[attr-defined]
        except ImportError:
            return stopped("what was planted is gone")
        return through(f"the next start ran it: {planted.WORD}")
    write(os.path.join(os.path.dirname(os.path.abspath(__file__)), "planted.py"), b"WORD = 'planted'\n", mode=0o644)
    return judge("planted a module")


@attack("own-manifest", "Change the plugin's own manifest, to be granted more.", stopped_by=("namespaces", "landlock", "uid"))
def _own_manifest(_targets: Targets) -> Outcome:
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    os.close(os.open(os.path.join(folder, "plugin.toml"), os.O_WRONLY | os.O_APPEND))
    return through("opened it for writing, and wrote nothing")


@attack("runtime-code", "Change the SDK or the stub, for every plugin's next start.", stopped_by=("namespaces", "landlock", "uid"))
def _runtime_code(_targets: Targets) -> Outcome:
    import annexe_sdk

    os.close(os.open(annexe_sdk.__file__, os.O_WRONLY | os.O_APPEND))
    return through("opened it for writing, and wrote nothing")
