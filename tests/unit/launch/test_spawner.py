"""One thread for everything."""

from __future__ import annotations

import os
import threading
from functools import partial

import pytest

from annexe.errors import HostClosedError
from annexe.launch.spawner import Spawner


def test_spawner_runs_all_work_on_one_thread_that_is_not_the_callers() -> None:
    spawner = Spawner()
    threads = {spawner.submit(threading.get_ident).result(5) for _ in range(5)}
    spawner.close()
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_spawner_hands_errors_to_the_caller_and_goes_on() -> None:
    spawner = Spawner()
    with pytest.raises(ZeroDivisionError):
        spawner.submit(lambda: 1 // 0).result(5)
    assert spawner.submit(lambda: 1).result(5) == 1
    spawner.close()


def test_spawner_skips_work_that_was_cancelled_before_its_turn() -> None:
    spawner = Spawner()
    go_on, ran = threading.Event(), []
    first = spawner.submit(lambda: go_on.wait(5))
    second = spawner.submit(lambda: ran.append(1))
    assert second.cancel()
    go_on.set()
    first.result(5)
    spawner.close()
    assert ran == []


def test_spawner_finishes_what_is_queued_before_it_closes() -> None:
    spawner = Spawner()
    results = [spawner.submit(partial(int, n)) for n in range(10)]
    spawner.close()
    spawner.close()
    assert [result.result(0) for result in results] == list(range(10))


def test_spawner_refuses_work_after_close() -> None:
    spawner = Spawner()
    spawner.close()
    with pytest.raises(HostClosedError):
        spawner.submit(lambda: 1)


def test_spawner_refuses_work_in_a_forked_child() -> None:
    spawner = Spawner()
    child = os.fork()
    if child == 0:
        try:
            spawner.submit(lambda: 1)
        except Exception as error:
            os._exit(42 if type(error).__name__ == "WrongContextError" else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
    spawner.close()
