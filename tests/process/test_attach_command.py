"""``annexe attach``, and a plugin under a real debugger."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from annexe import Host
from tests.process.attached import RUN, attached, invited, process, write
from tests.process.hosts import Doc, T, open_host, run, until, write_plugin

pytestmark = pytest.mark.any_user

PIPE = asyncio.subprocess.PIPE


async def who(host: Host) -> str:
    return (await host.hooks(T).strict(Doc("x"))).marks[0]


@asynccontextmanager
async def annexe(*words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the command; it is killed at the end, if it has not ended."""
    started = await asyncio.create_subprocess_exec(sys.executable, "-m", "annexe.cli", *words, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    try:
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            started.kill()
        await started.communicate()


async def until_said(stream: asyncio.StreamReader | None, text: str) -> str:
    """Read lines until one has this; return it."""
    assert stream is not None
    async with asyncio.timeout(15):
        while line := (await stream.readline()).decode():
            if text in line:
                return line
    raise AssertionError(f"it never said {text!r}")


def test_the_command_says_what_to_run_and_tells_what_becomes_of_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        file = write(tmp_path) / "main.py"
        async with open_host(tmp_path, control=True) as host, annexe("attach", "p", "--state", str(tmp_path / "state")) as command:
            words = (await until_said(command.stdout, "ANNEXE_ATTACH=")).strip()
            assert words.endswith(f" python {file}")
            async with process(file, words.partition("=")[2].split()[0]) as started:
                assert f"process {started.pid} takes the calls of p" in await until_said(command.stdout, "takes the calls")
                assert host.plugin("p").pid == started.pid
            await until_said(command.stdout, "is detached")
            await until_said(command.stdout, "the installed p is ready")
            assert await command.wait() == 0

    run(scenario)


def test_interrupting_the_command_lets_the_process_go(tmp_path: Path) -> None:
    async def scenario() -> None:
        file = write(tmp_path) / "main.py"
        async with open_host(tmp_path, control=True) as host:
            async with annexe("attach", "p", "--json", "--state", str(tmp_path / "state")) as command:
                assert command.stdout is not None
                invited = json.loads(await command.stdout.readline())
                async with process(file, invited["invitation"]) as started:
                    assert json.loads(await command.stdout.readline()) == {"state": "coming", "plugin": "p", "pid": started.pid}
                    assert json.loads(await command.stdout.readline()) == {"state": "attached", "plugin": "p", "pid": started.pid}
                    command.send_signal(signal.SIGINT)
                    assert await command.wait() == 130
                    assert await started.wait() == 0
            await until(lambda: host.plugin("p").state == "ready" and not host.plugin("p").is_attached)

    run(scenario)


def test_a_command_is_run_with_the_invitation_and_its_status_is_passed_on(tmp_path: Path) -> None:
    ends = "@plugin.filter('t.edit')\ndef edit(doc, ctx):\n    os._exit(7)\n"

    async def scenario() -> None:
        write(tmp_path, more=ends, hooks=["t.strict", "t.edit"])
        file = write(tmp_path / "mine", who="by hand", more=ends, hooks=["t.strict", "t.edit"]) / "main.py"
        async with open_host(tmp_path, control=True) as host:
            async with annexe("attach", "p", "--state", str(tmp_path / "state"), "--", sys.executable, str(file)) as command:
                await until_said(command.stderr, "takes the calls of p")
                assert await who(host) == "by hand"
                command.send_signal(signal.SIGINT)  # is the command's own business
                await host.hooks(T).edit(Doc("x"))
                await until_said(command.stderr, "the installed p is ready")
                assert await command.wait() == 7
            assert await who(host) == "installed"

    run(scenario)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        pytest.param(["p", "--", "/does/not/exist"], 6, "cannot run", id="no such command"),
        pytest.param(["p", "--", sys.executable, "-c", "raise SystemExit(3)"], 3, "", id="a command that does not attach"),
        pytest.param(["q"], 5, "no plugin 'q' is known", id="no such plugin"),
    ],
)
def test_what_cannot_be_ends_with_an_exit_code_that_says_so(tmp_path: Path, words: list[str], status: int, said: str) -> None:
    async def scenario() -> None:
        write(tmp_path)
        async with open_host(tmp_path, control=True), annexe("attach", "--state", str(tmp_path / "state"), *words) as command:
            _, complaint = await command.communicate()
            assert (command.returncode, said in complaint.decode()) == (status, True), complaint

    run(scenario)


def test_a_process_that_cannot_attach_makes_the_command_fail(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path)
        file = write(tmp_path / "mine", more="@plugin.on_activate\ndef start(ctx):\n    raise RuntimeError('no')\n") / "main.py"
        state = str(tmp_path / "state")
        async with open_host(tmp_path, control=True), annexe("attach", "p", "--state", state, "--", sys.executable, str(file)) as command:
            _, complaint = await command.communicate()
            assert command.returncode == 14
            assert "RuntimeError: no" in complaint.decode()

    run(scenario)


def test_a_breakpoint_holds_a_call_for_longer_than_any_time_out(tmp_path: Path) -> None:
    code = '@plugin.filter("t.strict")\ndef strict(doc, ctx):\n    doc["marks"] += [str(doc["text"])]\n    return doc\n'

    async def scenario() -> None:
        at = write_plugin(tmp_path / "plugins", "p", code, hooks=["t.strict"], extra='[resources]\ncall-timeout = "1s"')
        with (at / "main.py").open("a") as file:
            file.write(RUN)
        breakpoint_at = (at / "main.py").read_text().split("\n").index('    doc["marks"] += [str(doc["text"])]') + 1
        words = ("-m", "pdb", "-c", f"break {breakpoint_at}", "-c", "continue")
        state = str(tmp_path / "state")
        async with open_host(tmp_path, control=True) as host:  # noqa: SIM117 - that is long enough
            async with annexe("attach", "p", "--state", state, "--", sys.executable, *words, str(at / "main.py")) as command:
                assert command.stdin is not None
                await until_said(command.stderr, "takes the calls of p")
                call = asyncio.create_task(host.hooks(T).strict(Doc("from the host")))
                await until_said(command.stdout, "-> doc[")
                await asyncio.sleep(1.3)
                assert not call.done()
                command.stdin.write(b'doc["text"] = "from the debugger"\ncontinue\n')
                assert (await call).marks == ["from the debugger"]
                call = asyncio.create_task(host.hooks(T).strict(Doc("lost with the debugger")))
                await until_said(command.stdout, "-> doc[")
                later = asyncio.create_task(host.hooks(T).strict(Doc("later")))
                await asyncio.sleep(0.05)
                command.stdin.write(b"quit\n")
                with pytest.raises(Exception, match="failed closed"):
                    await call
                assert (await later).marks == ["later"]
                await until_said(command.stderr, "the installed p is ready")

    run(scenario)


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_interrupting_a_process_that_runs_without_a_debugger_detaches_it_in_a_word(tmp_path: Path, kind: str) -> None:
    async def scenario() -> None:
        more = f"@plugin.filter('t.edit')\n{'async ' if kind == 'async' else ''}def edit(doc, ctx):\n    return doc\n"
        write(tmp_path, more=more, hooks=["t.strict", "t.edit"])
        file = write(tmp_path / "mine", more=more, hooks=["t.strict", "t.edit"]) / "main.py"
        async with open_host(tmp_path, control=True) as host, attached(tmp_path, file) as (operator, started):
            await who(host)  # its last imports are done
            started.send_signal(signal.SIGINT)
            _, complaint = await started.communicate()
            assert (started.returncode, complaint.decode().splitlines()[1:]) == (130, ["annexe_sdk: interrupted, and detached"])
            assert "its process has ended" in (await operator.news("detached"))["reason"]

    run(scenario)


def test_a_debugger_that_is_interrupted_between_calls_stops_the_process_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path)
        file = write(tmp_path / "mine") / "main.py"
        async with open_host(tmp_path, control=True) as host, invited(tmp_path) as operator:  # noqa: SIM117 - that is long enough
            async with process(file, operator.invitation, "-m", "pdb", "-c", "continue") as started:
                await operator.news("attached")
                await who(host)
                assert started.stdin is not None
                started.send_signal(signal.SIGINT)
                await until_said(started.stdout, "Program interrupted")
                await until_said(started.stdout, "-> ")
                started.stdin.write(b"quit\n")
                assert await started.wait() == 0

    run(scenario)


@pytest.mark.parametrize(
    ("variables", "status", "said"),
    [
        pytest.param({}, 64, "annexe attach ID -- python", id="no host"),
        pytest.param({"ANNEXE_ATTACH": "nonsense"}, 69, "expected TOKEN@PATH", id="no invitation"),
        pytest.param({"ANNEXE_ATTACH": "0@/does/not/exist"}, 69, "cannot be reached", id="no such socket"),
    ],
)
def test_a_plugin_that_is_run_by_hand_says_what_is_missing(tmp_path: Path, variables: dict[str, str], status: int, said: str) -> None:
    async def scenario() -> None:
        file = write(tmp_path) / "main.py"
        async with process(file, None, **variables) as started:
            _, complaint = await started.communicate()
            assert (started.returncode, said in complaint.decode()) == (status, True), complaint

    run(scenario)


def test_a_state_directory_may_lie_deep(tmp_path: Path) -> None:
    async def scenario() -> None:
        root = tmp_path / ("deep-" + "x" * 100)
        root.mkdir()
        file = write(root) / "main.py"
        async with open_host(root, control=True) as host:
            state = str(root / "state")
            async with annexe("attach", "p", "--state", state, "--", sys.executable, str(file)) as command:
                await until_said(command.stderr, "takes the calls of p")
                cwd = os.readlink(f"/proc/{host.plugin('p').pid}/cwd")
                assert cwd == os.getcwd()  # it was in the folder of the socket only to connect

    run(scenario)
