"""Streams of services whose plugins are changed by people meanwhile: through real processes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import monotonic

import pytest

from annexe import Host
from annexe.supervision.instance import StopPolicy
from tests.process.hosts import Doc, T, connection_of, open_host, policies, run, until, wait_state, write_plugin
from tests.process.test_service_stream_leaks import left_behind
from tests.process.test_service_streams import OFFERS

pytestmark = pytest.mark.any_user

MODEL = """
import asyncio

@plugin.service("model")
class Model:
    async def endless(self):
        while True:
            yield 1
            await asyncio.sleep(0.01)
    async def take(self, items):
        async for item in items:
            print("took", time.monotonic(), flush=True)
"""
CALLER = """
import asyncio

async def mine():
    while True:
        yield 1
        await asyncio.sleep(0.01)

@plugin.filter("t.edit")
async def edit(doc, ctx):
    model = ctx.service("model")
    try:
        if doc["text"] == "in":
            await model.take.send(mine())
        async for item in model.endless.stream():
            pass
    except Exception as error:
        doc["marks"].append(error.code)
    return doc
"""
MAY_ASK = '[requires.services]\n"model" = { version = ">=1", optional = true }\n[permissions]\nservices = ["model"]\n'
PATIENT = '\n[resources]\ncall-timeout = "30s"\n'
PATIENT_HOST = policies(stop=StopPolicy(drain_s=15.0, shutdown_s=0.3, exit_s=0.5, terminate_s=0.5))


async def edited(host: Host, text: str) -> list[str]:
    async with host.request(deadline_s=20) as scope:
        return (await scope.hooks(T).edit(Doc(text))).marks


@pytest.mark.parametrize("direction", ["in", "out"])
@pytest.mark.parametrize(
    ("who", "told"), [pytest.param("caller", "permission-denied", id="caller"), pytest.param("model", "outcome-unknown", id="provider")]
)
def test_streams_of_a_plugin_whose_rights_are_revoked_end_at_once(tmp_path: Path, who: str, told: str, direction: str) -> None:
    async def scenario() -> None:
        write_plugin(tmp_path / "plugins", "model", MODEL, extra=OFFERS + PATIENT)
        write_plugin(tmp_path / "plugins", "caller", CALLER, hooks=["t.edit"], extra=MAY_ASK + PATIENT, runtime="concurrency = 4\n")
        async with open_host(tmp_path, grants="stored", policies=PATIENT_HOST) as host:
            for plugin in ("model", "caller"):
                await host.plugin(plugin).grant()
                await wait_state(host.plugin(plugin), "ready")
            works = [asyncio.create_task(edited(host, direction)) for _ in range(4)]
            await until(lambda: connection_of(host, "model")._slots.streams == 4)
            started = monotonic()
            async with asyncio.timeout(10):
                await host.plugin(who).revoke()
            assert await asyncio.gather(*works) == [[told]] * 4
            assert monotonic() - started < 5  # what is under way else has 15 s
            await host.plugin(who).grant()
            await wait_state(host.plugin(who), "ready")
            assert not left_behind(host)

    run(scenario)
