"""What a store promises to several writers at once, and to whoever comes after a crash."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from annexe.storage.kv import KvStore
from annexe.storage.kv_values import decode_value, encode_value
from annexe.storage.store import Store

WRITERS = 8
TIMES = 100


def in_threads(work: Callable[[], None]) -> None:
    failures: list[BaseException] = []
    barrier = threading.Barrier(WRITERS)

    def run() -> None:
        barrier.wait()
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def held(path: Path, key: str) -> object:
    store = KvStore.open(path)
    with store.begin(now_s=0.0) as transaction:
        entry = transaction.space("a", quota_bytes=0).get(key)
    store.close()
    return None if entry is None else decode_value(entry.value)


def test_eight_writers_incrementing_lose_no_update(tmp_path: Path) -> None:
    path = tmp_path / "kv.sqlite3"

    def work() -> None:
        # All of them find the file missing: only one may make the tables.
        store = KvStore.open(path)
        for _ in range(TIMES):
            with store.begin(now_s=0.0) as transaction:
                transaction.space("a", quota_bytes=1000).increment("n", by=1)
        store.close()

    in_threads(work)

    assert held(path, "n") == WRITERS * TIMES


def test_eight_writers_comparing_and_setting_lose_no_update(tmp_path: Path) -> None:
    path = tmp_path / "kv.sqlite3"

    def work() -> None:
        store = KvStore.open(path)
        done = 0
        while done < TIMES:
            with store.begin(now_s=0.0) as transaction:
                entry = transaction.space("a", quota_bytes=1000).get("n")
            old = None if entry is None else entry.value
            new = encode_value((0 if old is None else decode_value(old)) + 1, method="test")
            with store.begin(now_s=0.0) as transaction:
                done += transaction.space("a", quota_bytes=1000).compare_and_set("n", expected=old, value=new)
        store.close()

    in_threads(work)

    assert held(path, "n") == WRITERS * TIMES


def test_eight_writers_counting_failures_lose_none(tmp_path: Path) -> None:
    def work() -> None:
        store = Store.open(tmp_path)
        for _ in range(TIMES):
            store.plugin_state.add_failure("a", reason="crash", now_s=0.0)
        store.close()

    in_threads(work)

    store = Store.open(tmp_path)
    assert store.plugin_state.get("a").failures == WRITERS * TIMES
    store.close()


# Writes for ever, and tells each number once its commit is done.
WRITE_FOR_EVER = """
import os, pathlib, sys
from annexe.storage.kv import KvStore
from annexe.storage.kv_values import encode_value

store = KvStore.open(pathlib.Path(sys.argv[1]))
number = int(sys.argv[2])
while True:
    number += 1
    with store.begin(now_s=0.0) as transaction:
        space = transaction.space("a", quota_bytes=10**9)
        space.set(f"key-{number:09}", encode_value("x" * (number * 7919 % 5000), method="test"))
        space.increment("n", by=1)
    os.write(1, b"%d\\n" % number)
"""


@pytest.mark.parametrize("acknowledgements", [1, 37, 300])
def test_killed_writer_leaves_every_acknowledged_write(tmp_path: Path, acknowledgements: int) -> None:
    path = tmp_path / "kv.sqlite3"
    written = 0
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, str(path), str(written)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        for _ in range(acknowledgements):
            assert writer.stdout.readline() != ""
        writer.send_signal(signal.SIGKILL)
        acknowledged = [int(line) for line in writer.stdout.read().splitlines()]
        assert writer.wait() == -signal.SIGKILL
        writer.stdout.close()

        store = KvStore.open(path)
        with store.begin(now_s=0.0) as transaction:
            space = transaction.space("a", quota_bytes=0)
            last = written + acknowledgements if not acknowledged else acknowledged[-1]
            missing = [number for number in range(1, last + 1) if space.get(f"key-{number:09}") is None]
            entry = space.get("n")
            usage = transaction.usage("a")
        store.close()

        assert missing == []
        assert entry is not None
        written = decode_value(entry.value)
        # Committed but not told any more: at most the one at hand. And what is counted was committed with what it counts.
        assert last <= written <= last + 1
        assert usage.keys == written + 1
