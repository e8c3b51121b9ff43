"""What gets through at each level is what the page about the sandbox says, attack by attack."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from annexe.attack import suite
from annexe.attack.catalogue import Attack, attacks
from annexe.attack.contract import Outcome
from annexe.attack.suite import run_attacks
from annexe.errors import AnnexeError
from annexe.launch import ProcessStrategy
from annexe.launch.offer import OfferFinder, landlock_abi
from annexe.sandbox import Receipt

PAGE = (Path(__file__).parents[2] / "docs" / "explanation" / "sandbox.md").read_text()
SECTION = PAGE.partition("\n## What gets through below full\n")[2].partition("\n## ")[0]
COLUMNS = ("namespaces", "landlock", "landlock-partial")
# What a busy machine, or this very kernel, may stop as well.
MAY_FAIL = {"processor-spin", "thread-bomb", "memory-shared", "disk-names"}
OFFERS: dict[str, dict[str, Any]] = {
    "full": {},
    "namespaces": {"unsafe_without": ("landlock",)},
    "landlock": {"bubblewrap": None},
    "landlock-partial": {"bubblewrap": None},
}


def listed(level: str, *, grouped: bool, own_uid: bool) -> set[str]:
    """Return the attacks that the page says get through."""
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in SECTION.splitlines() if re.match(r"\| `", line)]
    by_level = {name for name, _, *cells, _ in rows if level in COLUMNS and cells[COLUMNS.index(level)] == "through"}
    ungrouped = {name: cell for name, *_, cell in rows if cell}
    if grouped:
        return by_level
    small = level in ("landlock", "landlock-partial") and not own_uid
    return by_level | {name for name, cell in ungrouped.items() if cell == "through" or small}


def stay_after_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the attacker live on when all that an attack got was a refusal: nothing has changed in it, and starting it costs most.

    In a process of its own each attack is made by ``test_attacks``.
    """
    fresh, attempt = suite._Run._fresh, suite._Run._attempt
    refused = False

    async def stay(run: suite._Run) -> Receipt:
        plugin = run._plugin
        if refused and plugin.state == "ready" and plugin.receipt is not None:
            return plugin.receipt
        return await fresh(run)

    async def made(run: suite._Run, attack: Attack, *, phase: int) -> Outcome | AnnexeError:
        nonlocal refused
        outcome = await attempt(run, attack, phase=phase)
        refused = isinstance(outcome, Outcome) and outcome.verdict == "stopped" and not attack.check
        return outcome

    monkeypatch.setattr(suite._Run, "_fresh", stay)
    monkeypatch.setattr(suite._Run, "_attempt", made)


def test_page_names_attacks_that_there_are() -> None:
    assert set(re.findall(r"^\| `([^`]+)`", SECTION, re.MULTILINE)) <= {attack.name for attack in attacks()}


@pytest.mark.both_users
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "level",
    ["landlock", pytest.param("namespaces", marks=pytest.mark.slow), pytest.param("landlock-partial", marks=pytest.mark.slow)],
)
def test_what_gets_through_is_what_the_page_says(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if landlock_abi() < 6:
        pytest.skip("this kernel's Landlock is too old for the levels above landlock-partial")
    if level == "landlock-partial":
        monkeypatch.setattr("annexe.launch.offer.landlock_abi", lambda: 5)  # Linux 6.10
    monkeypatch.setattr("annexe.host.host.ProcessStrategy", partial(ProcessStrategy, offers=OfferFinder(**OFFERS[level])))
    stay_after_refusals(monkeypatch)
    report = asyncio.run(run_attacks(list(attacks())))
    assert report.level == level
    through = {result.attack.name for result in report.results if result.outcome == "through"}
    expected = listed(level, grouped="cgroup" in report.layers, own_uid="uid" in report.layers)
    assert through - expected == set(), "the page does not say so"
    assert expected - through <= MAY_FAIL, "the page says so, and it does not"
