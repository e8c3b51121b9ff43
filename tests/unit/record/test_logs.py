from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from annexe.errors import UnknownPluginError
from annexe.record.logs import LogLimits, LogStore
from annexe.record.tail import read_tail
from annexe.record.writer import LineSink, LogWriter
from tests.unit.record.clocks import StillClock


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def store(tmp_path: Path, clock: StillClock) -> Iterator[LogStore]:
    store = LogStore(tmp_path, clock, limits=LogLimits(report_after_s=0.0))
    yield store
    store.close()


def messages(records: list[dict[str, Any]]) -> list[str]:
    return [record["message"] for record in records]


def test_store_writes_records_of_each_plugin_to_a_folder_of_its_own(store: LogStore, tmp_path: Path) -> None:
    store.sink("one").write("info", "first", {"n": 1}, request="r-1", instance="one-1")
    store.sink("two").write("error", "second", source="host")
    assert [(record["message"], record["source"], record["request"]) for record in store.tail("one", 9)] == [("first", "log", "r-1")]
    assert [(record["message"], record["source"], record["level"]) for record in store.tail("two", 9)] == [("second", "host", "error")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_store_gives_the_same_sink_each_time(store: LogStore) -> None:
    assert store.sink("one") is store.sink("one")


@pytest.mark.parametrize("plugin", ["..", "a/b", "", "Upper", "x" * 65, "a\x00b"])
def test_store_refuses_what_is_no_plugin_id(store: LogStore, plugin: str) -> None:
    for use in (store.sink, lambda plugin: store.tail(plugin, 1)):
        with pytest.raises(UnknownPluginError) as caught:
            use(plugin)
        assert caught.value.plugin == plugin


def test_store_tail_of_a_plugin_that_never_logged_is_empty(store: LogStore) -> None:
    assert store.tail("silent", 10) == []


def test_log_captured_line_cannot_forge_its_origin(store: LogStore) -> None:
    store.sink("one").write_line(b'{"message": "m", "plugin": "two", "source": "host", "time": "1970"}', source="stdout", instance="one-1")
    (record,) = store.tail("one", 1)
    assert (record["plugin"], record["source"], record["instance"], record["message"]) == ("one", "stdout", "one-1", "m")
    assert record["fields"] == {"plugin": "two", "source": "host", "time": "1970"}


def test_log_flood_is_cut_to_the_rate_and_the_loss_is_told(tmp_path: Path, clock: StillClock) -> None:
    told: list[tuple[str, int]] = []
    store = LogStore(
        tmp_path, clock, limits=LogLimits(burst_lines=100, lines_per_s=10), on_dropped=lambda plugin, count: told.append((plugin, count))
    )
    sink = store.sink("chatty")
    for number in range(1000):
        sink.write("info", f"line {number}")
    assert not sink.is_open()
    clock.passed_s = 1.0
    assert sink.is_open()
    for number in range(1000, 1020):
        sink.write("info", f"line {number}")
    store.close()
    records = read_tail(tmp_path / "chatty", 1000)
    assert messages(records[:-1]) == [f"line {number}" for number in (*range(100), *range(1000, 1010))]
    assert records[-1]["source"] == "host"
    assert records[-1]["level"] == "warning"
    assert records[-1]["message"] == "dropped 910 lines"
    assert records[-1]["fields"] == {"dropped": 910, "rate_limited": 910, "queue_full": 0, "disk_error": 0}
    assert told == [("chatty", 910)]


def test_log_loss_is_told_though_the_plugin_falls_silent(tmp_path: Path, clock: StillClock) -> None:
    told = threading.Event()
    store = LogStore(tmp_path, clock, limits=LogLimits(burst_lines=1, report_after_s=0.01), on_dropped=lambda *_: told.set())
    sink = store.sink("chatty")
    sink.write("info", "passes")
    sink.write("info", "lost")
    assert told.wait(10)
    assert messages(store.tail("chatty", 9)) == ["passes", "dropped 1 lines"]
    store.close()


def test_log_large_records_cost_more_than_small_ones(tmp_path: Path, clock: StillClock) -> None:
    store = LogStore(tmp_path, clock, limits=LogLimits(burst_lines=100, lines_per_s=0))
    sink = store.sink("chatty")
    for _ in range(100):
        sink.write("info", "x" * 15_000)
    store.close()
    assert read_tail(tmp_path / "chatty", 1000)[-1]["fields"]["dropped"] == 93


def test_log_flood_does_not_silence_the_host(store: LogStore) -> None:
    sink = store.sink("chatty")
    for _ in range(5000):
        sink.write("info", "noise")
    sink.write("error", "the plugin broke the protocol", source="host")
    assert [record for record in store.tail("chatty", 100) if record["source"] == "host" and record["level"] == "error"]


def test_log_flood_of_one_plugin_takes_nothing_from_another(store: LogStore) -> None:
    for _ in range(5000):
        store.sink("chatty").write("info", "noise")
    store.sink("polite").write("info", "heard")
    assert messages(store.tail("polite", 10)) == ["heard"]


class HungSink(LineSink):
    """A disk that does not answer until the test lets it."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.released = threading.Event()
        self.lines: list[bytes] = []

    def write_lines(self, lines: list[bytes]) -> None:
        self.entered.set()
        self.released.wait(10)
        self.lines += lines

    def report_drops(self) -> None:
        raise AssertionError("nothing was dropped by this sink")


def test_writer_with_a_hung_disk_takes_what_fits_refuses_the_rest_and_never_waits() -> None:
    writer = LogWriter(max_lines=100, max_bytes=1000)
    sink = HungSink()
    assert writer.put(sink, b"first")
    assert sink.entered.wait(10)
    assert [writer.put(sink, b"plugin") for _ in range(100)].count(True) == 75
    assert [writer.put(sink, b"host", is_urgent=True) for _ in range(100)].count(True) == 25
    assert not writer.flush(timeout_s=0.01)
    assert not writer.close(timeout_s=0.01)
    assert not writer.put(sink, b"late")
    assert not writer.run_soon(lambda: None)
    sink.released.set()
    assert writer.close(timeout_s=10)
    assert sink.lines == [b"first"] + [b"plugin"] * 75 + [b"host"] * 25


def test_writer_bound_in_bytes_holds_too() -> None:
    writer = LogWriter(max_lines=100, max_bytes=1000)
    sink = HungSink()
    writer.put(sink, b"first")
    assert sink.entered.wait(10)
    assert [writer.put(sink, b"x" * 100) for _ in range(10)].count(True) == 7
    sink.released.set()
    assert writer.close(10)


def test_writer_fault_in_one_sink_does_not_end_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(LineSink):
        def write_lines(self, lines: list[bytes]) -> None:
            raise RuntimeError("a bug")

        def report_drops(self) -> None:
            raise RuntimeError("another bug")

    writer = LogWriter(max_lines=10, max_bytes=100, report_after_s=0.0)
    good = HungSink()
    good.released.set()
    writer.put(Broken(), b"x")
    writer.request_report(Broken())
    writer.put(good, b"y")
    assert writer.close(10)
    assert good.lines == [b"y"]
    assert {"RuntimeError: a bug", "RuntimeError: another bug"} <= set(capsys.readouterr().err.splitlines())


def test_writer_that_was_never_used_flushes_and_closes_at_once() -> None:
    writer = LogWriter(max_lines=10, max_bytes=100)
    assert writer.flush(0)
    assert writer.close(0)
    assert writer.flush(0)


def test_log_queue_overflow_is_counted_and_told(tmp_path: Path, clock: StillClock) -> None:
    store = LogStore(tmp_path, clock, limits=LogLimits(queue_bytes=1000))
    sink = store.sink("big")
    sink.write("info", "x" * 2000)
    sink.write("info", "small")
    store.close()
    records = read_tail(tmp_path / "big", 10)
    assert messages(records) == ["small", "dropped 1 lines"]
    assert records[-1]["fields"]["queue_full"] == 1


def test_log_disk_error_is_told_outside_at_once_and_in_the_log_once_it_is_over(tmp_path: Path, clock: StillClock) -> None:
    folder = tmp_path / "logs"
    folder.write_text("a file where the folder should be")
    told: list[int] = []
    was_told = threading.Event()

    def on_dropped(plugin: str, count: int) -> None:
        told.append(count)
        was_told.set()

    async def scenario() -> None:
        store = LogStore(folder, clock, limits=LogLimits(report_after_s=0.0), on_dropped=on_dropped)
        sink = store.sink("one")
        async with aclosing(store.follow("one")) as records:
            following = asyncio.ensure_future(anext(records))
            await asyncio.sleep(0)  # registered
            sink.write("info", "lost on disk")
            assert (await following)["message"] == "lost on disk"  # who watches still sees it
            assert (await anext(records))["message"] == "dropped 1 lines"  # could not be written either
            assert await asyncio.to_thread(was_told.wait, 10)
            assert told == [1]
            folder.unlink()
            sink.write("info", "kept")
            assert (await anext(records))["message"] == "kept"
            assert (await anext(records))["fields"] == {"dropped": 1, "rate_limited": 0, "queue_full": 0, "disk_error": 1}
        store.close()
        assert messages(read_tail(folder / "one", 10)) == ["kept", "dropped 1 lines"]
        assert told == [1]

    asyncio.run(scenario())


def test_follow_gives_the_tail_then_each_new_record_none_twice_none_missing(tmp_path: Path, clock: StillClock) -> None:
    async def scenario() -> list[str]:
        store = LogStore(tmp_path, clock)
        sink = store.sink("one")
        for number in range(10):
            sink.write("info", str(number))
        seen: list[str] = []
        async with aclosing(store.follow("one", count=5)) as records:
            async for record in records:
                seen.append(record["message"])
                if len(seen) <= 10:
                    sink.write("info", str(9 + len(seen)))
                if len(seen) == 15:
                    break
        store.close()
        return seen

    assert asyncio.run(scenario()) == [str(number) for number in range(5, 20)]


def test_follow_slow_reader_loses_with_a_count_and_the_log_goes_on(tmp_path: Path, clock: StillClock) -> None:
    async def scenario() -> None:
        store = LogStore(tmp_path, clock, limits=LogLimits(follower_lines=10))
        sink = store.sink("one")
        async with aclosing(store.follow("one")) as records:
            sink_first = asyncio.ensure_future(anext(records))
            await asyncio.sleep(0)
            sink.write("info", "begin")
            assert (await sink_first)["message"] == "begin"
            for number in range(100):
                sink.write("info", str(number))
            assert store.flush()
            assert [(await anext(records))["message"] for _ in range(10)] == [str(number) for number in range(10)]
            lost = await anext(records)
            assert (lost["source"], lost["fields"]) == ("host", {"lost": 90})
            sink.write("info", "again")
            assert (await anext(records))["message"] == "again"
        assert len(store.tail("one", 1000)) == 102
        store.close()

    asyncio.run(scenario())


def test_follow_ends_when_the_store_closes_and_at_once_when_it_is_closed(tmp_path: Path, clock: StillClock) -> None:
    async def scenario() -> None:
        store = LogStore(tmp_path, clock)
        store.sink("one").write("info", "last words")

        async def read_all() -> list[str]:
            return [record["message"] async for record in store.follow("one", count=5)]

        reading = asyncio.ensure_future(read_all())
        await asyncio.sleep(0)
        await asyncio.to_thread(store.close)
        assert await reading == ["last words"]
        assert await read_all() == []

    asyncio.run(scenario())


def test_follow_reader_whose_loop_is_gone_harms_nobody(tmp_path: Path, clock: StillClock) -> None:
    store = LogStore(tmp_path, clock)
    loop = asyncio.new_event_loop()
    records = store.follow("one", count=1)

    async def read_one() -> None:
        store.sink("one").write("info", "seen")
        assert (await anext(records))["message"] == "seen"

    loop.run_until_complete(read_one())
    loop.close()
    store.sink("one").write("info", "after")
    store.sink("one").write("info", "later")
    assert messages(store.tail("one", 10)) == ["seen", "after", "later"]
    store.close()
    asyncio.run(records.aclose())


def test_release_closes_the_file_and_a_later_record_opens_it_again(store: LogStore, tmp_path: Path) -> None:
    store.release("never-seen")
    store.sink("one").write("info", "before")
    store.release("one")
    assert store.flush()
    (tmp_path / "one" / "log.jsonl").rename(tmp_path / "one" / "log.jsonl.1")
    store.sink("one").write("info", "after")
    assert messages(store.tail("one", 10)) == ["before", "after"]
    assert (tmp_path / "one" / "log.jsonl").exists()


def test_store_close_writes_what_is_queued_and_ends_its_thread(tmp_path: Path, clock: StillClock) -> None:
    before = threading.active_count()
    store = LogStore(tmp_path, clock)
    for number in range(500):
        store.sink("one").write("info", str(number))
    store.close()
    store.sink("one").write("info", "too late")
    assert threading.active_count() == before
    assert messages(read_tail(tmp_path / "one", 1000)) == [str(number) for number in range(500)]


def test_store_close_leaves_a_hung_thread_behind_and_still_ends_followers(tmp_path: Path, clock: StillClock) -> None:
    hung, released = threading.Event(), threading.Event()

    def hang(plugin: str, count: int) -> None:
        hung.set()
        released.wait(10)

    async def scenario() -> None:
        store = LogStore(tmp_path, clock, limits=LogLimits(burst_lines=1, report_after_s=0.0), on_dropped=hang)
        seen: list[str] = []

        async def read_all() -> None:
            seen.extend([record["message"] async for record in store.follow("one")])

        reading = asyncio.ensure_future(read_all())
        await asyncio.sleep(0)
        store.sink("one").write("info", "passes")
        store.sink("one").write("info", "dropped")
        store.sink("one").write_line(b"dropped too", source="stdout")
        await asyncio.to_thread(hung.wait, 10)
        store.close(timeout_s=0.01)
        await reading
        assert seen[0] == "passes"
        released.set()
        store.close()

    asyncio.run(scenario())
