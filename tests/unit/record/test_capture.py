from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Coroutine
from pathlib import Path
from time import thread_time
from typing import Any

import pytest

from annexe.record.capture import PipeCapture
from annexe.record.logs import LogLimits, LogStore
from annexe.record.tail import read_tail
from tests.unit.record.clocks import StillClock

Scenario = Callable[[LogStore, int, int], Coroutine[Any, Any, None]]


def captured(folder: Path, scenario: Scenario, **limits: Any) -> list[dict[str, Any]]:
    """Run a scenario with a store and both ends of a pipe; return what the log of ``one`` holds after it."""
    store = LogStore(folder, StillClock(), limits=LogLimits(**limits))
    read_end, write_end = os.pipe()
    try:
        asyncio.run(scenario(store, read_end, write_end))
    finally:
        store.close()
        os.close(read_end)
    return read_tail(folder / "one", 10_000)


def write_all(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    os.close(descriptor)


def captured_content(folder: Path, content: bytes, **limits: Any) -> list[dict[str, Any]]:
    async def scenario(store: LogStore, read_end: int, write_end: int) -> None:
        capture = PipeCapture(read_end, store.sink("one"), source="stdout", instance="one-1")
        await asyncio.gather(asyncio.to_thread(write_all, write_end, content), capture.wait_ended())
        assert capture.held_bytes == 0

    return captured(folder, scenario, **limits)


def test_capture_lines_become_records_and_the_partial_last_one_too(tmp_path: Path) -> None:
    records = captured_content(tmp_path, b"one\r\n\n   \ntwo \xff\x1b[2J\nlast")
    assert [record["message"] for record in records] == ["one", "two \\xff\\x1b[2J", "last"]
    assert {(record["source"], record["instance"], record["level"]) for record in records} == {("stdout", "one-1", "info")}


def test_capture_of_a_real_process_takes_both_outputs(tmp_path: Path) -> None:
    code = "import sys, json; print(json.dumps({'message': 'hi', 'plugin': 'x'})); sys.stderr.write('trouble')"

    async def scenario(store: LogStore, read_end: int, write_end: int) -> None:
        os.close(write_end)
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            captures = [
                PipeCapture(process.stdout.fileno(), store.sink("one"), source="stdout"),
                PipeCapture(process.stderr.fileno(), store.sink("one"), source="stderr"),
            ]
            await asyncio.gather(*(capture.wait_ended() for capture in captures))

    records = captured(tmp_path, scenario)
    assert sorted((record["source"], record["message"], record["level"]) for record in records) == [
        ("stderr", "trouble", "warning"),
        ("stdout", "hi", "info"),
    ]
    assert [record["fields"] for record in records if record["source"] == "stdout"] == [{"plugin": "x"}]


def test_capture_100_mb_line_without_line_feed_takes_bounded_memory(tmp_path: Path) -> None:
    size = 100_000_000

    def write_much(descriptor: int) -> None:
        chunk = memoryview(b"x" * 1_000_000)
        for _ in range(100):
            rest = chunk
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        os.close(descriptor)

    async def scenario(store: LogStore, read_end: int, write_end: int) -> None:
        capture = PipeCapture(read_end, store.sink("one"), source="stdout")
        tracemalloc.start()
        await asyncio.gather(asyncio.to_thread(write_much, write_end), capture.wait_ended())
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak_bytes < 4_000_000

    (record,) = captured(tmp_path, scenario)
    kept = record["message"].index(" …[")
    assert record["cut_bytes"] == size - kept
    assert 15_000 < kept < 16_384


def test_capture_flood_of_lines_is_drained_counted_and_leaves_the_loop_its_turns(tmp_path: Path) -> None:
    line_count = 3_000_000

    async def scenario(store: LogStore, read_end: int, write_end: int) -> None:
        capture = PipeCapture(read_end, store.sink("one"), source="stdout")
        worst_s = 0.0
        writing = asyncio.ensure_future(asyncio.to_thread(write_all, write_end, b"a\n" * line_count))
        ended = asyncio.ensure_future(capture.wait_ended())
        while not ended.done():
            began_s = thread_time()
            await asyncio.sleep(0)
            worst_s = max(worst_s, thread_time() - began_s)
        await writing
        assert worst_s < 0.1  # of processor time: a turn takes about a millisecond

    records = captured(tmp_path, scenario, burst_lines=500)
    lines = [record for record in records if record["source"] == "stdout"]
    assert len(lines) == 500
    dropped = sum(record["fields"]["dropped"] for record in records if record["source"] == "host")
    assert len(lines) + dropped == line_count


def test_capture_burst_of_many_lines_at_once_is_kept_whole(tmp_path: Path) -> None:
    records = captured_content(tmp_path, b"".join(b"%d\n" % number for number in range(1500)))
    assert [record["message"] for record in records] == [str(number) for number in range(1500)]


def test_capture_turn_takes_no_more_than_its_share_of_lines(tmp_path: Path) -> None:
    async def scenario(store: LogStore, read_end: int, write_end: int) -> None:
        write_all(write_end, b"x\n" * 1000)
        capture = PipeCapture(read_end, store.sink("one"), source="stdout")
        turns = 0
        ended = asyncio.ensure_future(capture.wait_ended())
        while not ended.done():
            turns += 1
            await asyncio.sleep(0)
        assert turns >= 1000 / 64

    assert len(captured(tmp_path, scenario)) == 1000


def test_capture_stopped_while_a_stray_child_holds_the_pipe_takes_what_is_there(tmp_path: Path) -> None:
    async def scenario(store: LogStore, read_end: int, write_end: int) -> None:
        capture = PipeCapture(read_end, store.sink("one"), source="stderr")
        os.write(write_end, b"Traceback\nlast words")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(capture.wait_ended(), 0.05)
        capture.stop()
        capture.stop()
        await capture.wait_ended()
        os.write(write_end, b"after the end\n")
        await asyncio.sleep(0)
        os.close(write_end)

    assert [record["message"] for record in captured(tmp_path, scenario)] == ["Traceback", "last words"]


def test_capture_stopped_in_a_flood_ends_and_counts_what_it_left(tmp_path: Path) -> None:
    async def scenario(store: LogStore, read_end: int, write_end: int) -> None:
        os.set_blocking(write_end, False)
        written = os.write(write_end, b"a\n" * 40_000)
        capture = PipeCapture(read_end, store.sink("one"), source="stdout")
        capture.stop()
        os.close(write_end)
        counts.append(written // 2)

    counts: list[int] = []
    records = captured(tmp_path, scenario, burst_lines=20_000)
    stdout = [record for record in records if record["source"] == "stdout"]
    dropped = sum(record["fields"]["dropped"] for record in records if record["source"] == "host")
    assert len(stdout) == 4096
    assert len(stdout) + dropped == counts[0]


def test_capture_pipe_that_cannot_be_read_ends(tmp_path: Path) -> None:
    async def scenario(store: LogStore, read_end: int, write_end: int) -> None:
        capture = PipeCapture(read_end, store.sink("one"), source="stdout")
        folder = os.open(tmp_path, os.O_RDONLY)
        os.dup2(folder, read_end)  # reading a folder is an error
        os.close(folder)
        os.close(write_end)
        capture.stop()
        await capture.wait_ended()

    assert captured(tmp_path, scenario) == []
