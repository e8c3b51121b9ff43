"""A plugin that was written from the protocol page, in another language and without an SDK, serves a host like any other."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from annexe import HookSpec, Host, hook
from annexe.errors import RejectedError
from annexe.launch.removal import remove_tree
from tests.support.tools import need_tool

EXAMPLE = Path(__file__).parents[2] / "examples" / "javascript-plugin"


class Chat(HookSpec, name="chat", revision=1):
    @hook.filter
    async def on_text(self, text: str) -> str: ...  # type: ignore[empty-body]

    @hook.stream_filter
    def on_chunks(self, chunks: AsyncIterator[str]) -> AsyncIterator[str]: ...  # type: ignore[empty-body]


class Scene:
    """A host with the plugin, for all tests; a loop that runs while one does."""

    def __init__(self, folder: Path) -> None:
        self.runner = asyncio.Runner()
        self.host = Host(plugins=EXAMPLE, contracts=[Chat], state_dir=folder, grants="manifest", control=False)
        self.runner.run(self.host.open())
        self.plugin = self.host.plugin("javascript-plugin")

    def close(self) -> None:
        self.runner.run(self.host.close())
        self.runner.close()


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    need_tool("node", "nodejs")
    folder = Path(tempfile.mkdtemp(prefix="annexe-tests-", dir="/tmp"))
    folder.chmod(0o755)
    scene = Scene(folder / "state")
    yield scene
    scene.close()
    remove_tree(folder)


def test_it_is_ready(scene: Scene) -> None:
    scene.host.logs.flush()
    assert scene.plugin.state == "ready", (scene.plugin.reason, scene.host.logs.tail("javascript-plugin", 20))


def test_its_filter_changes_leaves_and_refuses(scene: Scene) -> None:
    async def scenario() -> None:
        on_text = scene.host.hooks(Chat).on_text
        assert await on_text("WHY ME") == "Why me"
        assert await on_text("as it is") == "as it is"
        with pytest.raises(RejectedError) as caught:
            await on_text("  ")
        assert (caught.value.plugin, caught.value.reject_code, caught.value.status) == ("javascript-plugin", "empty", 422)
        assert caught.value.message == "there is nothing to say"

    scene.runner.run(scenario())


def test_its_store_counts_and_its_log_names_the_request(scene: Scene) -> None:
    async def scenario() -> None:
        for _ in range(3):
            async with scene.host.request(id="r-shouting") as request:
                await request.hooks(Chat).on_text("AGAIN")

    scene.runner.run(scenario())
    lines = logged(scene, "toned down")
    assert [line["request"] for line in lines[-3:]] == ["r-shouting"] * 3
    counts = [line["fields"]["count"] for line in lines]
    assert counts == list(range(1, len(counts) + 1))


def test_many_calls_at_once_are_all_answered(scene: Scene) -> None:
    async def scenario() -> None:
        texts = [f"text {number} é 😀" for number in range(500)]
        assert await asyncio.gather(*(scene.host.hooks(Chat).on_text(text) for text in texts)) == texts

    scene.runner.run(scenario())


def test_its_stream_filter_passes_far_more_than_the_credit(scene: Scene) -> None:
    async def source() -> AsyncIterator[str]:
        for _ in range(200):
            yield "AÉ" * 2000

    async def scenario() -> None:
        got = [chunk async for chunk in scene.host.hooks(Chat).on_chunks(source())]
        assert "".join(got) == "aé" * 2000 * 200

    scene.runner.run(scenario())


def test_streams_run_beside_calls_and_each_other(scene: Scene) -> None:
    async def one(number: int) -> list[str]:
        async def source() -> AsyncIterator[str]:
            for index in range(20):
                yield f"{number}-{index}"
                await asyncio.sleep(0)

        return [chunk async for chunk in scene.host.hooks(Chat).on_chunks(source())]

    async def scenario() -> None:
        *streams, text = await asyncio.gather(*(one(number) for number in range(4)), scene.host.hooks(Chat).on_text("a word"))
        assert streams == [[f"{number}-{index}" for index in range(20)] for number in range(4)]
        assert text == "a word"

    scene.runner.run(scenario())


def test_a_stream_that_its_reader_leaves_is_cancelled_and_frees_its_place(scene: Scene) -> None:
    async def endless() -> AsyncIterator[str]:
        while True:
            yield "X" * 1000

    async def scenario() -> None:
        for _ in range(10):  # more than the plugin's four streams
            stream: Any = scene.host.hooks(Chat).on_chunks(endless())
            assert await anext(stream) == "x" * 1000
            await stream.aclose()
            await asyncio.sleep(0.02)
        assert await scene.host.hooks(Chat).on_text("still here") == "still here"

    scene.runner.run(scenario())


def test_it_is_configured_without_a_restart(scene: Scene) -> None:
    async def scenario() -> None:
        pid = scene.plugin.pid
        await scene.plugin.configure({})
        assert scene.plugin.pid == pid

    scene.runner.run(scenario())


def test_it_comes_back_after_it_was_killed(scene: Scene) -> None:
    async def scenario() -> None:
        pid = scene.plugin.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 15
        while scene.plugin.pid in (pid, None) or scene.plugin.state != "ready":
            assert time.monotonic() < deadline, scene.plugin.reason
            await asyncio.sleep(0.02)
        assert await scene.host.hooks(Chat).on_text("BACK") == "Back"

    scene.runner.run(scenario())


def test_it_stops_when_asked_to(scene: Scene) -> None:
    async def scenario() -> None:
        await scene.plugin.stop()
        assert scene.plugin.state == "stopped"

    scene.runner.run(scenario())
    assert logged(scene, "stop: shutdown worked")
    assert not logged(scene, "stop: SIGTERM")


def logged(scene: Scene, part: str) -> list[dict[str, Any]]:
    scene.host.logs.flush()
    return [line for line in scene.host.logs.tail("javascript-plugin", 500) if part in line["message"]]
