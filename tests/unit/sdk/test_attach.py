"""How a plugin that was started by hand joins a host, and what it makes of one that behaves oddly."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from annexe_sdk import Plugin, attach
from annexe_sdk.calls import Call
from annexe_sdk.plugin import Handler
from annexe_sdk.session import Stopped


def answering(path: Path, answer: Callable[[socket.socket], None]) -> threading.Thread:
    """Listen at a path, and have the first who comes answered."""
    listening = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(path.parent)  # an address may not be as long as a path
    listening.bind(path.name)
    os.chdir(here)
    listening.listen(1)

    def serve() -> None:
        with listening, listening.accept()[0] as client:
            answer(client)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        pytest.param(b"", "it hung up", id="hangs up"),
        pytest.param(b'{"plugin": ', "it hung up", id="hangs up halfway"),
        pytest.param(b'{"error": {"code": "host-error", "message": "the token is wrong"}}\n', "the token is wrong", id="refuses"),
        pytest.param(b"hello\n", "cannot be reached", id="is another program"),
        pytest.param(b"x" * 5000, "it answered with something else", id="says much"),
    ],
)
def test_a_host_that_does_not_let_it_in_ends_it_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: bytes, said: str
) -> None:
    def say(client: socket.socket) -> None:
        client.recv(81, socket.MSG_WAITALL)
        client.sendall(answer)

    thread = answering(tmp_path / "attach", say)
    monkeypatch.setenv("ANNEXE_ATTACH", f"{'0' * 64}@{tmp_path / 'attach'}")
    with pytest.raises(SystemExit) as end:
        Plugin().run()
    thread.join()
    assert end.value.code == attach.REFUSED
    assert said in capsys.readouterr().err
    assert "ANNEXE_ATTACH" not in os.environ


@pytest.mark.parametrize("deep", [False, True])
def test_it_shows_the_token_reads_one_line_and_ends_with_the_channel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], deep: bool
) -> None:
    folder = tmp_path / ("x" * 120 if deep else "x")
    folder.mkdir()
    shown: list[bytes] = []

    def let_in(client: socket.socket) -> None:
        shown.append(client.recv(200))
        client.sendall(b'{"plugin": "p"}\n')

    thread = answering(folder / "attach", let_in)
    monkeypatch.setenv("ANNEXE_ATTACH", f"{'a' * 64}@{folder / 'attach'}")
    here = Path.cwd()
    Plugin().run()
    thread.join()
    assert shown == [b"annexe-attach 1 " + b"a" * 64 + b"\n"]
    assert "let in as plugin 'p', without any sandbox" in capsys.readouterr().err
    assert Path.cwd() == here


@pytest.mark.parametrize("error", [KeyboardInterrupt(), type("BdbQuit", (Exception,), {})()], ids=["interrupted", "debugger quit"])
def test_what_ends_a_program_in_a_debugger_ends_the_plugin(error: BaseException) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        runner = attach._Runner(theirs, Plugin)
        with pytest.raises(Stopped):
            runner.failure(Call(1, "hook.a.b", None, {}, 0.0), Handler("filter", lambda: None), error, None)
        assert runner.stopped


def test_a_plugin_that_a_host_starts_does_not_load_it() -> None:
    code = "import sys, annexe_sdk.runner; print('annexe_sdk.attach' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
