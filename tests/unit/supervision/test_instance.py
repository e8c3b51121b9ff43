"""How the start of an instance is bounded."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest

from annexe.channel import ChannelLimits
from annexe.errors import LaunchError
from annexe.launch import LaunchedPlugin, LaunchRequest, LaunchStrategy
from annexe.record import PluginLog
from annexe.supervision.instance import Instance, InstancePlan


class _Stuck(LaunchStrategy):
    def __init__(self) -> None:
        self.was_cancelled = False

    async def launch(self, request: LaunchRequest) -> LaunchedPlugin:
        try:
            await asyncio.Event().wait()
        finally:
            self.was_cancelled = True
        raise AssertionError(request)

    async def close(self) -> None:
        return None


async def _no_answer(*_args: object) -> object:
    raise AssertionError


def _ignore(*_args: object) -> None:
    return None


def test_launch_that_does_not_end_is_called_off_at_the_start_timeout() -> None:
    plan = InstancePlan(
        launch=LaunchRequest(plugin="p", instance="p-1", kind="python", entry="p", folder=Path("/nonexistent")),
        limits=ChannelLimits(), start_timeout_s=0.05, host={}, version="1.0.0", activation={},
        serve=_no_answer, on_refused=_ignore, on_notification=_ignore, check=_ignore,
    )  # fmt: skip
    strategy = _Stuck()

    async def scenario() -> None:
        async with asyncio.timeout(5):
            await Instance.start(plan, strategy, cast("PluginLog", None))

    with pytest.raises(LaunchError, match="start-timeout") as caught:
        asyncio.run(scenario())
    assert caught.value.data == {"timeout_s": 0.05}
    assert caught.value.plugin == "p"
    assert strategy.was_cancelled
