"""First code in a plugin's process: puts the limits on, then hands over.

Run by path as ``python -I -S stub.pyc``, never imported by the host. It depends on nothing but modules written in C, because
every import here is paid before the plugin is ready (``os`` alone adds 13 % to a bare start, ``ctypes`` 35 %).

Order:

1. Ask the kernel to kill this process when the host's spawning thread ends; refuse new privileges; hide from siblings of one user.
2. Read exactly one host-private frame from the channel (u32 big-endian length, marshalled dict), and not a byte more.
3. Leave if the host died before step 1 took effect.
4. Channel to descriptor 3, memory files to 4 and 5 where there are any, every other one closed.
5. A way out for a plugin that was granted network: a listening socket, handed to the host. Before the limits: how many descriptors may be
   on their way, for all processes of a user together, is told by the sender's limit of open files.
   Limits; the granted places must be those that the host found.
6. Landlock, and proof of it: a folder that nobody grants must be refused.
7. The filters of system calls, the one that forbids further filters last. From here on nothing can be given back or widened.
8. Exec the program, or set up ``sys.path`` and run the SDK's runner.

Where bubblewrap builds namespaces, this program runs inside them; where there is none, it is the same with fewer walls.

Told to serve, it becomes a fork server behind its own walls instead of step 8 (see ``fork_server``). The frame has what its forks do then:
step 1 and steps 4 to 8, but for what their server has put up already; before the last one they join their control groups.

The frame comes from the host, so marshal is safe here; nothing is ever unmarshalled in the other direction.

Any failure ends the process with status 71 and one line on standard error, before the plugin's code has run.

Source: docs/adr/0030-stub-and-private-frame.md; docs/adr/0071-walls-are-put-up-by-the-stub.md;
docs/adr/0080-a-fork-server-per-plugin.md.
"""

import marshal
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__: "list[str]" = []

_CHANNEL = 3
_SDK, _BUNDLE = "annexe_sdk", "/annexe_sdk.bundle"  # what annexe.launch.runtime calls it
_FAILED = 71
_MAX_FRAME_BYTES = 65536
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SECCOMP_MODE_FILTER = 2
_SIGKILL = 9
# The same on every architecture.
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_BENEATH_PATH, _NET_PORT = 1, 2
_BYTES_WITHOUT_NETWORK, _CONNECT_TCP = 8, 2
_EGRESS_BACKLOG = 64
_S_IFMT, _S_IFDIR = 0o170000, 0o040000


def _c_function(name: str) -> "Callable[..., int]":
    from _ctypes import call_function, dlopen, dlsym

    address = dlsym(dlopen(None, 0), name)  # type: ignore[arg-type]  # None: the interpreter itself
    # Bytes are passed as a pointer to them, numbers as a C int.
    return lambda *arguments: call_function(address, arguments)


def _prctl() -> None:
    prctl = _c_function("prctl")
    for option, value in ((_PR_SET_PDEATHSIG, _SIGKILL), (_PR_SET_NO_NEW_PRIVS, 1), (_PR_SET_DUMPABLE, 0)):
        if prctl(option, value, 0, 0, 0) != 0:
            raise OSError(f"prctl {option} was refused")


def _restrict_files(rules: "dict[str, Any]", server: int) -> None:
    syscall = _c_function("syscall")
    ruleset = syscall(_LANDLOCK_CREATE, rules["attr"], len(rules["attr"]), 0)
    if ruleset < 0:
        raise OSError("Landlock makes no ruleset")
    for path, rights in rules["rules"]:
        try:
            place = posix.open(path, posix.O_PATH | posix.O_CLOEXEC)
        except OSError:
            continue  # not on this machine, or out of this user's reach: then there is nothing to allow
        if posix.fstat(place).st_mode & _S_IFMT != _S_IFDIR:
            rights &= rules["of_files"]
        # struct landlock_path_beneath_attr, which is packed
        if syscall(_LANDLOCK_ADD, ruleset, _BENEATH_PATH, rights.to_bytes(8, "little") + place.to_bytes(4, "little"), 0) != 0:
            raise OSError(f"Landlock takes no rule for {path}")
        posix.close(place)
    for port in rules["ports"] if len(rules["attr"]) > _BYTES_WITHOUT_NETWORK else ():
        if syscall(_LANDLOCK_ADD, ruleset, _NET_PORT, port, 0) != 0:
            raise OSError("Landlock takes no rule for a port")
    if syscall(_LANDLOCK_RESTRICT, ruleset, 0) != 0:
        raise OSError("Landlock restricts nothing")
    posix.close(ruleset)
    # To a fork its server's rules refuse the root already; what those give and its own do not is the server's folder in /proc.
    if not (_is_refused("/") and (not server or _is_refused(f"/proc/{server}/stat"))):
        raise OSError("Landlock is said to be on, but does not refuse")


def _is_refused(path: str) -> bool:
    try:
        posix.close(posix.open(path, posix.O_RDONLY))
    except PermissionError:
        return True
    except FileNotFoundError:  # /proc could not be mounted
        return path != "/"
    return False


def _open_egress(egress: "dict[str, Any]") -> int:
    """Listen on the loopback of this network for the host, hand it the socket, tell HTTP clients, and return the port."""
    from _socket import AF_INET, AF_UNIX, SCM_RIGHTS, SOCK_STREAM, SOL_SOCKET, socket

    listener = socket(AF_INET, SOCK_STREAM, 0)
    listener.bind(("127.0.0.1", 0))
    listener.listen(_EGRESS_BACKLOG)
    port: int = listener.getsockname()[1]
    channel = socket(AF_UNIX, SOCK_STREAM, 0, _CHANNEL)
    channel.sendmsg([b"="], [(SOL_SOCKET, SCM_RIGHTS, listener.fileno().to_bytes(4, sys.byteorder))])
    channel.detach()
    listener.close()  # whoever has it too could take connections away from the host
    for name in egress["names"]:
        posix.environ[name.encode()] = (egress["url"] % port).encode()
        posix.putenv(name.encode(), (egress["url"] % port).encode())
    return port


def _filter_calls(programs: "list[bytes]") -> None:
    prctl = _c_function("prctl")
    for program in programs:
        # struct sock_fprog: how many instructions, and where they are. A bytes object keeps its content behind its header.
        address = id(program) + bytes.__basicsize__ - 1
        fprog = (len(program) // 8).to_bytes(8, "little") + address.to_bytes(8, "little")
        if prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, fprog, 0, 0) != 0:
            raise OSError("the kernel takes no filter of system calls")


def _read(fd: int, count: int) -> bytes:
    chunks = b""
    while len(chunks) < count:
        chunk = posix.read(fd, count - len(chunks))
        if not chunk:
            posix._exit(0)  # the host went away: nobody is there to be told
        chunks += chunk
    return chunks


def _limit(limits: dict[str, int]) -> None:
    import resource

    for name, value in limits.items():
        which = getattr(resource, name, None)
        if which is None:
            continue  # not on this system; the host's receipt says so
        hard = resource.getrlimit(which)[1]
        if hard != resource.RLIM_INFINITY and hard < value:
            value = hard
        try:
            resource.setrlimit(which, (value, value))
        except (OSError, ValueError) as error:
            if sys.platform == "linux":
                raise OSError(f"{name} = {value}: {error}") from None


def _prepare() -> "dict[str, Any]":
    """Take the frame from the channel and put up what it says."""
    fd = int(posix.environ[b"ANNEXE_FD"])
    if sys.platform == "linux":
        _prctl()
    size = int.from_bytes(_read(fd, 4), "big")
    if size > _MAX_FRAME_BYTES:
        raise OSError(f"private frame of {size} bytes")
    frame: dict[str, Any] = marshal.loads(_read(fd, size))  # noqa: S302 - from the host
    if frame["host_pid"] and posix.getppid() != frame["host_pid"]:
        posix._exit(0)
    _put_up(frame, [fd, *frame["memory"]], 0)
    return frame


def _keep(kept: "list[int]") -> None:
    """Move descriptors, in order, to the channel's number and those that follow it; close every other one."""
    for at, target in enumerate(range(_CHANNEL, _CHANNEL + len(kept))):
        if target in kept[at + 1 :]:  # in the way, and still needed
            kept[kept.index(target, at + 1)] = posix.dup(target)
        if kept[at] != target:
            posix.dup2(kept[at], target, True)
    posix.closerange(_CHANNEL + len(kept), 1 << 20)


def _put_up(frame: "dict[str, Any]", kept: "list[int]", server: int) -> None:
    """Put up all walls; ``kept`` is the channel, perhaps both memory files, ``server`` whose fork this is, 0 for nobody's."""
    _keep(kept)
    posix.putenv(b"ANNEXE_FD", b"3")
    posix.environ[b"ANNEXE_FD"] = b"3"
    if posix.environ.pop(b"PWD", None) is not None:  # bubblewrap's
        posix.unsetenv(b"PWD")
    posix.umask(0o077)
    if frame["nice"]:
        posix.nice(frame["nice"])
    if frame["egress"] is not None:
        port = _open_egress(frame["egress"])
        if frame["landlock"] is not None:
            frame["landlock"]["ports"].append(_CONNECT_TCP.to_bytes(8, "little") + port.to_bytes(8, "little"))
    _limit(frame["limits"])
    for path, device, inode in frame["granted"]:
        found = posix.stat(path)
        if (found.st_dev, found.st_ino) != (device, inode):
            raise OSError(f"{path} was exchanged for something else")
    if frame["landlock"] is not None:
        _restrict_files(frame["landlock"], server)
    _filter_calls(frame["filters"])


def _bundle() -> "list[Any]":
    """Return the finder of the SDK's modules, which has their code from one file: half a millisecond less than from a file for each.

    No finder where there is no such file; and where the plugin has an SDK of its own, it finds nothing.
    """
    from _frozen_importlib_external import PathFinder, SourceFileLoader, spec_from_file_location

    try:
        fd = posix.open(sys.argv[0].rpartition("/")[0] + _BUNDLE, posix.O_RDONLY | posix.O_CLOEXEC)
    except FileNotFoundError:
        return []
    codes = marshal.loads(_read(fd, posix.fstat(fd).st_size))  # noqa: S302 - from the host, like all byte code beside it
    posix.close(fd)

    # The modules keep their loader: with a function of ours it would have all that is in here.
    loader = type("Loader", (SourceFileLoader,), {"get_code": codes.__getitem__})

    class Finder:
        @staticmethod
        def find_spec(name: str, _path: "Any" = None, _target: "Any" = None) -> "Any":
            if name not in codes:
                return None
            file = codes[name].co_filename
            if name == _SDK and getattr(PathFinder.find_spec(name), "origin", None) != file:
                codes.clear()
                return None
            return spec_from_file_location(name, file, loader=loader(name, file))

    return [Finder]


def _serve(orders: "dict[str, Any]") -> "dict[str, Any]":
    """Become a fork server; return in each fork, behind its walls, with what it is to be."""
    path = sys.path[:]
    sys.path += orders["libraries"]
    from annexe_fork_server import join, serve  # type: ignore[import-not-found]  # see annexe.launch.runtime

    del sys.modules["annexe_fork_server"]
    kept, server = serve(_CHANNEL, orders, path)
    _prctl()
    if posix.getppid() != server:
        posix._exit(0)
    frame: dict[str, Any] = orders["fork"]
    _put_up(frame, kept, server)
    join(_CHANNEL)
    return frame


def _main() -> "tuple[Any, str]":
    """Return the SDK's entry point and its two arguments; does not return for a program."""
    try:
        frame = _prepare()
        if frame["is_trial"]:
            posix._exit(0)
        if frame["program"]:
            posix.execv(frame["program"][0], frame["program"])
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(  # type: ignore[union-attr]
                line_buffering=True, errors="backslashreplace"
            )
        finders = _bundle()
        sys.meta_path[:0] = finders
        if frame["serves"]:
            frame = _serve(frame["serves"])
        import _thread

        _thread.stack_size(frame["thread_stack_bytes"])
        sys.path += frame["libraries"]
        sys.argv[:] = [frame["entry"]]
        __import__(frame["runner"])
        for finder in finders:
            sys.meta_path.remove(finder)
        # Only now: a module of the plugin that is named like one of the runner's imports must not be loaded before the handshake.
        sys.path.insert(0, frame["folder"])
        return sys.modules[frame["runner"]].main, frame["entry"]
    except Exception as error:  # noqa: BLE001 - there is nobody to raise to
        posix.write(2, f"annexe stub: {type(error).__name__}: {error}\n".encode("utf-8", "backslashreplace"))
        posix._exit(_FAILED)


if __name__ == "__main__":
    _run, _entry = _main()
    # What the plugin finds as __main__ is an empty module: nothing of the stub, and nothing that a child would run again.
    sys.modules["__main__"] = type(sys)("__main__")
    _run(_CHANNEL, _entry)
