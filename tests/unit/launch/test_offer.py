"""Which walls are offered when some do not work, and what is said to be lacking."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from annexe.launch import offer as module
from annexe.launch.offer import Offer, OfferFinder, _Trial
from annexe.sandbox.bubblewrap import Bubblewrap
from annexe.sandbox.receipt import Lack

BUBBLEWRAP = Bubblewrap(path="/usr/bin/bwrap")


@pytest.fixture
def best(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Offer, list[Offer]]]:
    """Give a function that returns what is offered where ``works`` says what does, and all that was tried."""
    monkeypatch.setattr(module, "landlock_abi", lambda: 7)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")

    def found(works: Callable[[Offer], bool], bubblewrap: Bubblewrap | Lack = BUBBLEWRAP) -> tuple[Offer, list[Offer]]:
        tried: list[Offer] = []

        def play(_self: Any, offer: Offer) -> str | None:
            tried.append(offer)
            return None if works(offer) else f"no {offer.bubblewrap is not None} {offer.landlock_abi} {offer.seccomp}"

        monkeypatch.setattr(_Trial, "_try", play)
        trial = _Trial(None, None, None, Path())  # type: ignore[arg-type]  # nothing of them is used
        return trial.best(bubblewrap), tried

    return found


def walls(offer: Offer) -> tuple[bool, int, bool]:
    return offer.bubblewrap is not None, offer.landlock_abi, offer.seccomp


def lacking(offer: Offer) -> list[str]:
    return [lack.wall for lack in offer.lacks]


def test_everything_that_works_is_offered_after_one_trial(best: Any) -> None:
    offer, tried = best(lambda _: True)
    assert (walls(offer), lacking(offer), len(tried)) == ((True, 7, True), [], 1)


@pytest.mark.parametrize(
    ("works", "expected", "lacks"),
    [
        pytest.param(lambda offer: not offer.landlock_abi, (True, 0, True), ["landlock"], id="landlock fails"),
        pytest.param(lambda offer: offer.bubblewrap is None, (False, 7, True), ["namespaces"], id="bubblewrap fails"),
        pytest.param(lambda offer: not offer.seccomp, (True, 7, False), ["seccomp"], id="filters fail"),
        pytest.param(
            lambda offer: offer.bubblewrap is None and not offer.landlock_abi, (False, 0, True), ["namespaces", "landlock"], id="both fail"
        ),
        pytest.param(lambda _: False, (False, 0, False), ["namespaces", "landlock", "seccomp"], id="nothing works"),
    ],
)
def test_wall_that_fails_is_left_out_and_named(best: Any, works: Any, expected: Any, lacks: list[str]) -> None:
    offer, tried = best(works)
    assert (walls(offer), lacking(offer)) == (expected, lacks)
    assert len({(one.bubblewrap, one.landlock_abi, one.seccomp) for one in tried}) == len(tried)


def test_lack_says_what_was_said_when_the_wall_was_the_only_one_more(best: Any) -> None:
    offer, _ = best(lambda offer: offer.bubblewrap is None and not offer.seccomp)
    said = {lack.wall: lack.why for lack in offer.lacks}
    assert said == {"namespaces": "bubblewrap says: no True 7 False", "seccomp": "the stub says: no False 7 True"}


def test_proc_that_cannot_be_mounted_is_left_out_before_anything_else(best: Any) -> None:
    offer, tried = best(lambda offer: offer.bubblewrap is not None and not offer.bubblewrap.mounts_proc)
    assert (walls(offer), lacking(offer)) == ((True, 7, True), [])
    assert len(tried) <= 3


def test_wall_that_is_not_there_is_named_and_not_tried(best: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "landlock_abi", lambda: 0)
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    offer, tried = best(lambda _: True, Lack("namespaces", "not installed", "install it"))
    assert (walls(offer), lacking(offer), len(tried)) == ((False, 0, False), ["landlock", "seccomp", "namespaces"], 1)


def test_finder_takes_no_wall_away_that_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="expected walls of namespaces, landlock, seccomp, rlimits, got cgroup, uid"):
        OfferFinder(unsafe_without=("uid", "cgroup", "landlock"))
