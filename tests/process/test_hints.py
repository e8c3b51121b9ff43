"""A plugin that the sandbox refuses something tells its author what to ask for; held against the walls of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from annexe import Host
from annexe.errors import HookError, PluginRaisedError
from annexe.record import EventKind
from tests.process.hosts import Doc, T, events, open_host, run, until, write_plugin

TOOL = """
import pathlib, socket, subprocess, urllib.request
def read(): return open("/srv/no-such/model.bin").read()
def write(): return pathlib.Path("/srv/no-such/out.txt").write_text("x")
def connect(): return socket.create_connection(("api.example.org", 443))
def download(): return urllib.request.urlopen("http://api.example.org:8080/").read()
def tunnel(): return urllib.request.urlopen("https://api.example.org/").read()
def start(): return subprocess.run(["ls"])
def fork(): return os.fork()
def variable(): return os.environ["HTTP_TIMEOUT"]
def mine(): return open(os.path.dirname(__file__) + "/no-such").read()
def keep(): return open(os.path.dirname(__file__) + "/kept", "w")
@plugin.filter("t.strict")
def do(doc, ctx):
    doc["marks"] = [repr(globals()[doc["text"]]())]
    return doc
"""


async def refusal(host: Host, what: str) -> dict[str, Any]:
    with pytest.raises(HookError) as caught:
        await host.hooks(T).strict(Doc(what))
    error = caught.value.__cause__
    assert isinstance(error, PluginRaisedError)
    reported: dict[str, Any] = error.data["reported"]
    assert error.message.endswith(reported.get("hint", ""))
    return reported


@pytest.mark.parametrize(
    ("what", "line", "walls"),
    [
        ("read", 'filesystem = { read = ["/srv/no-such/model.bin"] }', "files"),
        ("write", 'filesystem = { write = ["/srv/no-such"] }', "files"),
        ("connect", 'network = ["api.example.org:443"]', "calls"),
        ("download", 'network = ["api.example.org:8080"]', "calls"),
        ("start", "subprocess = true", "calls"),
        ("fork", "subprocess = true", "calls"),
        ("variable", 'env = ["HTTP_TIMEOUT"]', ""),
        ("keep", 'data = { quota = "50MiB" }', "files"),
    ],
)
def test_refusal_names_the_line_that_asks_for_it(tmp_path: Path, what: str, line: str, walls: str) -> None:
    write_plugin(tmp_path / "plugins", "alpha", TOOL, hooks=["t.strict"])

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            receipt = host.plugin("alpha").receipt
            assert receipt is not None
            if (walls == "files" and not receipt.walls.keep_files) or (walls == "calls" and not receipt.walls.seccomp):
                pytest.skip(f"no such wall at level {receipt.level}")
            assert (await refusal(host, what))["manifest_line"] == line
            (event,) = events(host, EventKind.HOOK_FAILED, "alpha")
            assert line in event.reason

            def is_told() -> bool:
                return any(line in record["message"] for record in host.logs.tail("alpha", 100) if record["source"] == "stderr")

            await until(is_told, what="it to be on stderr")

    run(scenario)


@pytest.mark.parametrize(("what", "target"), [("download", "api.example.org:8080"), ("tunnel", "api.example.org:443")])
def test_refusal_of_the_proxy_names_the_line_that_asks_for_it(tmp_path: Path, what: str, target: str) -> None:
    write_plugin(tmp_path / "plugins", "alpha", TOOL, hooks=["t.strict"], extra='[permissions]\nnetwork = ["a.example:443"]\n')

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            receipt = host.plugin("alpha").receipt
            assert receipt is not None
            if not receipt.walls.seccomp:
                pytest.skip(f"no such wall at level {receipt.level}")
            assert (await refusal(host, what))["manifest_line"] == f'network = ["a.example:443", "{target}"]'

    run(scenario)


def test_a_file_of_its_own_that_is_missing_is_just_missing(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "alpha", TOOL, hooks=["t.strict"])

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            assert "hint" not in await refusal(host, "mine")

    run(scenario)


def test_a_plugin_in_the_hosts_process_is_told_nothing_of_walls(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "inside", TOOL, hooks=["t.strict"])

    async def scenario() -> None:
        async with open_host(tmp_path, strategy="in-process") as host:
            for what in ("read", "variable"):
                assert "hint" not in await refusal(host, what)

    run(scenario)


def test_an_activation_that_is_refused_something_says_so_in_the_plugins_reason(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "alpha", 'open("/srv/no-such/model.bin")')

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            receipt_of = await host._registry.expected_walls("alpha")
            failed = events(host, EventKind.LAUNCH_FAILED, "alpha")
            assert failed
            if receipt_of.keep_files:
                assert 'filesystem = { read = ["/srv/no-such/model.bin"] }' in failed[0].reason

    run(scenario)
