"""What a plugin uses of the machine, written down while its tests run.

Imported by order of a host that learns a plugin's permissions, never else: what is learned is what a manifest should ask for.

* Python tells of files, sockets and programs by its audit events, which no code can take back; of variables by ``os.environ``. What
  libraries written in C do by themselves is not seen, nor is what asks only whether a file is there.
* A fact is told once. A file that is not there is none: libraries try many.
* What is below the folder for temporary files that the host has made for this one process is no fact either.
* Of variables only those count that the plugin's own code reads by name; libraries read dozens that they do without.
* The hook itself does nothing that raises an event, sends nothing, and never fails.

Source: feature PE5; docs/how-to/learn-permissions.md; ADR-0078.
"""

import os
import posix
import sys

from annexe_sdk.errors import sendable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from annexe_sdk.runner import Runner

__all__ = ["Recorder", "record"]

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = frozenset(
    f"os.{name}" for name in ("chflags", "chmod", "chown", "mkdir", "remove", "removexattr", "rmdir", "setxattr", "truncate", "utime")
)
_AT = frozenset({"os.chmod", "os.chown", "os.mkdir", "os.remove", "os.rmdir", "os.utime"})  # told last: the folder that a name is in
_LOOKS = frozenset({"os.listdir", "os.scandir"})
_STARTS = frozenset({"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "pty.spawn", "subprocess.Popen"})
_GO_BETWEENS = frozenset({"os", "collections.abc", "_collections_abc", __name__})
_MAX_FACTS = 10_000
_FACTS_AT_ONCE = 500


class Recorder:
    """Gathers facts, each a kind and what it is about.

    Kinds: ``read``, ``list``, ``write``: a path; ``connect``: host and port; ``socket``: a local one's path; ``listen``: an address;
    ``start``: a program; ``variable``: a name.

    Args:
        folder: The plugin's own, where its code runs from.
        told_as: The same folder as others know it; None: it has that path.
        is_on: Says whether what happens now is the plugin's doing; None: it always is.
        seen: Folders that every plugin can read.
        proxies: Host and port of the host's own proxies, which tell themselves what they are used for.
        temporary: Folder for temporary files that is this process's alone; empty: there is none.
    """

    def __init__(
        self,
        folder: str,
        *,
        told_as: str | None = None,
        is_on: "Callable[[], bool] | None" = None,
        seen: "Iterable[str]" = (),
        proxies: "Iterable[str]" = (),
        temporary: str = "",
    ) -> None:
        self._folder = folder.rstrip("/") + "/"
        self._told_as = self._folder if told_as is None else told_as.rstrip("/") + "/"
        self._seen = tuple(place.rstrip("/") + "/" for place in seen if place.startswith("/"))
        self._temporary = temporary
        self._is_on = is_on
        self._known = {("connect", proxy) for proxy in proxies}
        self._new: list[tuple[str, str]] = []
        self._ports: set[str] = set()  # of names that were looked up
        self._taking_all = (0, 0)  # where all variables were asked for last

    def start(self) -> None:
        """Begin; there is no end but the process's."""
        self._watch_variables()
        sys.addaudithook(self._on_event)

    def take(self) -> list[tuple[str, str]]:
        """Return the facts that are new since the last time."""
        taken, self._new = self._new, []
        return taken

    def _note(self, kind: str, what: str) -> None:
        if what and (kind, what) not in self._known and len(self._known) < _MAX_FACTS:
            self._known.add((kind, what))
            self._new.append((kind, what))

    def _on_event(self, event: str, args: "tuple[Any, ...]") -> None:
        try:
            if self._is_on is None or self._is_on():
                self._take(event, args)
        except Exception:  # noqa: S110 - a plugin's own class in the place of a path or an address
            pass

    def _take(self, event: str, args: "tuple[Any, ...]") -> None:
        if event == "open":
            self._file("write" if isinstance(args[2], int) and args[2] & _WRITING else "read", args[0])
        elif event in _LOOKS:
            self._file("list", "." if args[0] is None else args[0])
        elif event in _CHANGES:
            self._file("write", args[0], args[-1] if event in _AT else -1)
        elif event in ("os.rename", "os.link"):
            self._file("write", args[0], args[2])
            self._file("write", args[1], args[3])
        elif event == "os.symlink":
            self._file("write", args[1], args[2])
        elif event == "sqlite3.connect":
            self._file("write", args[0])
        elif event == "ctypes.dlopen":
            self._file("read", args[0] if "/" in str(args[0]) else 0)
        elif event.startswith("socket."):
            self._socket(event, args)
        elif event in _STARTS:
            self._note("start", _text(args[0]) if args else event)

    def _file(self, kind: str, name: "Any", descriptor: int = -1) -> None:
        if isinstance(name, int) or name is None:
            return  # a descriptor: what it leads to was opened before
        path = _text(os.fspath(name))
        if not path or path == ":memory:":
            return
        folder = posix.getcwd() if descriptor < 0 else posix.readlink(f"/proc/self/fd/{descriptor}")
        path = os.path.normpath(os.path.join(folder, path))
        if self._temporary and f"{path}/".startswith(f"{self._temporary}/"):
            return
        if kind != "write":
            if f"{path}/".startswith(self._seen):
                return
            try:
                posix.stat(path)
            except OSError:
                return
        self._note(kind, self._told_as + path[len(self._folder) :] if path.startswith(self._folder) else path)

    def _socket(self, event: str, args: "tuple[Any, ...]") -> None:
        if event == "socket.getaddrinfo" and isinstance(args[0], (str, bytes)) and str(args[1]).isdecimal():
            self._ports.add(str(args[1]))
            self._note("connect", _target(_text(args[0]), args[1]))
        elif event in ("socket.connect", "socket.bind"):
            address = args[1]
            if isinstance(address, tuple):
                host, port = _text(address[0]), str(address[1])
                if event == "socket.bind":
                    self._note("listen", _target(host, port))
                elif port not in self._ports:  # else it is what a name led to
                    self._note("connect", _target(host, port))
            else:
                self._note("socket", _text(address) or "unnamed")

    def _watch_variables(self) -> None:
        environ: Any = type(os.environ)
        get, iterate = environ.__getitem__, environ.__iter__

        def get_and_note(mapping: "Any", key: "Any") -> "Any":
            value = get(mapping, key)
            if isinstance(key, str) and (self._is_on is None or self._is_on()) and self._is_named():
                self._note("variable", key)
            return value

        def iterate_and_note(mapping: "Any") -> "Any":
            self._taking_all = _asker()[1]
            return iterate(mapping)

        environ.__getitem__, environ.__iter__ = get_and_note, iterate_and_note

    def _is_named(self) -> bool:
        """Say whether the plugin's own code asks for this one variable; what copies all of them asks for none."""
        file, place = _asker()
        return file.startswith(self._folder) and "/site-packages/" not in file and place != self._taking_all


def _asker() -> "tuple[str, tuple[int, int]]":
    """Return which file asks ``os.environ``, and the place in it; of what the standard library does on somebody's behalf, who that is."""
    frame: Any = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__") in _GO_BETWEENS:
        frame = frame.f_back
    return ("", (0, 0)) if frame is None else (frame.f_code.co_filename, (id(frame), frame.f_lasti))


def record(runner: "Runner", folder: str) -> Recorder:
    """Record what this process does from now on, and tell the host of it before each answer.

    Args:
        runner: Serves the plugin.
        folder: The plugin's own, as the host knows it; a copy of it may be what is run.
    """
    # What is on the path before any code of the plugin runs was put there by the host.
    recorder = Recorder(sys.path[0], told_as=folder, seen=sys.path, proxies=_proxies(), temporary=os.environ.get("TMPDIR", ""))
    send = runner.send

    def send_with_facts(frame: bytes) -> None:
        facts = recorder.take()
        for start in range(0, len(facts), _FACTS_AT_ONCE):
            send(
                runner.session.notification(
                    "used", {"facts": [list(map(sendable, fact)) for fact in facts[start : start + _FACTS_AT_ONCE]]}, None
                )
            )
        send(frame)

    runner.send = send_with_facts  # type: ignore[method-assign]
    recorder.start()
    return recorder


def _proxies() -> list[str]:
    urls = [value for name, value in os.environ.items() if name.lower() in ("all_proxy", "http_proxy", "https_proxy")]
    return [url.rpartition("//")[2].rpartition("@")[2].rstrip("/") for url in urls]


def _text(name: "Any") -> str:
    return name if isinstance(name, str) else name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else ""


def _target(host: str, port: "Any") -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
