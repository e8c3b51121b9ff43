"""Long bytes between a host and real plugins: started, forked, with and without shared memory."""

# mypy: disable-error-code="empty-body"
from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from annexe import ExtensionPoint, HookSpec, Host, Responded, hook
from annexe.errors import InvalidParamsError, PluginRaisedError
from tests.process.hosts import connection_of, run, wait_state

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory files are Linux's")

MIB = 1024 * 1024
TWELVE = bytes(range(256)) * (12 * MIB // 256)  # more than any frame


@dataclass
class Image:
    name: str
    pixels: bytes
    seen: list[str]


class Pictures(HookSpec, name="pictures", revision=1):
    @hook.filter
    async def edit(self, image: Image) -> Image: ...

    @hook.filter(responds=Image)
    async def answer(self, image: Image) -> Image: ...

    @hook.stream_filter
    def chunks(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]: ...


class Store(ExtensionPoint, name="store", revision=1):
    async def echo(self, data: bytes) -> bytes: ...

    async def through_the_host(self, data: bytes) -> bytes: ...


class Cellar:
    name: ClassVar[str] = "cellar"

    async def swap(self, data: bytes) -> bytes:
        return data[::-1]


CODE = """
from annexe_sdk import Plugin, Respond

plugin = Plugin()


@plugin.filter("pictures.edit")
def edit(image, ctx):
    image["seen"].append("{name}")
    return ctx.unchanged if {leaves} else image


@plugin.filter("pictures.answer")
def answer(image):
    raise Respond(image)


@plugin.stream_filter("pictures.chunks")
def chunks(items):
    yield from items


@plugin.extension("store")
class Kept:
    def echo(self, data):
        return data

    def through_the_host(self, data, ctx):
        return ctx.cap("cellar").swap(data)
"""

MANIFEST = """
manifest-version = 1
[plugin]
id = "{name}"
version = "1.0.0"
name = "{name}"
[runtime]
kind = "python"
entry = "kept"
[provides.hooks]
"pictures.edit" = {{ revision = 1 }}
"pictures.answer" = {{ revision = 1 }}
"pictures.chunks" = {{ revision = 1 }}
[provides.extensions]
"store" = {{ revision = 1 }}
[permissions]
capabilities = ["cellar"]
[resources]
call-timeout = "20s"
memory = "256MiB"
"""


def opened(root: Path, *, leaves: tuple[str, ...] = (), names: tuple[str, ...] = ("one",), **changes: Any) -> Host:
    for name in names:
        folder = root / "plugins" / name
        folder.mkdir(parents=True)
        (folder / "plugin.toml").write_text(MANIFEST.format(name=name))
        (folder / "kept.py").write_text(CODE.format(name=name, leaves=name in leaves))
    return Host(
        plugins=root / "plugins",
        contracts=[Pictures, Store],
        capabilities=[Cellar()],
        grants="manifest",
        state_dir=root / "state",
        default_deadline_s=20,
        control=False,
        **changes,
    )


def is_at_rest(host: Host, plugin: str) -> bool:
    """Whether the plugin has released all that it was sent."""
    arenas = connection_of(host, plugin).arenas
    return arenas is not None and arenas._room.is_empty


@pytest.mark.parametrize("warm", [False, True], ids=["started", "forked"])
def test_bytes_longer_than_a_frame_go_there_and_back(tmp_path: Path, warm: bool) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, strategy="zygote" if warm else "process") as host:
            for _ in range(3):
                assert await host.extension(Store).echo(TWELVE) == TWELVE
                assert await host.extension(Store).echo(b"short") == b"short"
            nine = TWELVE[: 9 * MIB]
            assert await host.extension(Store).through_the_host(nine) == nine[::-1]
            with pytest.raises(PluginRaisedError, match="expected at most 10485760 in a request of a plugin's"):
                await host.extension(Store).through_the_host(TWELVE)
            connection = connection_of(host, "one")
            assert connection.arenas is not None
            assert connection.codec.name == "msgpack"

    run(scenario)


def test_the_longest_blob_is_as_long_as_a_file(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as host:
            data = bytes(64 * MIB)
            assert await host.extension(Store).echo(data) == data
            with pytest.raises(InvalidParamsError, match="shared memory"):
                await host.extension(Store).echo(data + b"x")

    run(scenario)


def test_many_long_calls_at_once_wait_for_each_other(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as host:
            results = await asyncio.gather(*(host.extension(Store).echo(TWELVE + bytes((number,))) for number in range(20)))
            assert [result[-1] for result in results] == list(range(20))
            assert is_at_rest(host, "one")

    run(scenario)


def test_value_with_a_blob_goes_through_all_plugins_of_a_hook(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, names=("one", "three", "two"), leaves=("two",)) as host:
            image = await host.hooks(Pictures).edit(Image("a", TWELVE, []))
            assert (image.pixels, image.seen) == (TWELVE, ["one", "three"])
            with pytest.raises(Responded) as answered:
                await host.hooks(Pictures).answer(Image("a", TWELVE, []))
            assert (answered.value.plugin, answered.value.value.pixels) == ("one", TWELVE)
            assert all(is_at_rest(host, name) for name in ("one", "three", "two"))

    run(scenario)


def test_items_longer_than_a_frame_stream_through(tmp_path: Path) -> None:
    async def source() -> AsyncIterator[bytes]:
        for number in range(20):
            yield TWELVE[: 5 * MIB] + bytes((number,))

    async def scenario() -> None:
        async with opened(tmp_path) as host:
            got = [chunk async for chunk in host.hooks(Pictures).chunks(source())]
            assert [len(chunk) for chunk in got] == [5 * MIB + 1] * 20
            assert [chunk[-1] for chunk in got] == list(range(20))

    run(scenario)


def test_plugin_that_speaks_json_gets_what_fits_into_frames(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, codecs=("json",)) as host:
            data = TWELVE[: 2 * MIB]
            assert await host.extension(Store).echo(data) == data
            assert connection_of(host, "one").arenas is None
            with pytest.raises(InvalidParamsError):
                await host.extension(Store).echo(TWELVE)

    run(scenario)


def test_plugin_that_never_sends_long_bytes_has_no_page_of_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as host:
            await host.extension(Store).echo(b"short")
            arenas = connection_of(host, "one").arenas
            assert arenas is not None
            maps = Path("/proc/self/smaps").read_text().split("annexe-")
            resident = [int(part.partition("Rss:")[2].split()[0]) for part in maps[1:]]
            assert sum(resident[-2:]) == 0

    run(scenario)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What must not wait for the garbage collector is tested without it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def count_files() -> tuple[int, int]:
    """Return how many maps and descriptors of memory files this process has."""
    links = [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    named = [os.readlink(link) for link in links if os.path.lexists(link)]
    return Path("/proc/self/maps").read_text().count("memfd:annexe-"), sum("memfd:annexe-" in name for name in named)


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("warm", [False, True], ids=["started", "forked"])
def test_plugin_that_has_stopped_leaves_no_memory_with_the_host(tmp_path: Path, warm: bool) -> None:
    async def scenario() -> None:
        before = count_files()
        async with opened(tmp_path, strategy="zygote" if warm else "process") as host:
            plugin = host.plugin("one")
            for _ in range(2):
                assert await host.extension(Store).echo(TWELVE) == TWELVE
                assert count_files() > before
                await plugin.stop()
                await wait_state(plugin, "stopped")
                assert count_files() == before
                await plugin.start()

    run(scenario)
