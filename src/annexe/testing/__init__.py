"""What tests of plugins, and of applications that have plugins, need: a runner without a host, a real host, and fakes.

Names are loaded when they are first used: pytest imports this package in every session where annexe is installed.

Source: docs/reference/testing.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from annexe.testing.clock import FakeClock
    from annexe.testing.failures import FakeFailureMemory
    from annexe.testing.fake_host import LogLine, MetricValue, PublishedEvent
    from annexe.testing.hosts import async_host_for, host_for
    from annexe.testing.launch import FakeLaunchedPlugin, FakeLaunchStrategy
    from annexe.testing.plugin_runner import PluginRunner, RunnerRequest

__all__ = [
    "FakeClock",
    "FakeFailureMemory",
    "FakeLaunchStrategy",
    "FakeLaunchedPlugin",
    "LogLine",
    "MetricValue",
    "PluginRunner",
    "PublishedEvent",
    "RunnerRequest",
    "async_host_for",
    "host_for",
]

_HOMES = {
    "FakeClock": "clock",
    "FakeFailureMemory": "failures",
    "FakeLaunchStrategy": "launch",
    "FakeLaunchedPlugin": "launch",
    "LogLine": "fake_host",
    "MetricValue": "fake_host",
    "PluginRunner": "plugin_runner",
    "PublishedEvent": "fake_host",
    "RunnerRequest": "plugin_runner",
    "async_host_for": "hosts",
    "host_for": "hosts",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"annexe.testing.{home}"), name)
    globals()[name] = value
    return value
