"""Whether a host has everything on that its users get. Asked of every row of annexe's own, before it is measured.

Each guard is shown by what it does, not by a setting: a call that stalls is ended, a right that was not granted is denied, the plugin says
which trace it is part of, and the host says afterwards what happened and how often.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from annexe import Host, PluginHandle
from annexe.errors import CallTimeoutError, PluginBusyError
from benchmarks.contracts import Bench, Probe
from benchmarks.payload import requests

__all__ = ["GuardOffError", "prove_guards"]

_PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
_STALL_S = 0.3
_AT_ONCE = 8  # all two hundred at once get so little of the processor that the host takes the stalled calls for stuck ones


class GuardOffError(Exception):
    """The row would measure less than users get."""


async def prove_guards(host: Host, *, codec: str, level: str) -> None:
    """Raise unless every plugin of the host is called with everything on.

    Args:
        host: Open, with plugins that all provide ``bench-probe``.
        codec: That calls must really be sent in.
        level: Of isolation that each plugin must have.

    Raises:
        GuardOffError: Names what is off.
    """
    for plugin in host.plugins:
        expect(f"codec of {plugin.id}", plugin.codec, codec)
        expect(f"isolation of {plugin.id}", plugin.receipt and str(plugin.receipt.level), level)
    if host.plugins[0].manifest and "bench.edit" in host.plugins[0].manifest.provides.hooks:
        await prove_values_kept(host)
    few = asyncio.Semaphore(_AT_ONCE)

    async def prove(plugin: PluginHandle, number: int) -> None:
        async with few:
            await prove_one(host, plugin, number)

    await asyncio.gather(*(prove(plugin, number) for number, plugin in enumerate(host.plugins)))


async def prove_one(host: Host, plugin: PluginHandle, number: int) -> None:
    """Raise unless deadline, grants, tracing, explain and metrics are on for one plugin."""
    name = f"proof-{plugin.id}"
    async with host.request(id=name, deadline_s=30.0, traceparent=_PARENT) as request:
        probe = request.extensions(Probe)[number]
        expect("request id in the plugin", await probe.request_id(), name)
        expect("trace in the plugin", await probe.traceparent(), _PARENT)
        expect("a right that was not granted", await probe.reach(), "denied")
    steps = [(step["plugin"], step["hook"], step["outcome"]) for step in host.explain(name)["steps"]]
    expect("explain", steps, [(plugin.id, f"ext.bench-probe.{method}", "answered") for method in ("request_id", "traceparent", "reach")])
    async with host.request(deadline_s=0.1) as request:
        await expect_raises("deadline", CallTimeoutError, request.extensions(Probe)[number].stall(_STALL_S))
    for _ in range(50):  # on a machine that stood still, it is answered only once the stalled call has really ended
        try:
            await host.extensions(Probe)[number].request_id()
            break
        except PluginBusyError:
            await asyncio.sleep(0.1)
    counted: dict[str, Any] = host.metrics.snapshot()[plugin.id]["methods"]
    asked = counted["ext.bench-probe.request_id"]
    expect("calls counted", asked["calls"] - sum(asked["failures"].values()), 2)
    expect("failures counted", sum(counted["ext.bench-probe.stall"]["failures"].values()), 1)


async def prove_values_kept(host: Host) -> None:
    """Raise unless explain tells what a filter changed, with the values before and after."""
    sent = requests(1)[0]
    async with host.request(id="proof-values", deadline_s=30.0) as request:
        await request.hooks(Bench).edit(sent)
    step = host.explain("proof-values")["steps"][0]
    edits = [(change["before"], change["value"]) for change in step.get("changes", ()) if change["path"] == "/edits"]
    expect("values kept by explain", edits, [(0, 1)])


async def expect_raises(what: str, error: type[Exception], call: Awaitable[Any]) -> None:
    """Await a call that must fail in one way."""
    try:
        answer = await call
    except error:
        return
    raise GuardOffError(f"{what}: expected {error.__name__}, got {answer!r}")


def expect(what: str, actual: object, expected: object) -> None:
    """Raise unless both are the same."""
    if actual != expected:
        raise GuardOffError(f"{what}: expected {expected!r}, got {actual!r}")
