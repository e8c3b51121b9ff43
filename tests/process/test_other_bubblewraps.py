"""Other versions of bubblewrap, and machines where it can do less: played by a program that hides or refuses what they lack."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from annexe.launch.offer import OfferFinder
from annexe.sandbox import IsolationLevel
from tests.process.conftest import MakePlugin, OpenStrategy
from tests.process.test_launch import read_line

pytestmark = pytest.mark.both_users

REAL = Path("/usr/bin/bwrap")
WRAPPER = """#!/bin/sh
if [ "$1" = --help ]; then {real} --help 2>&1 | grep -v -e {hidden}; exit 0; fi
for word in "$@"; do
  case "$word" in {refused}) echo "bwrap: {said}" >&2; exit 1 ;; esac
done
exec {real} "$@"
"""
WHAT = """
import os
def readable(path):
    try: return bool(open(path).read(1))
    except OSError as error: return error.errno
def writable(path):
    try: open(path, "w").close(); return True
    except OSError as error: return error.errno
found = [readable("/proc/self/status"), writable("/tmp/x"), writable("/dev/x"), writable("/x"), os.environ["TMPDIR"]]
os.write(fd, repr(found).encode() + b"\\n")
while os.read(fd, 1): pass
"""

Make = Callable[..., Path]


@pytest.fixture
def wrapper(open_folder: Path) -> Make:
    def make(*, hidden: str = "--nothing", refused: str = "--nothing", said: str = "") -> Path:
        path = open_folder / "bwrap"
        path.unlink(missing_ok=True)
        path.write_text(WRAPPER.format(real=REAL, hidden=hidden, refused=refused, said=said))
        path.chmod(0o755)
        return path

    if not REAL.exists():
        pytest.skip("bubblewrap is not installed: apt install bubblewrap")
    return make


def launched_with(path: Path, make_plugin: MakePlugin, open_strategy: OpenStrategy) -> tuple[IsolationLevel, list[object], str]:
    """Return the level, what the plugin found, and what the receipt says of its temporary folder."""

    async def scenario() -> tuple[IsolationLevel, list[object], str]:
        async with open_strategy(offers=OfferFinder(bubblewrap=path)) as strategy:
            plugin = await strategy.launch(make_plugin(WHAT))
            found: list[object] = eval((await read_line(plugin)).decode())
            plugin.confirm()
            tmp = next(layer.detail for layer in plugin.receipt.layers if layer.name == "temporary folder")
            await plugin.close()
            return plugin.receipt.level, found, tmp

    return asyncio.run(scenario())


def test_this_bubblewrap_caps_what_can_be_written(wrapper: Make, make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    level, found, tmp = launched_with(wrapper(), make_plugin, open_strategy)
    assert (level, found) == (IsolationLevel.FULL, [True, True, 30, 30, "/tmp"])
    assert "in memory" in tmp


def test_bubblewrap_0_6_gives_full_with_a_folder_on_disk(wrapper: Make, make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    old = wrapper(hidden="--size -e --disable-userns", refused="--size|--disable-userns", said="Unknown option")
    level, found, tmp = launched_with(old, make_plugin, open_strategy)
    assert (level, found) == (IsolationLevel.FULL, [True, True, 30, 30, "/tmp"])
    assert "on disk" in tmp


def test_container_that_masks_proc_gives_full_without_proc(wrapper: Make, make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    masked = wrapper(refused="--proc", said="Can't mount proc on /newroot/proc: Operation not permitted")
    level, found, _ = launched_with(masked, make_plugin, open_strategy)
    assert (level, found) == (IsolationLevel.FULL, [2, True, 30, 30, "/tmp"])


def test_bubblewrap_that_can_do_nothing_leaves_landlock_and_its_words_with_a_cure(
    wrapper: Make, make_plugin: MakePlugin, open_strategy: OpenStrategy
) -> None:
    async def scenario() -> None:
        broken = wrapper(refused="--unshare-user", said="setting up uid map: Permission denied")
        async with open_strategy(offers=OfferFinder(bubblewrap=broken)) as strategy:
            plugin = await strategy.launch(make_plugin(WHAT))
            await read_line(plugin)
            assert plugin.receipt.level is IsolationLevel.LANDLOCK
            (lack,) = [lack for lack in plugin.receipt.lacks if lack.wall == "namespaces"]
            assert lack.why == "bubblewrap says: bwrap: setting up uid map: Permission denied"
            assert "AppArmor profile" in lack.cure
            await plugin.close()

    asyncio.run(scenario())


@pytest.mark.skipif(os.geteuid() != 0, reason="only for root is there somebody else whose program it could be")
def test_bubblewrap_that_somebody_else_could_replace_is_not_run(
    wrapper: Make, make_plugin: MakePlugin, open_strategy: OpenStrategy
) -> None:
    path = wrapper()
    os.chown(path, 65534, 65534)

    async def scenario() -> None:
        async with open_strategy(offers=OfferFinder(bubblewrap=path)) as strategy:
            plugin = await strategy.launch(make_plugin(WHAT))
            assert plugin.receipt.level is IsolationLevel.LANDLOCK
            assert "could have been put there by others" in next(lack.why for lack in plugin.receipt.lacks if lack.wall == "namespaces")
            await plugin.close()

    asyncio.run(scenario())


def test_bubblewrap_that_fails_at_the_launch_alone_is_an_error_with_its_words(
    wrapper: Make, make_plugin: MakePlugin, open_strategy: OpenStrategy
) -> None:
    from annexe.errors import LaunchError

    async def scenario() -> None:
        path = wrapper()
        async with open_strategy(offers=OfferFinder(bubblewrap=path)) as strategy:
            await (await strategy.launch(make_plugin(WHAT))).close()
            wrapper(refused="--unshare-user", said="No space left on device")
            with pytest.raises(LaunchError, match="could not build its walls: bwrap: No space left on device"):
                await strategy.launch(make_plugin(WHAT))

    asyncio.run(scenario())


def test_wall_that_was_lacking_is_tried_again_after_a_while(wrapper: Make, make_plugin: MakePlugin, open_strategy: OpenStrategy) -> None:
    now_s = 1000.0

    async def scenario() -> list[IsolationLevel]:
        path = wrapper(refused="--unshare-user", said="No space left on device")
        levels = []
        async with open_strategy(offers=OfferFinder(bubblewrap=path, now=lambda: now_s)) as strategy:
            for passed_s, is_mended in ((0, False), (59, True), (2, True)):
                nonlocal_add(passed_s)
                if is_mended:
                    wrapper()
                plugin = await strategy.launch(make_plugin(WHAT))
                levels.append(plugin.receipt.level)
                await plugin.close()
        return levels

    def nonlocal_add(passed_s: float) -> None:
        nonlocal now_s
        now_s += passed_s

    assert asyncio.run(scenario()) == [IsolationLevel.LANDLOCK, IsolationLevel.LANDLOCK, IsolationLevel.FULL]
