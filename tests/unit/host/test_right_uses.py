"""Uses of rights are written behind, once in a while, and told again after that."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

from annexe.capabilities.services import PluginServices
from annexe.host.right_uses import RightUses
from annexe.host.store_thread import StoreThread
from annexe.storage.store import Store
from annexe.testing import FakeClock


class _Services:
    def __init__(self) -> None:
        self.looks = 0

    def look_again(self) -> None:
        self.looks += 1


def _watched(uses: RightUses, plugin: str) -> Any:
    services = _Services()
    uses.watch(plugin, cast(PluginServices, services))
    return services


def test_uses_are_stored_and_told_again_when_somebody_asks(tmp_path: Path) -> None:
    async def scenario() -> None:
        thread, clock = StoreThread(), FakeClock(now_s=1000.0)
        await thread.open(tmp_path, now_s=1000.0)
        uses = RightUses(thread, clock)
        alpha, beta = _watched(uses, "alpha"), _watched(uses, "beta")
        used = uses.telling("alpha")
        used("kv")
        used("kv")
        assert await uses.last_used("alpha") == {"kv": 1000.0}
        clock.advance(60)
        assert await uses.last_used("alpha") == {"kv": 1000.0}
        used("cap:orders")
        assert await uses.last_used("alpha") == {"kv": 1000.0, "cap:orders": 1060.0}
        assert await uses.last_used("beta") == {}
        assert (alpha.looks, beta.looks) == (2, 0)
        await thread.close()

    asyncio.run(scenario())


def test_uses_are_written_after_a_while_by_themselves(tmp_path: Path) -> None:
    async def scenario() -> None:
        thread = StoreThread()
        await thread.open(tmp_path, now_s=1000.0)
        uses = RightUses(thread, FakeClock(now_s=1000.0), every_s=0.0)
        alpha = _watched(uses, "alpha")
        uses.telling("alpha")("kv")
        while not alpha.looks:
            await asyncio.sleep(0)
        assert await thread.run(lambda: thread.store.right_uses.of("alpha")) == {"kv": 1000.0}
        await thread.close()

    asyncio.run(scenario())


def test_what_was_gathered_is_written_at_the_end_and_no_timer_is_left(tmp_path: Path) -> None:
    async def scenario() -> None:
        thread = StoreThread()
        await thread.open(tmp_path, now_s=1000.0)
        uses = RightUses(thread, FakeClock(now_s=1000.0))
        uses.telling("alpha")("kv")
        uses.close()
        uses.telling("alpha")("cap:late")
        assert uses._timer is None
        await thread.close()

    asyncio.run(scenario())
    store = Store.open(tmp_path)
    assert store.right_uses.of("alpha") == {"kv": 1000.0}
    store.close()


def test_an_instance_that_is_gone_is_not_held(tmp_path: Path) -> None:
    async def scenario() -> None:
        thread = StoreThread()
        await thread.open(tmp_path, now_s=1000.0)
        uses = RightUses(thread, FakeClock())
        services = _watched(uses, "alpha")
        assert len(uses._services) == 1
        del services
        uses.telling("alpha")("kv")
        assert list(await uses.last_used("alpha")) == ["kv"]
        assert len(uses._services) == 0
        await thread.close()

    asyncio.run(scenario())
