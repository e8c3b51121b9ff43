"""How often Python's garbage collector looks while a host takes up plugins."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from annexe.host.collector import collected_seldom


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def test_it_looks_seldom_meanwhile_and_as_before_afterwards() -> None:
    gc.set_threshold(700, 10, 10)
    with pytest.raises(LookupError), collected_seldom():
        assert gc.get_threshold() == (100_000, 10, 10)
        raise LookupError
    assert gc.get_threshold() == (700, 10, 10)


def test_two_hosts_at_once_give_back_what_was_before_both() -> None:
    gc.set_threshold(700, 10, 10)
    first, second = collected_seldom(), collected_seldom()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert gc.get_threshold() == (100_000, 10, 10)
    second.__exit__(None, None, None)
    assert gc.get_threshold() == (700, 10, 10)


@pytest.mark.parametrize("said", [(0, 10, 10), (5000, 7, 7)])
def test_what_the_application_says_meanwhile_stays(said: tuple[int, int, int]) -> None:
    gc.set_threshold(700, 10, 10)
    with collected_seldom():
        gc.set_threshold(*said)
    assert gc.get_threshold() == said


@pytest.mark.parametrize("own", [(0, 10, 10), (500_000, 5, 5)])
def test_application_that_has_it_look_never_or_more_seldom_keeps_that(own: tuple[int, int, int]) -> None:
    gc.set_threshold(*own)
    with collected_seldom():
        assert gc.get_threshold() == own
    assert gc.get_threshold() == own
