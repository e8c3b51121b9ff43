"""A fork server for one plugin: what the stub becomes where it is told to serve, behind the same walls as the plugin.

It imports what forks need, waits for requests on its control socket and forks. Each fork goes back into the stub, which puts up its walls.

* No code of a plugin is ever loaded in it: that would own every later fork. It imports from the standard library and the runtime folder
  alone, and nothing that the plugin may have a version of its own of; a fork imports that as a cold start would.
* It has one thread: a fork of several would have only one of them, and their locks.
* No fork has its control socket, the ends of its siblings, or anything else of it open.
* How a fork ended is told in a pipe that came with the request for it, by four bytes: its status as ``waitpid`` gives it. The pipe's end
  without them means that the server is gone, and all forks with it, by the parent-death signal.
* What a plugin left in its temporary folders is removed when no fork is left.

Forks have in common what a process is given at its start: layout of memory, seed of hashes. ``random`` seeds itself anew in each.

Depends on nothing but modules written in C, like the stub. Copied into the runtime folder under another name; never imported by the host.

Source: docs/adr/0080-a-fork-server-per-plugin.md.
"""

import gc
import posix
import select
import sys
from _socket import AF_UNIX, CMSG_SPACE, SCM_RIGHTS, SOCK_STREAM, SOL_SOCKET, socket
from errno import EBUSY, ENOTEMPTY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

__all__ = ["join", "serve"]

_MAX_DESCRIPTORS = 16
# Channel, standard output, standard error, perhaps both memory files, and where the end of the fork is told.
_GIVEN = (4, 6)
_FORKED, _REFUSED, _JOINED, _NOT_JOINED = b"+", b"-", b".", b"?"
_FOLDER = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC


def serve(control: int, orders: "dict[str, Any]", path: "list[str]") -> "tuple[list[int], int]":
    """Fork whenever the host asks, until it hangs up; return in each fork, with what it keeps and the number of this process.

    Args:
        control: Where requests come from: one byte with descriptors each; one byte with a pidfd of the fork is answered.
        orders: ``serves`` of the private frame.
        path: What ``sys.path`` is to be in the forks.
    """
    _preload(orders["modules"], orders["own"])
    sys.path[:] = path
    gc.collect()
    gc.freeze()  # a collection in a fork would write to, and so copy, all that was there before
    server = posix.getpid()
    return _Server(control, orders["private"]).run(), server


class _Server:
    """Serves, as long as it is not a fork.

    Args:
        control: As for ``serve``.
        private: Folders to be emptied.
    """

    def __init__(self, control: int, private: "Iterable[str]") -> None:
        self._control = control
        self._host = socket(AF_UNIX, SOCK_STREAM, 0, control)
        self._private = [(folder, posix.stat(folder).st_mode & 0o1777) for folder in private]
        self._events = select.poll()
        self._events.register(control, select.POLLIN)
        self._forks: dict[int, tuple[int, int]] = {}  # by handle: number, and the pipe in which its end is told

    def run(self) -> list[int]:
        """Serve; return in each fork, with the descriptors that it keeps: its channel, perhaps both memory files."""
        while True:
            # Ends before requests: the control socket has the lowest number.
            for ready in sorted((fd for fd, _ in self._events.poll()), reverse=True):
                if ready != self._control:
                    self._note_end(ready)
                elif (kept := self._fork()) is not None:
                    return kept

    def _fork(self) -> list[int] | None:
        """Answer a request; return what the fork keeps in the fork, None here."""
        given = _received(self._host)
        if len(given) not in _GIVEN:
            raise OSError(f"expected {_GIVEN} descriptors with a request, got {len(given)}")
        try:
            pid = posix.fork()
        except OSError:  # too many processes, or too little memory
            _close(given)
            self._host.send(_REFUSED)
            return None
        if pid == 0:
            self._host.detach()  # its descriptor becomes the channel
            return _settle(given)
        handle = posix.pidfd_open(pid)
        self._host.sendmsg([_FORKED], [(SOL_SOCKET, SCM_RIGHTS, handle.to_bytes(4, sys.byteorder))])
        self._events.register(handle, select.POLLIN)
        self._forks[handle] = (pid, given.pop())
        _close(given)
        return None

    def _note_end(self, handle: int) -> None:
        self._events.unregister(handle)
        posix.close(handle)
        _tell_end(*self._forks.pop(handle))
        if not self._forks:
            _tidy(self._private)


class _PluginsOwn:
    """Refuses to import modules that the plugin may have versions of its own of.

    Args:
        names: Of such modules, without dots.
    """

    def __init__(self, names: "Iterable[str]") -> None:
        self._names = frozenset(names)

    def find_spec(self, name: str, _path: "Any" = None, _target: "Any" = None) -> None:
        if name in self._names:
            raise ImportError(f"{name} may be the plugin's own")


def _preload(modules: "Iterable[str]", own: "Iterable[str]") -> None:
    guard: Any = _PluginsOwn(own)
    sys.meta_path.insert(0, guard)
    for name in modules:
        try:
            __import__(name)
        except Exception:  # noqa: BLE001, S112 - then there is less to start from
            continue
    sys.meta_path.remove(guard)


def join(channel: int) -> None:
    """In a fork, behind its walls: join the control groups whose doors the host hands over.

    Returns once it is in them, by itself or by the host, which takes much longer; nothing of the plugin may run before.
    """
    host = socket(AF_UNIX, SOCK_STREAM, 0, channel)
    doors = _received(host)
    has_joined = bool(doors)
    for door in doors:
        try:
            posix.write(door, b"0")
        except OSError:  # an older kernel, which looks at who writes, not at who opened
            has_joined = False
        posix.close(door)
    host.sendall(_JOINED if has_joined else _NOT_JOINED)
    if not has_joined and not host.recv(1):
        posix._exit(0)
    host.detach()


def _received(host: socket) -> list[int]:
    """Return the descriptors that came with a byte; end when the host has hung up."""
    came, ancillary, flags, _ = host.recvmsg(1, CMSG_SPACE(4 * _MAX_DESCRIPTORS))
    if not came:
        posix._exit(0)
    if flags:
        raise OSError("not all descriptors came through")
    return [int.from_bytes(held[at : at + 4], sys.byteorder) for _, _, held in ancillary for at in range(0, len(held), 4)]


def _settle(given: list[int]) -> list[int]:
    """In a fork: take over the standard streams, lead a session; return what it keeps besides."""
    channel, stdout, stderr, *memory, _ = given
    posix.dup2(stdout, 1)
    posix.dup2(stderr, 2)
    posix.setsid()  # a signal to its own group must not reach the server
    return [channel, *memory]


def _tell_end(pid: int, pipe: int) -> None:
    status = posix.waitpid(pid, 0)[1]
    try:  # noqa: SIM105 - contextlib would have to be imported
        posix.write(pipe, status.to_bytes(4, "big"))
    except OSError:
        pass  # nobody asks any more
    posix.close(pipe)


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        posix.close(descriptor)


def _tidy(private: "list[tuple[str, int]]") -> None:
    """Leave temporary folders as the first fork found them."""
    for folder, mode in private:
        posix.chmod(folder, 0o700)
        _empty(folder)
        posix.chmod(folder, mode)


def _empty(folder: str) -> None:
    """Remove all that is in a folder that nobody else uses: however deep it is, without following a link or entering a mount.

    What the plugin was given may lie in there. Of a mount the kernel says that it is busy, before it looks whether it is empty.
    """
    here = posix.open(folder, _FOLDER)
    left = [posix.listdir(here)]  # names still to be removed, of this folder and of those above
    names: list[str] = []
    while True:
        if left[-1]:
            name = left[-1].pop()
            other = _removed_or_opened(name, here)
            if other is None:
                continue
            names.append(name)
            left.append(posix.listdir(other))
        elif names:
            left.pop()
            other = posix.open("..", _FOLDER, dir_fd=here)
            _remove_folder(names.pop(), other)  # stays if there is a mount in it
        else:
            posix.close(here)
            return
        posix.close(here)
        here = other


def _removed_or_opened(name: str, within: int) -> int | None:
    """Remove what has a name; if that is a folder with something in it, open it instead. Mounts are left alone."""
    try:
        posix.unlink(name, dir_fd=within)
    except IsADirectoryError:
        if _remove_folder(name, within) != ENOTEMPTY:
            return None
        posix.chmod(name, 0o700, dir_fd=within)
        return posix.open(name, _FOLDER, dir_fd=within)
    except OSError as error:
        if error.errno != EBUSY:
            raise
    return None


def _remove_folder(name: str, within: int) -> int:
    """Remove an empty folder; otherwise return ``ENOTEMPTY``, or ``EBUSY`` for a mount."""
    try:
        posix.rmdir(name, dir_fd=within)
    except OSError as error:
        if error.errno not in (EBUSY, ENOTEMPTY):
            raise
        return error.errno
    return 0
