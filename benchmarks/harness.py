"""Run rows and their references interleaved, and keep the figures.

A benchmark is a module with ``NAME``, ``TITLE``, ``MARKS`` and ``measure(bench)``. Its rows are measured by subjects, each in a process of
its own (`worker.py`), all alive together; every round visits each cell once, in order, so that whatever else the machine does falls on
all of them alike.

* Warm-up is not counted. p50 and p99 are taken per round, and the median of the rounds is reported.
* A ratio is the quotient of two reported figures and is left out when one of them could not be measured. Nothing is estimated.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import platform
import select
import statistics
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any, final

__all__ = ["RESULTS", "Bench", "Cell", "Mark", "Row", "Seat", "Subject", "SubjectError", "reference", "verdict"]

RESULTS = Path(__file__).parent / "results"
_WORKER = Path(__file__).parent / "worker.py"
_PEERS = ("annexe", "grpcio", "msgspec", "pluggy", "pydantic", "pyisolate", "Pyro5", "rpyc", "uvloop")
_ANSWER_TIMEOUT_S = 300.0  # far beyond any visit
_PIN_TO = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0


class SubjectError(Exception):
    """A subject could not be started or asked; the text says why."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One declared mark: what a ratio must be at most (or at least); ``held_back_by`` tells readers why it is missed, where it is."""

    key: str
    limit: float
    at_least: bool = False
    about: str
    held_back_by: str = ""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a results file. Without a measurement ``p50`` and ``p99`` are None and ``what`` says why."""

    what: str
    unit: str
    p50: float | None
    p99: float | None
    n: int


@final
@dataclass(frozen=True, slots=True)
class Subject:
    """What a worker process is to run: ``module:Class``, its arguments, and whether the interpreter is started bare (``-I -S``)."""

    name: str
    factory: str
    options: Mapping[str, Any] = field(default_factory=dict)
    bare: bool = False
    ours: bool = False


@final
@dataclass(frozen=True, slots=True)
class Cell:
    """One row to measure: which subject, which of its methods, with what. The method returns a list of samples in ``unit``.

    With ``worst`` (`min` or `max`) a round is one sample, and its p99 is the worst of all rounds.
    """

    what: str
    subject: str
    do: str = "block"
    args: Mapping[str, Any] = field(default_factory=dict)
    unit: str = "µs"
    worst: Callable[[Sequence[float]], float] | None = None


def reference(name: str, kind: str) -> Subject:
    """Return the subject for one class of `references.py`; peers get the benchmark's request as bytes, and as much text."""
    import msgspec

    from benchmarks.payload import requests

    payload = msgspec.msgpack.encode(requests(1)[0])
    encoded = base64.b64encode(payload).decode()
    options = {"payload": encoded, "text": encoded[: len(payload)]}
    return Subject(name, f"benchmarks.references:{kind}", options, bare=kind in ("Copies", "Floor"))


def _environment() -> dict[str, str]:
    # PYTHONDONTWRITEBYTECODE and the like would be measured too.
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


@final
class Seat:
    """A running subject."""

    def __init__(self, subject: Subject, *, pinned: bool, answer_timeout_s: float = _ANSWER_TIMEOUT_S) -> None:
        flags = ["-I", "-S"] if subject.bare else []
        command = [sys.executable, *flags, str(_WORKER), subject.factory, json.dumps(dict(subject.options)), str(_PIN_TO) if pinned else ""]
        self.subject = subject
        self._answer_timeout_s = answer_timeout_s
        self._chatter = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the seat; read only when the subject ends unasked
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._chatter, text=True, env=_environment()
        )

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    def ask(self, do: str, **args: Any) -> Any:
        """Call one of the subject's methods and return what it returned.

        Raises:
            SubjectError: It raised, its process ended, or it did not answer in time and was killed.
        """
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(json.dumps({"do": do, "args": args}) + "\n")
            self._process.stdin.flush()
            if not select.select([self._process.stdout], [], [], self._answer_timeout_s)[0]:
                self._process.kill()
                raise SubjectError(f"it did not answer within {self._answer_timeout_s:g} s")
            answer = json.loads(self._process.stdout.readline() or "{}")
        except (BrokenPipeError, json.JSONDecodeError) as error:
            answer = {"error": str(error)}
        if "ok" in answer:
            return answer["ok"]
        raise SubjectError(answer.get("error") or f"its process ended with {self._process.wait(10)}: {self._last_words()}")

    def _last_words(self) -> str:
        self._chatter.seek(0)
        lines = self._chatter.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def close(self) -> None:
        """End the subject and its process."""
        try:
            self.ask("close")
            self._process.wait(20)
        except (SubjectError, subprocess.TimeoutExpired):
            self._process.kill()
        with contextlib.suppress(BrokenPipeError), self._process, self._chatter:
            pass


@final
@dataclass(kw_only=True)
class Bench:
    """One benchmark being run: it opens seats, measures cells, and gathers rows and ratios."""

    name: str
    quick: bool = False
    references_only: bool = False
    rows: list[Row] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    ours: set[str] = field(default_factory=set)
    machine: dict[str, Any] = field(default_factory=lambda: machine())
    failed: bool = False

    @property
    def rounds(self) -> int:
        """Return how often each cell is visited."""
        return 2 if self.quick else 7

    def count(self, full: int) -> int:
        """Return how many calls a visit makes: ``full``, or a fraction of it in a quick run."""
        return max(1, full // 20) if self.quick else full

    @contextlib.contextmanager
    def seats(self, subjects: Sequence[Subject], *, pinned: bool = False) -> Iterator[dict[str, Seat]]:
        """Start each subject and yield those that started; one that does not is noted in ``absent`` with its reason."""
        with ExitStack() as stack:
            begun, seats = [], {}
            for subject in subjects:
                if subject.ours and self.references_only:
                    self.ours.add(subject.name)
                    continue
                begun.append((subject, Seat(subject, pinned=pinned)))  # each imports what it needs while those before it start
                stack.callback(begun[-1][1].close)
            for subject, seat in begun:
                try:
                    seat.ask("start")
                    seats[subject.name] = seat
                except SubjectError as error:
                    self.absent[subject.name] = str(error)
                    self.failed = self.failed or subject.ours
            yield seats

    def interleave(self, seats: Mapping[str, Seat], cells: Sequence[Cell], *, suffix: str = "", rounds: int | None = None) -> None:
        """Measure the cells round by round, as often as all others or as it says, and add a row for each."""
        if self.references_only:
            cells = [cell for cell in cells if cell.subject not in self.ours]
        samples: dict[str, list[list[float]]] = {cell.what: [] for cell in cells}
        for lap in range((rounds or self.rounds) + 1):
            for cell in cells:
                if cell.subject in seats and cell.subject not in self.absent:
                    try:
                        taken = seats[cell.subject].ask(cell.do, **cell.args)
                    except SubjectError as error:
                        self.absent[cell.subject] = f"stopped in round {lap}: {error}"
                        self.failed = self.failed or seats[cell.subject].subject.ours
                        continue
                    if lap:  # the first lap is the warm-up
                        samples[cell.what].append(taken)
        for cell in cells:
            self.rows.append(self._row(cell, samples[cell.what], suffix))

    def _row(self, cell: Cell, rounds: Sequence[Sequence[float]], suffix: str) -> Row:
        why = self.absent.get(cell.subject)
        if why or not rounds:
            return Row(what=f"{cell.what}{suffix}: not measured: {why}", unit=cell.unit, p50=None, p99=None, n=0)
        p50 = statistics.median(statistics.median(taken) for taken in rounds)
        worst = cell.worst([cell.worst(taken) for taken in rounds]) if cell.worst else None
        p99 = statistics.median(_p99(taken) for taken in rounds) if worst is None else worst
        return Row(what=f"{cell.what}{suffix}", unit=cell.unit, p50=round(p50, 3), p99=round(p99, 3), n=sum(map(len, rounds)))

    def value(self, what: str, *, percentile: str = "p50") -> float | None:
        """Return a row's figure, or None when it was not measured."""
        found: float | None = next((getattr(row, percentile) for row in self.rows if row.what == what), None)
        return found

    def ratio(self, key: str, top: float | None, bottom: float | None = 1.0) -> None:
        """Add a ratio, unless one of its figures is missing."""
        if top is not None and bottom:
            self.ratios[key] = round(top / bottom, 3)

    def save(self) -> Path:
        """Write the results file; a quick or partial run goes to ``partial/`` so that it is never mistaken for a full one."""
        folder = RESULTS / "partial" if self.quick or self.references_only else RESULTS
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        result = {
            "name": self.name,
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": self.machine,
            "rows": [asdict(row) for row in self.rows],
            "ratios": self.ratios,
        }
        path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return path


def verdict(mark: Mark, ratios: Mapping[str, float]) -> str:
    """Return ``met``, ``missed`` or ``not measured``."""
    measured = ratios.get(mark.key)
    if measured is None:
        return "not measured"
    return "met" if (measured >= mark.limit if mark.at_least else measured <= mark.limit) else "missed"


def machine() -> dict[str, Any]:
    """Describe this machine as it is now, with its load and the versions of what is measured."""
    cpuinfo = Path("/proc/cpuinfo")
    models = (
        [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if cpuinfo.exists()
        else []
    )
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "pinned_to": _PIN_TO,
        "load_1min": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "python_work_ns": _python_work_ns(),
        "versions": {peer: version for peer in _PEERS if (version := _version(peer))},
    }


def _python_work_ns() -> int:
    """Return the nanoseconds of one round of ordinary Python work.

    Builds of one version differ by half in it, and ratios to peers in C with them.
    """

    def work(rounds: int) -> None:
        for number in range(rounds):
            record = SimpleNamespace(number=number, items=[number])
            record.told = {"number": record.number, "items": record.items, "name": f"r-{number}"}

    return round(min(timeit.repeat(lambda: work(10_000), number=1, repeat=7)) / 10_000 * 1e9)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _p99(samples: Sequence[float]) -> float:
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
