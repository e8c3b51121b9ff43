"""From what a plugin used to what it should ask for.

Pure: what a path leads to is asked of the caller.

* Of three files of one folder the folder is asked for, and so is a folder that was listed; of what is written, always the folder that it is
  in, because a file that is not there cannot be granted.
* What every plugin sees and has (its own folder, Python, temporary files, ``/dev/null``, …) needs no right.
* Of what is in ``/tmp`` that is asked for which the plugin has not made: behind walls it has a ``/tmp`` of its own.
  Names that are drawn anew for each run are told, for a right to them would be worth nothing.
* What no right gives is told, never asked for.

Source: docs/how-to/learn-permissions.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from posixpath import basename, dirname
from re import compile as pattern
from typing import final

from annexe.launch import plugin_environment
from annexe.manifest.names import is_env_name, network_target
from annexe.manifest.rights import kind_of
from annexe.manifest.values import MisfitError

__all__ = ["Fact", "Learned", "WhyNot", "learn"]

Fact = tuple[str, str]
WhyNot = Callable[[str, bool], str]
"""Takes a path and whether it is to be written to; returns why nobody is granted it, empty when it can be."""

_FILES_OF_ONE_FOLDER = 3
_GPU = ("/dev/nvidia", "/dev/dri", "/dev/kfd")
_KERNELS = ("/dev", "/proc", "/sys")
_TMP = "/tmp"  # noqa: S108 - the machine's
_DRAWN = pattern(r"(tmp[a-z0-9_]{8}(\..*)?|pytest-of-.*)\Z")  # as tempfile and pytest do it
# Kinds of rights that nothing serves yet, or that take other plugins, which are not there meanwhile: that they are not used says nothing.
_KEPT = frozenset({"secrets", "services", "provide", "define", "events.publish", "events.subscribe"})


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What a plugin should ask for.

    Attributes:
        rights: In normal form.
        notes: What it did that no right gives, one sentence each.
    """

    rights: frozenset[str]
    notes: tuple[str, ...] = ()


def learn(facts: Iterable[Fact], *, asked: frozenset[str], own: str, seen: Sequence[str], why_not: WhyNot) -> Learned:
    """Return the least that a plugin should ask for.

    Args:
        facts: What it used, as ``annexe_sdk.recording`` and ``annexe.host.learning`` tell it.
        asked: What it asks for now; of that, what nothing serves yet is kept.
        own: Its folder.
        seen: Files and folders that every plugin sees.
        why_not: Says what cannot be granted.
    """
    known = sorted(set(facts))
    rights = {right for right in asked if kind_of(right) in _KEPT}
    notes: list[str] = []
    for kind, what in known:
        if kind == "right":
            rights.add(what)
        elif kind == "start":
            rights.add("subprocess")
        elif kind == "variable":
            is_everyones = what in plugin_environment({what: ""})
            rights.update({f"env:{what}"} if is_env_name(what) and not is_everyones else ())
        elif kind == "connect":
            _add_target(what, rights, notes)
        elif kind == "socket":
            notes.append(f"it connected to the local socket {what}, which no right gives")
        elif kind == "listen":
            notes.append(f"it listened at {what}, which no right gives")
    paths = _Paths(own=own, seen=seen, asked=_paths_of(asked), why_not=why_not)
    paths.take([fact for fact in known if fact[0] in ("read", "list", "write")])
    return Learned(rights=frozenset(rights | paths.rights), notes=(*notes, *paths.notes))


def _paths_of(rights: Iterable[str]) -> list[str]:
    return [right.partition(":")[2] for right in rights if kind_of(right).startswith("filesystem.")]


def _add_target(what: str, rights: set[str], notes: list[str]) -> None:
    try:
        rights.add(f"network:{network_target(what)}")
    except MisfitError:
        notes.append(f"it connected to {what}, which cannot be asked for: expected a host and a port")


class _Paths:
    """Sorts the paths that were used."""

    def __init__(self, *, own: str, seen: Sequence[str], asked: Sequence[str], why_not: WhyNot) -> None:
        self._own = own
        self._seen = seen
        self._asked = asked
        self._why_not = why_not
        self._made: list[str] = []
        self.rights: set[str] = set()
        self.notes: list[str] = []

    def take(self, facts: Sequence[Fact]) -> None:
        """Take all of them, at once: that there are many of one folder shows only then."""
        self._made = [path for kind, path in facts if kind == "write" and (dirname(path) == _TMP or _DRAWN.match(basename(path)))]
        wanted = [(kind, path) for kind, path in facts if self._is_a_right(kind, path)]
        written = self._granted(dict.fromkeys(dirname(path) for kind, path in wanted if kind == "write"), for_writing=True)
        reading = [(kind, path) for kind, path in wanted if kind != "write" and not _is_below(path, written)]
        read = self._granted(dict.fromkeys(self._widened(reading)), for_writing=False)
        self.rights |= {f"filesystem.write:{path}" for path in written} | {f"filesystem.read:{path}" for path in read}

    def _is_a_right(self, kind: str, path: str) -> bool:
        if path.startswith(_GPU):
            self.rights.add("devices:gpu")
            return False
        if _is_below(path, [self._own]):
            is_byte_code = basename(dirname(path)) == "__pycache__" and ".pyc" in basename(path)  # the interpreter's doing
            if kind == "write" and not is_byte_code:
                self.notes.append(f"it wrote to {path}: its own folder is read-only to it; ask for data, and write into ctx.data_dir")
            return False
        if _is_below(path, [_TMP]) and not _is_below(path, [*self._asked, *self._seen]):
            return self._is_anothers(path)
        return not _is_below(path, _KERNELS) and (kind == "write" or not _is_below(path, self._seen))

    def _is_anothers(self, path: str) -> bool:
        """Say whether a path in ``/tmp`` is somebody else's for good; tell what would not be there behind walls, or not stay."""
        parts = path.split("/")[2:]
        is_made, is_drawn = _is_below(path, self._made), any(map(_DRAWN.match, parts))
        if is_made and not is_drawn and len(parts) == 1:
            self.notes.append(f"it made {path}: nobody else sees what a plugin leaves in {_TMP}, and it goes with the plugin")
        elif not is_made and (is_drawn or not parts):
            self.notes.append(f"it used {path}: a plugin has temporary files of its own and sees nobody else's")
        return not is_made and not is_drawn and bool(parts)

    def _widened(self, facts: Iterable[Fact]) -> Iterator[str]:
        """Yield folders that were listed or of which many files were read, and the files of others."""
        facts = list(facts)
        files = [path for kind, path in facts if kind == "read"]
        many = {folder for folder, count in Counter(map(dirname, files)).items() if count >= _FILES_OF_ONE_FOLDER}
        folders = {path for kind, path in facts if kind == "list"} | {folder for folder in many if not self._why_not(folder, False)}
        yield from sorted(folders)
        yield from (path for path in files if not _is_below(path, folders))

    def _granted(self, paths: Iterable[str], *, for_writing: bool) -> list[str]:
        """Return those that can be granted, without what is inside of others."""
        found: list[str] = []
        for path in sorted(paths):
            if _is_below(path, found):
                continue
            if reason := self._why_not(path, for_writing):
                self.notes.append(f"it {'wrote in' if for_writing else 'read'} {path}, which nobody is granted: {reason}")
            else:
                found.append(path)
        return found


def _is_below(path: str, places: Iterable[str]) -> bool:
    return any(path == place or path.startswith(f"{place.rstrip('/')}/") for place in places)
