"""The ``annexe`` command as an operator uses it: a real ``annexe run``, and real commands against it, with a fresh HOME."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import pytest

from annexe.launch.removal import remove_tree
from tests.process.hosts import is_alive
from tests.support.tools import level_here

pytestmark = pytest.mark.timeout(90)  # some twenty commands each, every one a process

ANNEXE = str(Path(sys.executable).parent / "annexe")
NASTY = "\\x1b[2Jforged\\u202e"  # as Python source inside the plugin

CONTRACTS = """
from dataclasses import dataclass
from annexe import ExtensionPoint, HookSpec, hook


@dataclass
class Greeting:
    text: str


class Greeter(HookSpec, name="greeter", revision=1):
    @hook.filter
    async def on_greeting(self, greeting: Greeting) -> Greeting: ...


class Voice(ExtensionPoint, name="voice", revision=1):
    async def say(self, text: str, loud: bool = False) -> str: ...


ALL = [Greeter, Voice]
"""
MANIFEST = """
manifest-version = 1
[plugin]
id = "shout"
version = "1.0.0"
name = "Shout"
[runtime]
kind = "python"
entry = "main"
[provides.hooks]
"greeter.on_greeting" = { revision = 1 }
[provides.extensions]
"voice" = { revision = 1 }
[permissions]
kv = { quota = "1MiB" }
[config]
schema = "schema.json"
"""
SCHEMA = '{"type": "object", "properties": {"mark": {"type": "string", "default": "!"}}, "additionalProperties": false}'
CODE = f"""
from annexe_sdk import Plugin, Reject

plugin = Plugin()


@plugin.filter("greeter.on_greeting")
def shout(greeting, ctx):
    if greeting["text"] == "die":
        import os
        os._exit(3)
    if greeting["text"] == "no":
        raise Reject("impolite", "say something else")
    ctx.log.info("shouting {NASTY}", text=greeting["text"])
    return {{"text": greeting["text"].upper() + ctx.config["mark"]}}


@plugin.extension("voice")
class Voice:
    def say(self, text, loud, ctx):
        return text.upper() if loud else text


if __name__ == "__main__":
    plugin.run()
"""


@final
class Shell:
    """An operator's shell: a folder, a HOME, and a host that may run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "home" / "state"
        (folder / "home").mkdir()
        self.environment = {
            "HOME": str(folder / "home"),
            "PATH": os.environ["PATH"],
            "ANNEXE_STATE": str(self.state),
            "LANG": "C.UTF-8",
        }
        self.host: subprocess.Popen[str] | None = None

    def annexe(self, *arguments: str, code: int = 0, stdin: str = "") -> str:
        done = subprocess.run(
            [ANNEXE, *arguments], cwd=self.folder, env=self.environment, capture_output=True, text=True, input=stdin, timeout=60
        )
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.annexe(*arguments, "--json", code=code))

    def run(self, *arguments: str) -> list[str]:
        """Start a host and wait until it says that it runs; return what it said."""
        self.host = subprocess.Popen(
            [ANNEXE, "run", "--plugins", "plugins", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return self.said_until("annexe: running")

    def said_until(self, beginning: str) -> list[str]:
        assert self.host is not None and self.host.stdout is not None
        said: list[str] = []
        for line in self.host.stdout:
            said.append(line.rstrip())
            if line.startswith(beginning):
                return said
        raise AssertionError("\n".join(said))

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        assert self.host is not None
        host, self.host = self.host, None
        host.send_signal(number)
        out, _ = host.communicate(timeout=15)
        return host.returncode, out


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Let children get SIGINT: where the tests run in the background it is ignored, and that is inherited."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def shell() -> Iterator[Shell]:
    # Not pytest's own folder: plugins of a root host must be able to get there.
    folder = Path(tempfile.mkdtemp(prefix="annexe-cli-", dir="/tmp"))
    folder.chmod(0o755)
    plugin = folder / "plugins" / "shout"
    plugin.mkdir(parents=True)
    (plugin / "plugin.toml").write_text(MANIFEST)
    (plugin / "main.py").write_text(CODE)
    (plugin / "schema.json").write_text(SCHEMA)
    (folder / "contracts.py").write_text(CONTRACTS)
    shell = Shell(folder)
    try:
        yield shell
    finally:
        if shell.host is not None:
            shell.host.kill()
            shell.host.communicate()
        remove_tree(folder)


def test_operator_grants_calls_and_looks_at_a_plugin(shell: Shell) -> None:
    said = shell.run("--contracts", "contracts:ALL")
    assert any("blocked" in line and "annexe grant shout" in line for line in said)
    assert shell.json("status")["plugins"] == {"blocked": 1}
    assert re.search(r"shout +1\.0\.0 +blocked", shell.annexe("list"))

    # Nobody is asked where nobody is; what is asked for is shown, with what it is worth.
    asked = shell.annexe("grant", "shout", code=2)
    assert re.search(r"kv +no +enforced", asked) and "--yes" in asked
    assert "shout is ready" in shell.annexe("grant", "shout", "--content", "--note", "read it", "--yes")

    assert json.loads(shell.annexe("call", "shout", "greeter.on_greeting", '{"text": "hi"}')) == {"text": "HI!"}
    assert json.loads(shell.annexe("call", "-", "voice.say", '["hi", true]')) == "HI"
    told = shell.json("call", "shout", "greeter.on_greeting", '{"text": "hi"}', "--request", "mine")
    assert told["request"] == "mine" and told["steps"][0]["outcome"] == "changed"
    assert "say something else" in shell.annexe("call", "shout", "greeter.on_greeting", '{"text": "no"}', code=31)
    assert "$.text" in shell.annexe("call", "shout", "greeter.on_greeting", '{"text": 1}', code=26)
    assert "open:" in shell.annexe("call", "shout", "greeter.nothing", code=28)

    explained = shell.annexe("explain", "mine")
    assert "greeter.on_greeting" in explained and "HI!" in explained
    assert shell.json("explain", "mine")["request"] == "mine"
    assert "mine" in shell.annexe("explain", "--latest", "10")
    assert "no record" in shell.annexe("explain", "never-was", code=6)

    assert re.search(rf"shout .* {level_here()} +activated", shell.annexe("list"))
    assert f"isolation:  1 at {level_here()}; lowest allowed: none" in shell.annexe("status")
    shown = shell.annexe("show", "shout")
    assert f"isolation: {level_here()}; its manifest requires none" in shown
    assert f"level: {level_here()}" in shown and re.search(r"kv +yes +enforced", shown) and "starting" in shown
    assert shell.json("show", "shout")["digest"].startswith("sha3-512:")
    assert 'annexe_calls_total{plugin="shout",method="hook.greeter.on_greeting"}' in shell.annexe("metrics")
    assert shell.json("metrics")["shout"]["methods"]["hook.greeter.on_greeting"]["calls"] == 3

    log = shell.annexe("logs", "shout", "-n", "100")
    assert "shouting \\x1b[2Jforged\\u202e" in log and "\x1b" not in log
    assert all(json.loads(line)["plugin"] == "shout" for line in shell.annexe("logs", "shout", "--json").splitlines())

    assert "is blocked" in shell.annexe("revoke", "shout")
    kinds = [json.loads(line)["kind"] for line in shell.annexe("events", "--json", "-n", "1000").splitlines()]
    assert kinds.count("grant-changed") == 2
    assert "grant-changed: granted by" in shell.annexe("events", "-k", "grant-changed")

    code, out = shell.stop()
    assert (code, out.splitlines()[-1]) == (0, "annexe: stopped")
    assert "no host runs" in shell.annexe("list", code=3)
    # What was logged can be read without a host.
    assert "shouting" in shell.annexe("logs", "shout")


def test_operator_switches_configures_and_scans(shell: Shell) -> None:
    started = shell.run("--contracts", "contracts:Greeter", "--contracts", "contracts:Voice", "--grants", "manifest")
    hint = "" if level_here() == "full" else "; what is missing here says: annexe doctor"
    assert started[-2] == f"annexe: isolation: 1 at {level_here()}{hint}"
    before = shell.json("show", "shout")["pid"]
    assert is_alive(before)
    assert shell.json("restart", "shout")["pid"] != before
    assert shell.json("stop", "shout")["state"] == "stopped"
    assert "stopped" in shell.annexe("call", "shout", "greeter.on_greeting", '{"text": "hi"}', code=30)
    assert "shout is ready" in shell.annexe("start", "shout")

    assert json.loads(shell.annexe("config", "get", "shout")) == {"mark": "!"}
    assert json.loads(shell.annexe("config", "set", "shout", '{"mark": "?"}')) == {"mark": "?"}
    assert json.loads(shell.annexe("call", "shout", "greeter.on_greeting", '{"text": "hi"}')) == {"text": "HI?"}
    assert "/mark" in shell.annexe("config", "set", "shout", '{"mark": 1}', code=44)
    assert json.loads(shell.annexe("config", "set", "shout", "-", "--merge", stdin="{}")) == {"mark": "?"}
    assert shell.json("config", "get", "shout")["revision"] == 2

    # It dies, the caller is told, and it comes back by itself.
    assert "shout" in shell.annexe("call", "shout", "greeter.on_greeting", '{"text": "die"}', code=30)
    deadline = time.monotonic() + 10
    while shell.json("list")[0]["state"] != "ready":
        assert time.monotonic() < deadline

    assert "disabled" in shell.annexe("disable", "shout")
    assert shell.json("list")[0]["enabled"] is False
    assert "shout is ready" in shell.annexe("enable", "shout")
    assert "grants every plugin" in shell.annexe("grant", "shout", "-y", code=6)

    (shell.folder / "plugins" / "late").mkdir()
    (shell.folder / "plugins" / "late" / "plugin.toml").write_text("broken")
    assert "added: late" in shell.annexe("scan")
    assert shell.json("list")[0]["state"] == "blocked"
    assert "expected" in shell.annexe("show", "late")
    assert "no plugin 'nobody' is known" in shell.annexe("show", "nobody", code=5)

    said = shell.annexe("run", "--plugins", "plugins", code=4)
    assert "already runs" in said
    assert shell.stop(signal.SIGINT)[0] == 0


def test_choices_outlive_the_host(shell: Shell) -> None:
    shell.run("--contracts", "contracts:ALL")
    shell.annexe("grant", "shout", "-y")
    shell.annexe("config", "set", "shout", '{"mark": "."}')
    shell.annexe("disable", "shout")
    shell.stop()
    shell.run("--contracts", "contracts:ALL")
    assert shell.json("list")[0]["state"] == "stopped"
    assert "shout is ready" in shell.annexe("enable", "shout")
    assert json.loads(shell.annexe("call", "shout", "greeter.on_greeting", '{"text": "hi"}')) == {"text": "HI."}
    assert [event["reason"] for event in map(json.loads, shell.annexe("events", "--json", "-k", "enabled-changed").splitlines())] == [
        "disabled",
        "enabled",
    ]
    shell.stop()


def test_logs_and_events_are_followed_until_interrupted(shell: Shell) -> None:
    shell.run("--contracts", "contracts:ALL", "--grants", "manifest")
    followers = [
        subprocess.Popen(
            [ANNEXE, *command], cwd=shell.folder, env=shell.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for command in (["logs", "-f", "-n", "1", "shout"], ["events", "-f", "-n", "1", "-p", "shout"])
    ]
    logs, events = followers
    assert logs.stdout is not None and events.stdout is not None
    assert "ready" in logs.stdout.readline()
    assert events.stdout.readline()
    shell.annexe("call", "shout", "greeter.on_greeting", '{"text": "hi"}')
    assert "shouting" in logs.stdout.readline()
    shell.annexe("stop", "shout")
    assert "ready → draining" in events.stdout.readline()
    logs.send_signal(signal.SIGINT)
    assert logs.wait(timeout=10) == 130
    # The host's end is the end of whoever follows it.
    shell.stop()
    assert events.wait(timeout=10) == 3
    for follower in followers:
        follower.communicate()


def test_host_without_contracts_supervises_and_says_what_is_missing(shell: Shell) -> None:
    (shell.folder / "plugins" / "plain").mkdir()
    (shell.folder / "plugins" / "plain" / "plugin.toml").write_text(
        'manifest-version = 1\n[plugin]\nid = "plain"\nversion = "1.0.0"\nname = "Plain"\n[runtime]\nkind = "python"\nentry = "main"\n'
    )
    (shell.folder / "plugins" / "plain" / "main.py").write_text("from annexe_sdk import Plugin\nplugin = Plugin()\n")
    shell.run()
    plugins = {one["id"]: one for one in shell.json("list")}
    assert plugins["plain"]["state"] == "ready"
    assert plugins["shout"]["state"] == "blocked" and "greeter.on_greeting" in plugins["shout"]["reason"]
    os.kill(plugins["plain"]["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 10
    while (now := {one["id"]: one for one in shell.json("list")}["plain"])["state"] != "ready" or now["pid"] == plugins["plain"]["pid"]:
        assert time.monotonic() < deadline, now
    shell.stop()


def test_host_that_is_called_off_while_starting_leaves_nothing(shell: Shell) -> None:
    (shell.folder / "plugins" / "shout" / "main.py").write_text("import time\ntime.sleep(60)\n")
    shell.host = subprocess.Popen(
        [ANNEXE, "run", "--plugins", "plugins", "--contracts", "contracts:ALL", "--grants", "manifest"],
        cwd=shell.folder,
        env=shell.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 10
    pid = None
    while pid is None:
        assert time.monotonic() < deadline
        done = subprocess.run([ANNEXE, "list", "--json"], cwd=shell.folder, env=shell.environment, capture_output=True, text=True)
        found = json.loads(done.stdout) if done.returncode == 0 else []
        pid = next((int(name.name) for name in Path("/proc").glob("[0-9]*") if _has_parent(name, shell.host.pid)), None) if found else None
    code, out = shell.stop()
    assert (code, out.splitlines()[-1]) == (0, "annexe: called off while starting")
    assert not is_alive(pid)


def _has_parent(proc: Path, parent: int) -> bool:
    try:
        return int((proc / "stat").read_text().rpartition(")")[2].split()[1]) == parent
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_host_whose_output_nobody_reads_ends_in_order(shell: Shell) -> None:
    shell.run("--contracts", "contracts:ALL", "--grants", "manifest")
    pid = shell.json("show", "shout")["pid"]
    assert shell.host is not None and shell.host.stdout is not None
    shell.host.stdout.close()
    assert shell.json("restart", "shout")["state"] == "ready"
    shell.host.send_signal(signal.SIGTERM)
    assert shell.host.wait(timeout=15) in (0, 1)
    shell.host = None
    assert not is_alive(pid)
    assert not list((shell.state / "control").iterdir())


def test_grant_asks_on_a_terminal_and_no_is_no(shell: Shell) -> None:
    shell.run("--contracts", "contracts:ALL")

    def answered(answer: str) -> tuple[int, str]:
        terminal, inner = pty.openpty()
        asking = subprocess.Popen(
            [ANNEXE, "grant", "shout"],
            cwd=shell.folder,
            env={**shell.environment, "TERM": "xterm"},
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
        )
        os.close(inner)
        seen = _seen_until(terminal, b"[y/N]")
        os.write(terminal, answer.encode())
        seen += _seen_until(terminal, None)
        os.close(terminal)
        return asking.wait(timeout=10), seen.decode()

    code, seen = answered("n\n")
    assert code == 130 and "given up" in seen
    assert "\x1b[" in seen  # a terminal gets colour
    assert shell.json("list")[0]["state"] == "blocked"
    shell.environment["NO_COLOR"] = "1"
    code, seen = answered("y\n")
    assert code == 0 and "shout is ready" in seen
    assert not re.search(r"\x1b\[3\d", seen)
    shell.stop()


def _seen_until(terminal: int, wanted: bytes | None) -> bytes:
    seen = b""
    while wanted is None or wanted not in seen:
        if not select.select([terminal], [], [], 10)[0]:
            raise AssertionError(f"nothing more after {seen!r}")
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        seen += chunk
    return seen


def test_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "annexe", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("annexe")


def test_doctor_tries_everything_and_says_what_is_not_there(shell: Shell) -> None:
    told = shell.json("doctor")
    checks = {check["name"]: check for check in told["checks"]}
    assert told["ok"] is True
    for name in ("python", "system", "plugin start", "resource limits", "clock", "disk space"):
        assert checks[name]["state"] == "ok", checks[name]
    assert checks["plugin user"]["state"] == "ok", checks["plugin user"]
    assert ("share the host's user" in checks["plugin user"]["found"]) is (os.geteuid() != 0)
    assert "a folder was refused to it" in checks["wall: landlock"]["found"]
    for wall in ("seccomp", *(("namespaces",) if level_here() == "full" else ())):
        assert checks[f"wall: {wall}"]["state"] == "ok" and "read back from the kernel" in checks[f"wall: {wall}"]["found"]
    assert checks["isolation"]["state"] == ("ok" if level_here() == "full" else "warning")
    assert f"level {level_here()}" in checks["isolation"]["found"]
    assert checks["host"]["found"] == "none runs here"
    assert not shell.state.exists(), "looking changes nothing"
    shell.run()
    checks = {check["name"]: check for check in shell.json("doctor")["checks"]}
    assert "runs here and answers" in checks["host"]["found"]
    shell.stop()


def test_doctor_fails_where_the_state_directory_cannot_be(shell: Shell) -> None:
    shell.environment["ANNEXE_STATE"] = "/proc/nowhere/state"
    told = shell.annexe("doctor", code=1)
    assert re.search(r"state directory +failed", told)
    assert "state directory: choose another: --state DIR" in told


def test_output_into_a_closed_pipe_is_no_error(shell: Shell) -> None:
    shell.run("--contracts", "contracts:ALL", "--grants", "manifest")
    done = subprocess.run(
        f"{ANNEXE} events --json | head -n 1", shell=True, cwd=shell.folder, env=shell.environment, capture_output=True, text=True
    )
    assert json.loads(done.stdout)["kind"] == "host-started"
    assert done.stderr == ""
    shell.stop()
