"""Pages of the documentation, done as a reader would do them.

A page is Markdown. In its fenced blocks

* ``python`` and ``toml`` whose first line is ``# some/path.py`` is a file, and so is ``json some/path.json``: it is written there;
* ``console`` has commands after ``$ ``; lines below a command are what it prints, ``…`` standing for anything. Without such lines anything
  may be printed. The command must succeed unless ``exit status`` is among what it prints;
* a command that runs until it is stopped (``RUNS_ON``) goes on while the rest of the page is done;
* ``text`` is what such a command prints later;
* each heading of the second level begins in the folder that the page began in.

Nothing is downloaded: ``pip install`` and ``python3 -m venv`` are checked, not run, because the packages are there already.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import distribution
from pathlib import Path

__all__ = ["ROOT", "Block", "Reader", "blocks_of", "commands_of", "reader_in"]

ROOT = Path(__file__).resolve().parents[2]
RUNS_ON = ("make demo", "annexe run", "annexe dev", "annexe attach")
COMMAND_TIMEOUT_S = 60.0

_FENCE = re.compile(r"^ *```([\w-]*)[ ]?(\S*)\n(.*?)^ *```$|^(## [^\n]+)$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w./-]+\.(?:py|toml))\n")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block, or a heading of the second level (language ``#``)."""

    page: Path
    line: int
    language: str
    text: str
    file: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True, slots=True)
class Command:
    """One command and what it prints."""

    line: str
    output: str


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if match[4]:
            found.append(Block(page, line, "#", match[4], None))
            continue
        name = _FILE.match(match[3])
        file = match[2] or (name[1] if name and match[1] in ("python", "toml") else None)
        found.append(Block(page, line, match[1], match[3], file))
    return found


def commands_of(block: Block) -> list[Command]:
    """Return the commands of a ``console`` block."""
    parts = re.split(r"^\$ ", block.text.replace("\\\n", " "), flags=re.MULTILINE)
    assert not parts[0].strip(), f"{block}: a console block begins with a command, `$ …`"
    pairs = [part.partition("\n") for part in parts[1:]]
    return [Command(re.sub(r"\s+#\s.*$", "", line).strip(), output.strip("\n")) for line, _, output in pairs]


@dataclass(slots=True)
class Reader:
    """Does what pages say.

    Args:
        folder: Where the page begins.
        environment: Of everything that is run.
        port: Instead of 8700.
    """

    folder: Path
    environment: dict[str, str]
    port: int | None = None
    here: Path = field(init=False)
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.here = self.folder

    def follow(self, blocks: list[Block]) -> None:
        """Do one block after the other."""
        for block in blocks:
            if block.language == "#":
                self.here = self.folder
            elif block.file is not None:
                path = self.here / block.file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text, encoding="utf-8")
            elif block.language == "console":
                for command in commands_of(block):
                    self.do(command, str(block))
            elif block.language == "text":
                self._await_output(block)

    def do(self, command: Command, where: str) -> None:
        """Run one command and hold what it prints against the page."""
        line = command.line.replace("8700", str(self.port)) if self.port else command.line
        wanted = command.output.replace("8700", str(self.port)) if self.port else command.output
        if line.startswith(("pip install ", "python3 -m venv ")):
            for name in line.split()[2:] if line.startswith("pip") else ():
                assert distribution(name), name
            return
        if match := re.fullmatch(r"(?:mkdir \S+ && )?cd (\S+)", line):
            self.here = self.here / match[1]
            self.here.mkdir(exist_ok="mkdir" not in line)
            return
        if line.startswith(RUNS_ON):
            printed, status = self._start(line, wanted), 0
        else:
            done = subprocess.run(
                ["bash", "-c", line],
                cwd=self.here,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=COMMAND_TIMEOUT_S,
                check=False,
            )
            printed, status = done.stdout.decode(), done.returncode
        said = f"{where}: $ {line}\n{printed}\n(exit status {status})"
        assert (status != 0) == ("exit status" in wanted), said
        wanted = re.sub(r"\n?\(exit status (\d+)\)", lambda match: "" if int(match[1]) == status else match[0], wanted)
        assert not wanted or pattern_of(wanted).fullmatch(printed.strip("\n")), f"{said}\nbut the page says:\n{wanted}"

    def _start(self, line: str, wanted: str) -> str:
        """Start what runs on; return what it had printed when it had printed enough."""
        out = self.folder / f"output-{len(self.running)}"
        with out.open("wb") as stream:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {line}"],
                cwd=self.here,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running.append(process)
        end = time.monotonic() + COMMAND_TIMEOUT_S
        pattern = pattern_of(wanted)
        while not pattern.fullmatch(printed := out.read_text().strip("\n")):
            assert process.poll() is None and time.monotonic() < end, f"$ {line}\n{printed}\nbut the page says:\n{wanted}"
            time.sleep(0.05)
        return printed

    def _await_output(self, block: Block) -> None:
        """Wait until what runs on has printed the lines of a block, somewhere."""
        out = self.folder / f"output-{len(self.running) - 1}"
        end = time.monotonic() + COMMAND_TIMEOUT_S
        while not pattern_of(block.text).search(printed := out.read_text()):
            assert self.running[-1].poll() is None and time.monotonic() < end, f"{block}: what runs printed:\n{printed}"
            time.sleep(0.05)

    def close(self) -> None:
        """Stop, as with ctrl-C, what still runs."""
        for process in reversed(self.running):
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise


def pattern_of(wanted: str) -> re.Pattern[str]:
    """Return what matches the output that a page shows: blanks as they come, ``…`` the rest of a line, or lines when it stands alone."""
    pattern = ""
    for line in wanted.strip("\n").split("\n"):
        if line.strip() == "…":
            pattern += "(?s:.*?)"
        else:
            words = [".*?".join(map(re.escape, word.split("…"))) for word in line.split()]
            pattern += r"\s*" + r"[ \t]+".join(words) + r"[ \t]*(?:\n|\Z)"
    return re.compile(pattern)


@contextmanager
def reader_in(folder: Path, *, port: int | None = None) -> Iterator[Reader]:
    """Give a reader who has an empty folder, an empty HOME, and annexe installed."""
    home, work = folder / "home", folder / "work"
    home.mkdir()
    work.mkdir()
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TZ") if name in os.environ}
    environment = {
        **kept,
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "PYTHON": sys.executable,
        "PYTHONUTF8": "1",
        "COLUMNS": "120",
    }
    if port is not None:
        environment["PORT"] = str(port)
    reader = Reader(work, environment, port)
    try:
        yield reader
    finally:
        reader.close()
