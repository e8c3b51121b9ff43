"""The recorder, in processes of their own: an audit hook stays for good."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from annexe_sdk.recording import Recorder

FIRST = """
import json, os, sys
from annexe_sdk.recording import Recorder
here = os.path.dirname(os.path.abspath(__file__))
recorder = Recorder(here, seen=[f"{here}/seen"], proxies=["127.0.0.1:3128"], temporary=f"{here}/own")
recorder.start()
import asyncio, pathlib, shutil, socket, sqlite3, subprocess
recorder.take()
"""
LAST = """
told = recorder.take()
print(json.dumps([fact for fact in told if not fact[1].startswith((sys.base_prefix, sys.prefix))]))
"""


def facts(folder: Path, code: str, **environment: str) -> list[Any]:
    """Return what is recorded of a script, the interpreter's own files apart; ``HERE`` in it is its folder."""
    script = folder / "script.py"
    script.write_text(FIRST + code.replace("HERE", str(folder)) + LAST)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, cwd=folder, env={**environment, "PYTHONPATH": ":".join(sys.path)}
    )
    assert done.returncode == 0, done.stderr
    return [tuple(fact) for fact in json.loads(done.stdout)]


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ('open("HERE/a").read(); open(b"HERE/a").read()', [("read", "HERE/a")]),
        ('pathlib.Path("a").read_text()', [("read", "HERE/a")]),
        ('open("HERE/b", "w").close()', [("write", "HERE/b")]),
        ('os.close(os.open("HERE/a", os.O_RDWR))', [("write", "HERE/a")]),
        ('os.fdopen(os.open("HERE/a", os.O_RDONLY)).close()', [("read", "HERE/a")]),
        ('os.listdir("HERE"); os.listdir()', [("list", "HERE")]),
        ('list(pathlib.Path("HERE").iterdir())', [("list", "HERE")]),
        ('os.makedirs("HERE/x/y")', [("write", "HERE/x"), ("write", "HERE/x/y")]),
        ('os.rename("HERE/a", "HERE/c")', [("write", "HERE/a"), ("write", "HERE/c")]),
        ('os.symlink("nowhere", "HERE/c")', [("write", "HERE/c")]),
        ('os.remove("HERE/a")', [("write", "HERE/a")]),
        ('os.mkdir("b", dir_fd=os.open("HERE/seen", os.O_RDONLY))', [("write", "HERE/seen/b")]),
        ('at = os.open("HERE/seen", os.O_RDONLY); os.rename("x", "y", src_dir_fd=at, dst_dir_fd=at)',
         [("write", "HERE/seen/x"), ("write", "HERE/seen/y")]),
        ('open("HERE/own/x", "w").close(); open("HERE/own/x").close(); os.listdir("HERE/own")', []),
        ('sqlite3.connect("HERE/d.sqlite3").close(); sqlite3.connect(":memory:").close()', [("write", "HERE/d.sqlite3")]),
        ('subprocess.run(["/bin/true"])', [("start", "/bin/true")]),
        ('os.system("true")', [("start", "true")]),
        ('os.path.exists("HERE/a")', []),
        ('open("HERE/seen/x").read()', []),
        ('try: open("HERE/no")\nexcept OSError: pass', []),
        ('try: open(Ellipsis)\nexcept TypeError: pass', []),
    ],
)  # fmt: skip
def test_files_and_programs_are_recorded_once(tmp_path: Path, code: str, wanted: list[tuple[str, str]]) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "seen").mkdir()
    (tmp_path / "own").mkdir()
    (tmp_path / "seen" / "x").write_text("x")
    found = facts(tmp_path, code)
    assert [fact for fact in found if fact[0] != "start" or fact in wanted][: len(wanted)] == [
        (kind, what.replace("HERE", str(tmp_path))) for kind, what in wanted
    ]
    assert len([fact for fact in found if fact[1].startswith(str(tmp_path))]) == len([what for _, what in wanted if "HERE" in what])


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ('connect(("127.0.0.1", 9))', [("connect", "127.0.0.1:9")]),
        ('connect(("127.0.0.1", 3128))', []),
        ('connect("HERE/socket", socket.AF_UNIX)', [("socket", "HERE/socket")]),
        ('connect(("::1", 9), socket.AF_INET6)', [("connect", "[::1]:9")]),
        ('socket.getaddrinfo("localhost", 9); connect(("127.0.0.1", 9))', [("connect", "localhost:9")]),
        ('socket.getaddrinfo("localhost", None)', []),
        ('s = socket.socket(); s.bind(("127.0.0.1", 0)); s.close()', [("listen", "127.0.0.1:0")]),
    ],
)
def test_connections_are_recorded_by_the_name_that_was_looked_up(tmp_path: Path, code: str, wanted: list[tuple[str, str]]) -> None:
    first = "def connect(address, family=socket.AF_INET):\n    with socket.socket(family) as sock:\n        sock.connect_ex(address)\n"
    assert facts(tmp_path, first + code) == [(kind, what.replace("HERE", str(tmp_path))) for kind, what in wanted]


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ('os.environ["MODE"]', ["MODE"]),
        ('os.environ.get("MODE"); os.getenv("OTHER")', ["MODE", "OTHER"]),
        ('"MODE" in os.environ and os.environ["MODE"]', ["MODE"]),
        ('os.environ.get("MISSING")', []),
        ('dict(os.environ); os.environ.copy(); list(os.environ.items())', []),
        ('subprocess.run(["/bin/true"], env={**os.environ})', []),
        ('os.path.expandvars("$MODE")', []),
        ('import tempfile; tempfile.gettempdir()', []),
    ],
)  # fmt: skip
def test_variables_are_recorded_that_the_plugins_own_code_reads_by_name(tmp_path: Path, code: str, wanted: list[str]) -> None:
    found = facts(tmp_path, code, MODE="fast", OTHER="x")
    assert [what for kind, what in found if kind == "variable"] == wanted


def test_what_happens_in_a_copy_is_told_of_the_folder_it_was_made_from() -> None:
    recorder = Recorder("/var/cache/copies/demo-1", told_as="/plugins/demo")
    for path in ("/var/cache/copies/demo-1/x", "/var/cache/copies/demo-10/x"):
        recorder._on_event("os.mkdir", (path, 0o777, -1))
    assert recorder.take() == [("write", "/plugins/demo/x"), ("write", "/var/cache/copies/demo-10/x")]


def test_a_recorder_that_looks_away_records_nothing_and_facts_are_bounded() -> None:
    looks = False
    recorder = Recorder("/plugins/demo", is_on=lambda: looks)
    recorder._on_event("os.mkdir", ("/srv/x", 0o777, -1))
    assert recorder.take() == []
    looks = True
    for number in range(10_050):
        recorder._on_event("os.mkdir", (f"/srv/{number}", 0o777, -1))
    assert len(recorder.take()) == 10_000
    assert recorder.take() == []
