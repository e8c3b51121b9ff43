"""Reading TOML tables strictly, finding every problem in one pass.

Pure. A ``Section`` hands out the values of one table, converted; each value that does not fit becomes a problem and a stand-in takes its
place, so that reading goes on to the next. Whoever reads must look at ``Problems`` before using what was read.

* A key that nobody asked for is a problem, with the nearest known name.
* A problem names key path, what was expected, what was got, and the line.
* The list of problems is bounded; nothing from the document is repeated at length or unescaped.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self, TypeVar, final

from annexe.manifest.lines import KeyPath, key_lines, line_of
from annexe.manifest.values import MisfitError

__all__ = ["Problems", "Section", "describe", "nearest"]

T = TypeVar("T")

_MAX_PROBLEMS = 100
_MAX_SHOWN_CHARS = 64
_BARE = re.compile(r"[A-Za-z0-9_-]+")


@final
@dataclass(frozen=True, slots=True)
class _Problem:
    path: KeyPath
    text: str


@final
class Problems:
    """What is wrong with one document.

    Args:
        text: The document, for line numbers.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._found: list[_Problem] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, path: KeyPath, text: str) -> None:
        """Note one problem at a key path."""
        self._found.append(_Problem(path, text))

    def texts(self) -> list[str]:
        """Return the problems in the order of the document, at most 100 and a line that counts the rest."""
        lines = key_lines(self._text)
        placed = sorted(((line_of(lines, problem.path), problem) for problem in self._found), key=lambda pair: pair[0])
        texts = [f"line {line}: {_shown_path(problem.path)}{problem.text}" for line, problem in placed[:_MAX_PROBLEMS]]
        if len(placed) > _MAX_PROBLEMS:
            texts.append(f"and {len(placed) - _MAX_PROBLEMS} more")
        return texts


@final
class Section:
    """One table, or an empty one where the document has none.

    Use as a context manager: leaving it reports the keys that nobody asked for.

    Args:
        table: The parsed table.
        path: Where it is in the document.
        problems: Where to note what does not fit.
    """

    def __init__(self, table: Mapping[str, object], path: KeyPath, problems: Problems) -> None:
        self._table = table
        self._path = path
        self._problems = problems
        self._known: dict[str, None] = {}  # in order; a document may have thousands of keys

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        for key in self._table:
            if key not in self._known:
                self.problem(key, f"expected {_known_keys(key, list(self._known))}, got an unknown key")

    def __contains__(self, key: str) -> bool:
        self._known[key] = None
        return key in self._table

    def holds_table(self, key: str) -> bool:
        """Say whether a key is there with a table as its value."""
        return isinstance(self._table.get(key), dict)

    def problem(self, key: str, text: str) -> None:
        """Note a problem with one key."""
        self._problems.add((*self._path, key), text)

    def take(self, key: str, convert: Callable[[object], T], default: T) -> T:
        """Return an optional value, converted; the default when it is absent or does not fit."""
        if key not in self:
            return default
        return self._converted((*self._path, key), self._table[key], convert, default)

    def need(self, key: str, convert: Callable[[object], T], instead: T) -> T:
        """Return a required value, converted; ``instead``, after noting the problem, when it is absent or does not fit."""
        if key in self:
            return self.take(key, convert, instead)
        try:
            convert(None)
        except MisfitError as misfit:
            self.problem(key, f"expected {misfit.expected}, got nothing: the key is required")
        return instead

    def items(self, key: str, convert: Callable[[object], T], *, max_items: int = 256) -> tuple[T, ...]:
        """Return an optional array's elements, converted; those that do not fit are left out after noting them."""
        if key not in self:
            return ()
        found = self._table[key]
        if not isinstance(found, list) or len(found) > max_items:
            self.problem(key, f"expected an array of at most {max_items} elements, got {describe(found)}")
            return ()
        converted = (self._converted((*self._path, key, index), item, convert, None) for index, item in enumerate(found))
        kept = [item for item in converted if item is not None]
        for index, item in enumerate(kept):
            if item in kept[:index]:
                self.problem(key, f"expected every element once, got {describe(item)} twice")
        return tuple(kept)

    def section(self, key: str, *, like: str = "") -> Section:
        """Return an optional table below this one; ``like`` is what one may look like."""
        path = (*self._path, key)
        found = self._table[key] if key in self else {}
        if not isinstance(found, dict):
            self.problem(key, f"expected a table{f' such as {like}' if like else ''}, got {describe(found)}")
            found = {}
        return Section(found, path, self._problems)

    def sections(self, convert: Callable[[object], str], *, like: str = "") -> Iterator[tuple[str, Section]]:
        """Yield every table in this one by its name, for tables whose names the author chooses."""
        for name in self.names(convert):
            with self.section(name, like=like) as section:
                yield name, section

    def names(self, convert: Callable[[object], str]) -> Iterator[str]:
        """Yield every key of this table that fits as a name, for tables whose keys the author chooses."""
        for name in self._table:
            self._known[name] = None
            if self._converted((*self._path, name), name, convert, None) is not None:
                yield name

    def _converted(self, path: KeyPath, value: object, convert: Callable[[object], T], instead: T) -> T:
        try:
            return convert(value)
        except MisfitError as misfit:
            self._problems.add(path, f"expected {misfit.expected}, got {describe(value)}")
            return instead


def nearest(name: str, known: list[str]) -> str | None:
    """Return the known name most like this one, if any is."""
    # Cut first: comparing costs the square of the length, and the name is a stranger's.
    return next(iter(difflib.get_close_matches(name[:_MAX_SHOWN_CHARS], known, n=1)), None)


def describe(value: object) -> str:
    """Say in a few words what a TOML value is, safe to print whatever it holds."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return repr(value) if len(value) <= _MAX_SHOWN_CHARS else f"{value[:_MAX_SHOWN_CHARS]!r}... ({len(value)} characters)"
    # An int of thousands of digits refuses to become text.
    if isinstance(value, int):
        return str(value) if value.bit_length() <= 64 else "a very large number"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return f"an array of {len(value)}"
    return "a date or time"


def _known_keys(key: str, known: list[str]) -> str:
    close = nearest(key, known)
    if close is not None:
        return repr(close)
    return "one of " + ", ".join(map(repr, known)) if known else "no keys here"


def _shown_path(path: KeyPath) -> str:
    """Return the path as ``permissions.network[1]: ``, empty for the document itself."""
    shown = ""
    for part in path:
        if isinstance(part, int):
            shown += f"[{part}]"
        else:
            name = part if _BARE.fullmatch(part) and len(part) <= _MAX_SHOWN_CHARS else describe(part)
            shown += f".{name}" if shown else name
    return f"{shown}: " if shown else ""
