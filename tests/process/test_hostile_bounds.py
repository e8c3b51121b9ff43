"""What a plugin says of itself does not decide how long the host waits or how much it remembers."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from annexe import PluginState
from annexe.errors import HookError
from tests.process.hosts import Doc, T, open_host, run
from tests.support.hostile import write_plugin

pytestmark = pytest.mark.any_user

_HOOKS = '[provides.hooks]\n"t.strict" = { revision = 1 }\n'
_HEAD = "import time\nfrom kit import *\nwire = Wire()\n"


def test_place_of_a_handler_is_cut_before_it_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    body = (
        _HEAD
        + 'wire.greet(hooks={"t.strict": {"kind": "filter", "at": "A" * 200000}})\nfor call in wire.calls():\n    wire.answer(call, 7)\n'
    )
    write_plugin(tmp_path / "plugins", "fat", body, more=_HOOKS)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            with pytest.raises(HookError) as caught:
                await host.hooks(T).strict(Doc("x"))
            assert caught.value.data["reason"] == "invalid-result"
            assert "A" * 256 in caught.value.message
            assert "A" * 257 not in caught.value.message

    run(scenario)


def test_what_a_plugin_says_it_answers_is_cut_before_it_becomes_the_reason(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    body = _HEAD + 'wire.greet(hooks={"t.zzz" + "N" * 1000: {"kind": "filter", "at": "A" * 200000}})\ntime.sleep(60)\n'
    write_plugin(tmp_path / "plugins", "fat", body, more=_HOOKS)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            plugin = host.plugin("fat")
            assert "does not declare" in plugin.reason
            assert 500 < len(plugin.reason) < 1000
            assert max(len(step.reason) for step in plugin.history) < 1000

    run(scenario)


def test_an_answer_to_configure_that_is_too_large_has_the_plugin_started_again(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    body = (
        _HEAD
        + 'wire.greet(hooks={"t.strict": {"kind": "filter"}})\n'
        + "while True:\n    call = wire.read()\n    if call[0] == 0:\n        wire.answer(call, [{}] * 30000)\n"
    )
    folder = write_plugin(tmp_path / "plugins", "fat", body, more=_HOOKS + '[config]\nschema = "schema.json"\n')
    (folder / "schema.json").write_text('{"type": "object"}')
    (folder / "schema.json").chmod(0o644)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            before = host.plugin("fat").pid
            await host.plugin("fat").configure({"a": 1})
            assert host.plugin("fat").pid != before
            host.logs.flush()
            messages = [line["message"] for line in host.logs.tail("fat", 100)]
            assert any("annexe.configure" in message and "expected at most 65536" in message for message in messages)

    run(scenario)


def test_opening_goes_on_while_a_plugin_takes_its_time_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annexe.host.host._MAX_OPENING_S", 0.5)
    (tmp_path / "plugins").mkdir()
    write_plugin(tmp_path / "plugins", "slow", _HEAD + "time.sleep(60)\n", more=_HOOKS + '[resources]\nstart-timeout = "10m"\n')

    async def scenario() -> None:
        began = time.monotonic()
        async with asyncio.timeout(20), open_host(tmp_path) as host:
            assert time.monotonic() - began < 15
            assert host.plugin("slow").state is PluginState.STARTING

    run(scenario)
