"""A plugin's tests as the source of what it should ask for: the side of the tests.

``annexe learn`` names a folder in the environment of the tests that it runs. Only this package looks for it, in the process that runs the
tests: a plugin does not get that variable, and a host outside of tests does not read it.

* The folder holds the order, and takes in what was noted: one file for each process, one line for each fact, each fact once.

Source: docs/how-to/learn-permissions.md; ADR-0078.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, final

from annexe.host.learning import Learning
from annexe.manifest import read_manifest
from annexe_sdk.recording import Recorder

__all__ = ["VARIABLE", "LearningSession", "read_facts", "session", "session_for", "write_order"]

VARIABLE = "ANNEXE_LEARN"
_ORDER = "order.json"


def write_order(folder: Path, *, plugin: str, rights: Iterable[str] | None = None) -> None:
    """Say what the tests are run for.

    Args:
        folder: That the environment will name.
        plugin: Id.
        rights: Those to be tried; None: learn them.
    """
    order = {"plugin": plugin, "rights": None if rights is None else sorted(rights)}
    (folder / _ORDER).write_text(json.dumps(order), encoding="utf-8")


def session() -> LearningSession | None:
    """Return what this process is to learn; None: nothing, as always but below ``annexe learn``."""
    folder = os.environ.get(VARIABLE)
    return _session(Path(folder)) if folder else None


def session_for(folder: Path) -> LearningSession | None:
    """Return what this process is to learn if it is about the plugin in a folder."""
    found = session()
    return found if found is not None and read_manifest(folder).id == found.plugin else None


@cache
def _session(folder: Path) -> LearningSession:
    return LearningSession(folder)


@final
class LearningSession:
    """What one process that runs tests has to learn, or to try.

    Args:
        folder: With the order.

    Attributes:
        plugin: Id.
        rights: Those to be tried; None: they are to be learned.
        private: Folders that tests gave the plugin in the place of its private one: for what it does there it needs ``data`` alone.
    """

    def __init__(self, folder: Path) -> None:
        order: dict[str, Any] = json.loads((folder / _ORDER).read_text(encoding="utf-8"))
        self.plugin: str = order["plugin"]
        self.rights: frozenset[str] | None = None if order["rights"] is None else frozenset(order["rights"])
        self.private: set[str] = set()
        self._file = folder / f"{os.getpid()}.jsonl"
        self._known: set[tuple[str, str]] = set()
        self._recorder: Recorder | None = None
        self._depth = 0

    @property
    def learning(self) -> Learning:
        """What a host of these tests is made with."""
        return Learning(plugin=self.plugin, note=self.note, rights=self.rights)

    def note(self, kind: str, what: str) -> None:
        """Keep a fact."""
        if (kind, what) not in self._known:
            self._known.add((kind, what))
            with self.looking_away(), self._file.open("a", encoding="utf-8", errors="surrogateescape") as file:
                file.write(json.dumps([kind, what]) + "\n")

    @contextmanager
    def watching(self, folder: Path) -> Iterator[None]:
        """Note what is done in this block, in this process: it is the plugin's doing.

        Args:
            folder: The plugin's.
        """
        if self.rights is not None:
            yield
            return
        if self._recorder is None:
            self._recorder = Recorder(str(folder), is_on=lambda: self._depth > 0)
            self._recorder.start()
        before, self._depth = self._depth, 1
        try:
            yield
        finally:
            self._depth = before
            for kind, what in self._recorder.take():
                if not any(f"{what}/".startswith(f"{place}/") for place in self.private):
                    self.note(kind, what)

    @contextmanager
    def looking_away(self) -> Iterator[None]:
        """Note nothing in this block: within what the plugin does, it is the test's doing."""
        before, self._depth = self._depth, 0
        try:
            yield
        finally:
            self._depth = before


def read_facts(folder: Path) -> list[tuple[str, str]]:
    """Return what all processes have noted."""
    lines = (line for file in sorted(folder.glob("*.jsonl")) for line in file.read_text(encoding="utf-8").splitlines())
    return sorted({(kind, what) for kind, what in map(json.loads, lines)})
