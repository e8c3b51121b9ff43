"""What an author can do about a refusal of the sandbox, told beside the error.

Imported when an error is told, never before. The kernel answers alike for what is not there and for what is not shown, so a hint says
what to ask for *if* it is a refusal.

* Nothing is said where no wall stands that could have refused it, nor of what was granted.
* Looks at the exception: classes, error numbers, and what functions of the standard library were called with; and, of a path in the
  plugin's own ``/tmp``, at who made the folder that it is in.
* Never fails: an error is told with or without a hint.

Source: feature PE4; docs/reference/permissions.md, "When a right is missing".
"""

import errno
import sys
from posixpath import dirname, normpath

from annexe_sdk.proxy_hints import refused_target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import FrameType
    from typing import Any

__all__ = ["hint_for"]

_FILE_WALLS = frozenset({"full", "namespaces", "landlock", "landlock-partial"})
_CALL_WALLS = frozenset({"full", "namespaces", "landlock"})
_NO_PROCESS = frozenset({"", "none"})
_REFUSED = frozenset({errno.EACCES, errno.EPERM})
_NOT_SHOWN = _REFUSED | {errno.ENOENT, errno.EROFS}
_NO_NETWORK = _REFUSED | {errno.EAFNOSUPPORT, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL}
_TMP = "/tmp"  # noqa: S108 - the plugin's own where it has a file system of its own
_GPU = ("/dev/nvidia", "/dev/dri", "/dev/kfd")
_KERNELS = ("/boot", "/dev", "/proc", "/run", "/sys", "/var/run")
_SHOWN = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
_WRITERS = frozenset(
    {
        "chmod", "chown", "copy", "copy2", "copyfile", "copystat", "copytree", "hardlink_to", "link", "makedirs", "mkdir",
        "mkdtemp", "mkstemp", "move", "remove", "removedirs", "rename", "renames", "replace", "rmdir", "rmtree", "symlink",
        "symlink_to", "touch", "truncate", "unlink", "utime", "write_bytes", "write_text"
    }
)  # fmt: skip
_STARTERS = ("os.exec", "os.fork", "os.posix_spawn", "os.spawn", "pty.")
# What the manifest refuses to ask for; the host has the same table.
_STEERING = ("ANNEXE_", "DYLD_", "LD_", "PYTHON")
_HOSTS_OWN = frozenset({"HOME", "HTTP_PROXY", "HTTPS_PROXY", "PATH", "TMPDIR"})
_FILE_MODULES = frozenset({"os", "pathlib", "pathlib._abc", "pathlib._local", "shutil", "tempfile"})
_MAX_ERRORS = 16
_THEN = "; then have it granted with: annexe grant ID"
_MAX_SOURCE_BYTES = 1024 * 1024


def hint_for(error: BaseException, *, level: str, grants: "Sequence[str]", data_dir: str | None = None) -> "dict[str, str]":
    """Return what to do about an error.

    Args:
        error: As it was raised.
        level: Isolation level that the plugin runs at.
        grants: Rights that it has.
        data_dir: Its private folder.

    Returns:
        ``hint``, for people, and where a right would help ``permission`` and ``manifest_line``; empty when there is nothing to say.
    """
    try:
        hints = (_hint(one, level, _Rights(grants), data_dir) for one in _with_causes(error))
        return next(filter(None, hints), {})
    except Exception:  # whatever a class of the plugin's own does when it is looked at
        return {}


class _Rights:
    """What was granted, which is what the manifest asks for: a plugin with less does not start."""

    def __init__(self, grants: "Sequence[str]") -> None:
        self._grants = grants

    def __contains__(self, right: str) -> bool:
        return right in self._grants

    def names(self, kind: str) -> list[str]:
        return [right.partition(":")[2] for right in self._grants if right.startswith(f"{kind}:")]

    def line(self, kind: str, name: str) -> str:
        """Return the manifest line that asks for a right beside those that are asked for already."""
        if kind in ("filesystem.read", "filesystem.write"):
            arrays = {verb: _array(self.names(f"filesystem.{verb}"), name if kind.endswith(verb) else "") for verb in ("read", "write")}
            return f"filesystem = {{ {', '.join(f'{verb} = {array}' for verb, array in arrays.items() if array != '[]')} }}"
        return f"{kind} = {_array(self.names(kind), name)}"


def _array(names: list[str], added: str) -> str:
    from json import dumps

    return dumps(names + [added] * (added not in ("", *names)), ensure_ascii=False)


def _ask(why: str, right: str, line: str) -> "dict[str, str]":
    hint = f"{why} add to plugin.toml under [permissions]: {line}{_THEN}"
    return {"hint": hint, "permission": right, "manifest_line": line}


def _with_causes(error: BaseException) -> "Iterator[BaseException]":
    """Yield an error and what it was raised from, or because of, or with."""
    waiting, seen = [error], 0
    while waiting and seen < _MAX_ERRORS:
        one, seen = waiting.pop(0), seen + 1
        yield one
        behind = [one.__cause__, None if one.__suppress_context__ else one.__context__, getattr(one, "reason", None)]
        waiting += [other for other in [*behind, *getattr(one, "exceptions", ())] if isinstance(other, BaseException)]


def _frames(error: BaseException) -> "list[tuple[FrameType, int]]":
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    return frames


def _hint(error: BaseException, level: str, rights: _Rights, data_dir: str | None) -> "dict[str, str]":
    if isinstance(error, KeyError):
        return _of_variable(error, rights) if level not in _NO_PROCESS else {}
    if level in _CALL_WALLS and (found := _of_proxy(error, rights)):
        return found
    if not isinstance(error, OSError) or level not in _FILE_WALLS:
        return {}
    frames = _frames(error)
    modules = {str(frame.f_globals.get("__name__")) for frame, _ in frames}
    starts = "subprocess" in modules or any(name.startswith("multiprocessing.popen_") for name in modules)
    if starts or any(name.startswith(_STARTERS) for name in _names(_line(frames))):
        return _of_program(error, rights)
    if error.filename is None:
        return _of_network(error, frames, modules, rights) if level in _CALL_WALLS else {}
    return _of_path(error, frames, rights, data_dir) if error.errno in _NOT_SHOWN else {}


def _of_variable(error: KeyError, rights: _Rights) -> "dict[str, str]":
    frames, name = _frames(error), error.args[0] if error.args else None
    if not frames or not isinstance(name, str) or frames[-1][0].f_globals.get("__name__") != "os":
        return {}
    if f"env:{name}" in rights:
        return {"hint": f"{name} was granted, but the host itself has no such variable"}
    if not name.isidentifier() or not name.isascii() or name.upper().startswith(_STEERING) or name.upper() in _HOSTS_OWN:
        return {"hint": f"no plugin is given the variable {name}"}
    return _ask("a plugin sees no variable of the host's but those that it was granted;", f"env:{name}", rights.line("env", name))


def _of_program(error: OSError, rights: _Rights) -> "dict[str, str]":
    if "subprocess" in rights or error.errno not in _NOT_SHOWN:
        return {}
    return _ask("the sandbox lets a plugin start no processes;", "subprocess", "subprocess = true")


def _of_network(error: OSError, frames: "list[tuple[FrameType, int]]", modules: set[str], rights: _Rights) -> "dict[str, str]":
    if type(error).__name__ != "gaierror":
        line = _line(frames)
        if error.errno not in _NO_NETWORK or not ("socket" in modules or "socket" in line or "connect" in line):
            return {}
    why = "the host makes a plugin's connections: use ctx.fetch, or an HTTP client that heeds HTTPS_PROXY"
    target = _target(frames)
    if target and f"network:{target}" in rights:
        return {"hint": why}
    line = rights.line("network", target or "host:port")
    return {key: text for key, text in _ask(f"{why}, and", f"network:{target}", line).items() if target or key == "hint"}


def _of_proxy(error: BaseException, rights: _Rights) -> "dict[str, str]":
    target = refused_target(error) if rights.names("network") else ""  # without any there is no proxy
    if not target or f"network:{target}" in rights:
        return {}  # what was granted was the server's to refuse
    why = "the host's proxy connects a plugin to nothing but what it was granted;"
    return _ask(why, f"network:{target}", rights.line("network", target))


def _target(frames: "list[tuple[FrameType, int]]") -> str:
    """Return ``host:port`` that the standard library was asked for; empty when nobody asked for one."""
    for frame, _ in reversed(frames):
        names = frame.f_locals if frame.f_globals.get("__name__") in ("asyncio.base_events", "http.client", "socket") else {}
        address = names.get("address")
        host, port = address[:2] if isinstance(address, tuple) and len(address) > 1 else (names.get("host"), names.get("port"))
        if isinstance(host, str) and host and isinstance(port, (int, str)) and str(port).isdecimal():
            return f"[{host}]:{port}" if ":" in host else f"{host.lower()}:{port}"
    return ""


def _of_path(error: OSError, frames: "list[tuple[FrameType, int]]", rights: _Rights, data_dir: str | None) -> "dict[str, str]":
    path = _text(error.filename)
    if not path.startswith("/"):
        why = "relative paths begin at /, not in the plugin's folder; write: Path(__file__).parent / "
        return {"hint": f"{why}{path!r}"} if path and error.errno == errno.ENOENT else {}
    path, writes = normpath(_outermost(frames) or path), error.errno == errno.EROFS or _is_writing(frames, path)
    own = [*rights.names("filesystem.write"), *([data_dir] if data_dir else [])]
    if _is_below(path, own) or (not writes and _is_below(path, [*rights.names("filesystem.read"), *_shown()])):
        return {}  # it may: the error says what it is
    if writes and _is_below(path, _shown()):
        return _of_own_folder(data_dir)
    if _is_below(path, [_temporary()]):
        return {} if _is_own_temporary(path) else _of_other_temporary(path, rights, writes=writes)
    if path.startswith(_GPU):
        return {} if "devices:gpu" in rights else _ask("the sandbox shows no device;", "devices:gpu", 'devices = ["gpu"]')
    if _is_below(path, _KERNELS):
        return {"hint": f"of /{path.split('/')[1]} no plugin is given more than every plugin has"}
    if writes and _is_below(path, [_TMP]):  # somebody else's
        return _of_other_temporary(path, rights, writes=True)
    return _of_hidden(path, rights, writes=writes)


def _of_other_temporary(path: str, rights: _Rights, *, writes: bool) -> "dict[str, str]":
    """Tell of a path in ``/tmp`` of which the plugin has made nothing: it is likely somebody else's."""
    kind, place = ("filesystem.write", dirname(path)) if writes else ("filesystem.read", path)
    why = f"a plugin's temporary files are in {_temporary()}: use the module tempfile"
    if place == _TMP:
        return {"hint": why}
    if _temporary() == _TMP:
        why = f"a plugin's {_TMP} is its own and empty at the start"
    wish = f"to write in the machine's {place}," if writes else f"if the machine has {place},"
    return _ask(f"{why}; {wish}", f"{kind}:{place}", rights.line(kind, place))


def _of_own_folder(data_dir: str | None) -> "dict[str, str]":
    why = "a plugin's code and packages are read-only"
    if data_dir:
        return {"hint": f"{why}; write into ctx.data_dir"}
    return _ask(f"{why}; for files of its own there is ctx.data_dir;", "data", 'data = { quota = "50MiB" }')


def _of_hidden(path: str, rights: _Rights, *, writes: bool) -> "dict[str, str]":
    kind, place = ("filesystem.write", dirname(path)) if writes else ("filesystem.read", path)
    if place.count("/") < 2:
        where = place if place != "/" else "the whole machine"
        return {"hint": f"a plugin sees only what it was granted, and nobody is granted {where}: ask for a folder made for it"}
    if writes:
        return _ask(f"a plugin writes only where it was granted to; to write in {place},", f"{kind}:{place}", rights.line(kind, place))
    return _ask(f"a plugin sees only what it was granted; if {place} is there,", f"{kind}:{place}", rights.line(kind, place))


def _is_own_temporary(path: str) -> bool:
    """Say whether a path in the temporary folder is of the plugin's own making, as far as its folder and its name tell."""
    from os import stat

    if _temporary() != _TMP:
        return True  # a folder that nobody else has ever known
    folder = dirname(path)
    while _is_below(folder, [f"{_TMP}/"]):
        try:
            return bool(stat(folder).st_mode & 0o200)  # those above what was granted are read-only
        except OSError:
            folder = dirname(folder)
    name = path[len(_TMP) + 1 :].partition("/")[0].partition(".")[0]
    return path == _TMP or (name.startswith("tmp") and len(name) == 11 and name.isidentifier())  # as the module tempfile makes them


def _temporary() -> str:
    from os import environ

    return environ.get("TMPDIR", _TMP)


def _shown() -> list[str]:
    """Return folders that every plugin sees."""
    return [*(entry for entry in sys.path if entry.startswith("/")), f"{sys.base_prefix}/lib", *_SHOWN]


def _is_below(path: str, places: "Iterable[str]") -> bool:
    return any(path == place or path.startswith(f"{place.rstrip('/')}/") for place in places)


def _text(name: "Any") -> str:
    return name if isinstance(name, str) else name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else ""


def _outermost(frames: "list[tuple[FrameType, int]]") -> str:
    """Return the folder that ``os.makedirs`` was asked for: it fails at the first of those above it."""
    for frame, _ in frames:
        if frame.f_code.co_name == "makedirs" and frame.f_globals.get("__name__") == "os":
            return _text(frame.f_locals.get("name"))
    return ""


def _is_writing(frames: "list[tuple[FrameType, int]]", path: str) -> bool:
    """Say whether a function was called that changes something."""
    for frame, _ in frames:
        if frame.f_globals.get("__name__") in _FILE_MODULES:
            target = _text(frame.f_locals.get("dst"))
            if frame.f_code.co_name in _WRITERS and (not target or _is_below(path, [target])):
                return True
            if _is_write_mode(frame.f_locals.get("mode")):
                return True
    # Builtins have no frame: what is left is how the line reads.
    line = _line(frames)
    names = _names(line)
    if "open" in names or any(name.endswith(".open") for name in names):
        return any(_is_write_mode(part) for part in line.replace("'", '"').split('"')[1::2])
    return any(name.startswith("os.") and name[3:] in _WRITERS for name in names)


def _is_write_mode(mode: "Any") -> bool:
    return isinstance(mode, str) and len(mode) <= 3 and set(mode) <= set("rwxabt+") and bool(set(mode) & set("wxa+"))


def _line(frames: "list[tuple[FrameType, int]]") -> str:
    """Return the source of the innermost line; empty when it cannot be read. ``linecache`` costs 10 ms to import."""
    try:
        frame, number = frames[-1]
        with open(frame.f_code.co_filename, "rb") as file:
            return file.read(_MAX_SOURCE_BYTES).split(b"\n")[number - 1].decode("utf-8", "replace")
    except (IndexError, OSError):
        return ""


def _names(line: str) -> list[str]:
    """Return the dotted names in a line of source."""
    return "".join(char if char.isalnum() or char in "_." else " " for char in line).split()
