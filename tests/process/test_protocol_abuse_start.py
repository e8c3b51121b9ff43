"""Plugins that misbehave before they are ready, or stop reading and answering: each ends in a named reason, and a polite one runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from annexe import ExtensionPoint, Host
from annexe.errors import CallTimeoutError, PluginBusyError, PluginUnavailableError
from annexe.host.plugin_handle import PluginHandle
from annexe.launch.removal import remove_tree
from annexe.record import Event, EventKind
from annexe.supervision.health import HealthPolicy
from annexe.supervision.instance import StopPolicy
from annexe.supervision.policies import Policies
from annexe.supervision.restart import RestartPolicy
from tests.support.hostile import write_plugin

pytestmark = pytest.mark.any_user

_RESOURCES = '[resources]\nstart-timeout = "{start_s}s"\ncall-timeout = "1s"\n'
_POINT = '[provides.extensions]\n"lab" = { revision = 1 }\n'
_HEAD = "import os, time\nfrom kit import *\nwire = Wire()\n"
_GREET = 'wire.greet(extensions={"lab": {"methods": {"text": {}}}})\n'

# What each does, and the code of the error and a part of the reason that come of it.
STARTS: dict[str, tuple[str, str, str]] = {
    "garbage": (
        'wire.raw(b"GET / HTTP/1.1\\r\\n\\r\\n"); time.sleep(9)',
        "handshake-failed",
        "a frame of 1195725856 bytes; expected at most 65536",
    ),
    "empty": ("wire.raw(bytes(4)); time.sleep(9)", "handshake-failed", "a frame of length 0"),
    "oversized": ("wire.raw((65537).to_bytes(4, 'big') + bytes(65537)); time.sleep(9)", "handshake-failed", "a frame of 65537 bytes"),
    "not-a-message": ("wire.frame(b'[1,2'); time.sleep(9)", "handshake-failed", "breaks the protocol"),
    "talks-first": ('wire.ask("kv.get", {"key": "a"}); time.sleep(9)', "handshake-failed", "before hello was answered"),
    "logs-first": ('wire.log("hello?"); time.sleep(9)', "handshake-failed", "before hello was answered"),
    "silent": ("time.sleep(9)", "handshake-failed", "did not answer annexe.hello within its deadline"),
    "exits": ("raise SystemExit(4)", "handshake-failed", "exited with status 4"),
    "closes": ("wire.sock.close(); time.sleep(9)", "handshake-failed", "went away while annexe.hello was open"),
    "prints": ("print('not a frame', flush=True); raise SystemExit(0)", "handshake-failed", "exited with status 0"),
    "wrong-protocol": (
        'wire.answer(wire.read(), {"protocol": 2, "codec": "json"}); time.sleep(9)',
        "handshake-failed",
        "speaks protocol 2, expected one of [1]; upgrade the host",
    ),
    "old-protocol": (
        'wire.answer(wire.read(), {"protocol": 0, "codec": "json"}); time.sleep(9)',
        "handshake-failed",
        "upgrade the plugin's SDK",
    ),
    "no-protocol": (
        'wire.refuse(wire.read(), "protocol-unsupported", "I speak 7 to 9"); time.sleep(9)',
        "handshake-failed",
        "I speak 7 to 9",
    ),
    "unknown-codec": ('wire.answer(wire.read(), {"protocol": 1, "codec": "cbor"}); time.sleep(9)', "handshake-failed", "codec"),
    "hello-is-nonsense": ("wire.answer(wire.read(), [1, 2, 3]); time.sleep(9)", "handshake-failed", "Expected `object`, got `array`"),
    "rejects-hello": ('wire.refuse(wire.read(), "rejected", "no thanks"); time.sleep(9)', "handshake-failed", "no thanks"),
    "answers-hello-twice": (
        'call = wire.read()\nfor _ in range(2): wire.answer(call, {"protocol": 1, "codec": "json"})\ntime.sleep(9)',
        "activation-failed",
        "request 1 was answered twice",
    ),
    "never-activates": (
        'wire.answer(wire.read(), {"protocol": 1, "codec": "json"}); time.sleep(9)',
        "activation-failed",
        "was not ready within its start timeout of",
    ),
    "rejects-activation": (
        'wire.answer(wire.read(), {"protocol": 1, "codec": "json"}); wire.refuse(wire.read(), "rejected", "not today"); time.sleep(9)',
        "activation-failed",
        "not today",
    ),
    "provides-nonsense": ("wire.greet(hooks=5); time.sleep(9)", "activation-failed", "Expected `object`, got `int`"),
    "provides-deep-nonsense": (
        'wire.answer(wire.read(), {"protocol": 1, "codec": "json"})\ncall = wire.read()\n'
        "wire.frame(b'[1,%d,null,%s' % (call[1], b'[' * 50000))\ntime.sleep(9)",
        "activation-failed",
        "cannot be decoded",
    ),
    "provides-methods-as-number": (
        'wire.greet(extensions={"lab": {"methods": 5}}); time.sleep(9)',
        "activation-failed",
        "Expected `object`, got `int`",
    ),
    "provides-too-much": (
        'wire.greet(extensions={"lab": {"methods": {"text": {}}}, "vault": {"methods": {}, "at": "x.py:1"}}); time.sleep(9)',
        "activation-failed",
        "answers extension 'vault' (at x.py:1), which its plugin.toml does not declare",
    ),
    "provides-too-little": (
        "wire.greet(); time.sleep(9)",
        "activation-failed",
        "declares extension 'lab' in plugin.toml, but its code does not answer it",
    ),
}

# Well-behaved until they are ready.
LATER = {
    "polite": _GREET + "for call in wire.calls():\n    wire.answer(call, 'good day')\n",
    "stops-reading": _GREET + "time.sleep(60)\n",
    "never-answers": _GREET + "for call in wire.calls():\n    pass\n",
    "says-nonsense-to-configure": _GREET + "while True:\n    call = wire.read()\n    wire.frame(b'[1,%d,null,\"\\xff\",{}]' % call[1])\n",
}
HANG = ["stops-reading", "never-answers"]
# These use up all of their time to start; the others get so much that a busy machine takes none of their faults for a late start.
LATE = ["silent", "never-activates"]


class Lab(ExtensionPoint, name="lab", revision=1):
    async def text(self, case: str) -> str: ...  # type: ignore[empty-body]


class Scene:
    """A host with all of them."""

    def __init__(self, folder: Path, health: HealthPolicy) -> None:
        self.runner = asyncio.Runner()
        self.loop_errors: list[str] = []
        self.runner.get_loop().set_exception_handler(lambda _loop, context: self.loop_errors.append(str(context)))
        self.host = Host(
            plugins=folder / "plugins",
            contracts=[Lab],
            state_dir=folder / "state",
            grants="manifest",
            control=False,
            policies=Policies(
                restart=RestartPolicy(max_failures=50, first_delay_s=60.0, max_delay_s=60.0),
                health=health,
                stop=StopPolicy(drain_s=0.2, shutdown_s=0.2, exit_s=0.2, terminate_s=0.5),
            ),
        )
        self.runner.run(self.host.open())

    def close(self) -> None:
        started = time.monotonic()
        self.runner.run(self.host.close())
        self.runner.close()
        assert time.monotonic() - started < 10
        assert self.loop_errors == []

    def plugin(self, plugin: str) -> PluginHandle:
        return self.host.plugin(plugin)

    def events(self, plugin: str, kind: EventKind) -> list[Event]:
        return self.host.events.latest(500, plugin=plugin, kind=kind)

    async def call(self, plugin: str, *, deadline_s: float = 5.0, case: str = "") -> Any:
        callers = {caller.plugin: caller for caller in self.host.extensions(Lab)}  # type: ignore[attr-defined]
        assert plugin in callers
        started = time.monotonic()
        try:
            async with self.host.request(deadline_s=deadline_s) as request:
                (caller,) = [caller for caller in request.extensions(Lab) if caller.plugin == plugin]  # type: ignore[attr-defined]
                return await caller.text(case)
        finally:
            assert time.monotonic() - started < deadline_s + 3


@contextmanager
def opened(folder: Path, bodies: dict[str, str], health: HealthPolicy | None = None) -> Iterator[Scene]:
    """Give a scene with these plugins; those that hang are lazy, so that they are called before they are pinged."""
    plugins = folder / "plugins"
    plugins.mkdir(parents=True)
    for path in (folder, plugins):
        path.chmod(0o755)
    for plugin, body in bodies.items():
        start = "lazy" if plugin in HANG else "eager"
        more = _POINT + _RESOURCES.format(start_s=2 if plugin in LATE else 60)
        write_plugin(plugins, plugin, _HEAD + body + "\n", more=more, start=start)
    scene = Scene(folder, health or HealthPolicy())
    try:
        yield scene
    finally:
        scene.close()
        remove_tree(folder)


@pytest.fixture(scope="module")
def scene(open_folder: Path) -> Iterator[Scene]:
    with opened(open_folder / "abuse-start", {plugin: start[0] for plugin, start in STARTS.items()} | LATER) as scene:
        yield scene


@pytest.mark.parametrize("plugin", STARTS)
def test_a_plugin_that_does_not_get_ready_is_named_with_its_fault(scene: Scene, plugin: str) -> None:
    _, code, reason = STARTS[plugin]
    event = scene.events(plugin, EventKind.LAUNCH_FAILED)[0]
    assert event.facts["code"] == code
    assert reason in event.reason
    handle = scene.plugin(plugin)
    assert handle.state == "backing-off"
    assert reason in handle.reason
    assert handle.pid is None
    scene.host.logs.flush()
    assert any(line["level"] == "error" and reason in line["message"] for line in scene.host.logs.tail(plugin, 50))
    with pytest.raises(PluginUnavailableError) as caught:
        scene.runner.run(scene.call(plugin))
    assert (caught.value.plugin, caught.value.method, caught.value.data["state"]) == (plugin, "ext.lab.text", "backing-off")
    assert scene.runner.run(scene.call("polite")) == "good day"


def test_what_it_printed_before_its_end_is_in_its_log(scene: Scene) -> None:
    scene.host.logs.flush()
    lines = scene.host.logs.tail("prints", 50)
    assert [line["message"] for line in lines if line["source"] == "stdout"] == ["not a frame"]


def test_a_plugin_that_rejects_pings_is_found_unhealthy_and_replaced(open_folder: Path) -> None:
    async def scenario(scene: Scene) -> None:
        async with asyncio.timeout(10):
            while not scene.events("rejects-ping", EventKind.PLUGIN_EXITED):
                await asyncio.sleep(0.02)
        assert "pings" in scene.events("rejects-ping", EventKind.PLUGIN_EXITED)[0].reason
        assert scene.plugin("rejects-ping").state == "backing-off"

    rejects = _GREET + "while True:\n    wire.refuse(wire.read(), 'rejected', 'stop asking')\n"
    with opened(open_folder / "abuse-ping", {"rejects-ping": rejects}, HealthPolicy(ping_interval_s=0.05, ping_timeout_s=0.5)) as scene:
        scene.runner.run(scenario(scene))


def test_a_plugin_that_answers_configure_with_nonsense_is_restarted(scene: Scene) -> None:
    async def scenario() -> None:
        plugin = scene.plugin("says-nonsense-to-configure")
        before = plugin.pid
        await plugin.configure({})
        assert plugin.pid != before

    scene.runner.run(scenario())


@pytest.mark.parametrize("plugin", HANG)
def test_a_plugin_that_hangs_costs_its_callers_their_time_alone_and_is_restarted(scene: Scene, plugin: str) -> None:
    async def scenario() -> None:
        calls = [asyncio.create_task(scene.call(plugin, deadline_s=2.0, case="x" * 1_000_000)) for _ in range(20)]
        assert await scene.call("polite") == "good day"
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in errors} <= {CallTimeoutError, PluginBusyError}
        assert {(error.plugin, error.method) for error in errors if isinstance(error, CallTimeoutError)} == {(plugin, "ext.lab.text")}
        async with asyncio.timeout(12):
            while not scene.events(plugin, EventKind.STUCK):
                await asyncio.sleep(0.02)
        assert await scene.call("polite") == "good day"
        assert scene.events(plugin, EventKind.CALL_FAILED)[0].facts["code"] == "deadline-exceeded"

    scene.runner.run(scenario())
    scene.host.logs.flush()
    assert any("is stuck" in line["message"] for line in scene.host.logs.tail(plugin, 50))
