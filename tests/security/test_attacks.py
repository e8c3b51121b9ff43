"""The shipped attacks: each works where nothing stops it, and none where the walls of level ``full`` stand.

An attack that would not work anyway proves nothing about a wall. So every one is made without the walls first, and must succeed then.
What is left on without walls still stops what it stops. A plugin's own user is not the same as root and as an unprivileged user, and the
gate runs both; what the host's own code and a clean start stop is made again on careless hosts (``test_careless_channel``,
``test_careless_processes``).
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from annexe import Host
from annexe.attack import suite
from annexe.attack.catalogue import Attack, attacks
from annexe.attack.contract import Outcome, Verdict
from annexe.attack.suite import AttackResult, Report, run_attacks
from annexe.attack.terms import Terms
from annexe.host.state_dir import default_data_dir
from annexe.launch import ProcessStrategy
from annexe.launch.offer import OfferFinder
from annexe.sandbox.cgroup import NoControlGroups
from tests.support.tools import level_here

pytestmark = pytest.mark.timeout(90)

WALLS = ("namespaces", "landlock", "seccomp", "rlimits")
MAY_BE_ABSENT = {
    "setuid-program": "only a root host can lay one out",
    "tcp6": "a machine without IPv6",
    "kernel-crypto": "a kernel without AF_ALG",
    "virtual-machine-socket": "a kernel without vsock",
    "segment-table": "x86_64 alone",
    "old-calls": "x86_64 alone",
}
MACHINES = {
    "type-into-terminal": "kernels may refuse TIOCSTI to all (dev.tty.legacy_tiocsti)",
    "type-past-filter": "likewise",
    "open-devices": "a container may have no device that is open to all",
    "performance-events": "kernel.perf_event_paranoid may forbid it to all",
    "page-faults": "vm.unprivileged_userfaultfd may",
    "memory-locked": "few machines let a user lock that much",
    "io-uring": "kernel.io_uring_disabled may",
    "user-namespace": "user namespaces may be off for all",
    "chase": "the host hunts what hides from it, and may win",
    "processor-spin": "a busy machine gives nobody a whole processor",
    "processor-children": "likewise",
}

WITHOUT_CONTROL_GROUP = {
    "memory-shared": "limits of one process do not count what it shares",
    "processor-spin": "a share of the processor takes a control group",
}

every_attack = pytest.mark.parametrize("attack", attacks(), ids=lambda attack: f"{attack.theme}:{attack.name}")


def without_walls() -> partial[ProcessStrategy]:
    return partial(ProcessStrategy, offers=OfferFinder(unsafe_without=WALLS), groups=NoControlGroups())


@cache
def report_of(theme: str, *, walls: bool) -> Report:
    """Make all attacks of a theme: the first test of a theme pays for all."""
    chosen = [attack for attack in attacks() if attack.theme == theme]
    if walls:
        return asyncio.run(run_attacks(chosen))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("annexe.host.host.ProcessStrategy", without_walls())
        return asyncio.run(run_attacks(chosen))


def result_of(attack: Attack, *, walls: bool) -> tuple[AttackResult, frozenset[str]]:
    report = report_of(attack.theme, walls=walls)
    result = next(result for result in report.results if result.attack is attack)
    if result.outcome == "not run" and attack.name in MAY_BE_ABSENT:
        pytest.skip(f"{MAY_BE_ABSENT[attack.name]}: {result.detail}")
    return result, report.layers


@every_attack
def test_attack_works_without_walls(attack: Attack) -> None:
    result, layers = result_of(attack, walls=False)
    assert not layers & {*WALLS, "cgroup"}
    if attack.unix:
        assert result.outcome == "unix", result.detail
    elif attack.first_layer(layers):
        assert result.outcome in ("stopped", "capped"), result.detail
        assert result.layer, "stopped, though nothing that is said to stop it is on"
    elif result.outcome != "through" and attack.name in MACHINES:
        pytest.skip(f"{MACHINES[attack.name]}: {result.detail}")
    else:
        assert result.outcome == "through", result.detail


@every_attack
def test_attack_is_held_by_the_walls_of_level_full(attack: Attack) -> None:
    report = report_of(attack.theme, walls=True)
    if report.level != level_here():
        pytest.fail(f"level {report.level}, where this machine gives {level_here()}")
    if report.level != "full":
        pytest.skip(f"this machine gives level {report.level}")
    result, layers = result_of(attack, walls=True)
    if attack.name in WITHOUT_CONTROL_GROUP and "cgroup" not in layers:
        assert result.outcome in ("through", "capped"), result.detail  # the receipt says that it is not hard
        return
    assert result.outcome != "through", result.detail
    assert result.outcome == "unix" or result.layer in layers, (
        f"{result.outcome}, and nothing that is said to stop it is on: {result.detail}"
    )


def test_secret_in_the_environment_is_found_where_all_of_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annexe.host.planner.plugin_environment", lambda host, granted: dict(host))
    monkeypatch.setattr("annexe.host.host.ProcessStrategy", without_walls())
    report = asyncio.run(run_attacks([attack for attack in attacks() if attack.name == "own-environment"]))
    assert [(result.outcome, result.detail) for result in report.results] == [("through", "found it in ANNEXE_ATTACK_CANARY")]


@pytest.mark.parametrize("claim", ["stopped", "capped", "judge"])
def test_what_an_attacker_claims_hides_nothing_that_is_seen(monkeypatch: pytest.MonkeyPatch, claim: Verdict) -> None:
    attempt = suite._Run._attempt

    async def claimed(run: Any, attack: Attack, *, phase: int) -> Any:
        outcome = await attempt(run, attack, phase=phase)
        assert isinstance(outcome, Outcome), outcome
        return replace(outcome, verdict=claim)

    monkeypatch.setattr("annexe.host.host.ProcessStrategy", without_walls())
    monkeypatch.setattr(suite._Run, "_attempt", claimed)
    report = asyncio.run(run_attacks([attack for attack in attacks() if attack.name == "udp"]))
    assert [result.outcome for result in report.results] == ["through"]


def test_run_leaves_nothing_behind() -> None:
    wanted = ("leave-tmp", "leave-shm", "daemon", "own-code", "kill-victim")
    places = (Path("/tmp"), Path("/dev/shm"))

    def ours() -> set[str]:
        names = {
            path.name for place in places for path in place.iterdir() if path.name.startswith(("annexe-attack-", "esc")) and mine(path)
        }
        return names | {name for name in os.environ if name.startswith("ANNEXE_ATTACK")}

    before = ours()
    report = asyncio.run(run_attacks([attack for attack in attacks() if attack.name in wanted]))
    assert len(report.results) == len(wanted)
    assert ours() == before


def test_run_leaves_no_private_folder_of_a_plugin_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[Path] = []
    seen: list[bool] = []

    def opened(**settings: Any) -> Host:
        states.append(settings["state_dir"])
        return Host(**settings)

    monkeypatch.setattr("annexe.attack.suite.Host", opened)
    chosen = [attack for attack in attacks() if attack.name == "etc-shadow"]
    terms = Terms("keeper", {"permissions": {"data": {"quota": "1MiB"}}})
    asyncio.run(run_attacks(chosen, progress=lambda _: seen.append(default_data_dir(states[0]).is_dir()), terms=terms))
    assert seen == [True]
    assert not default_data_dir(states[0]).exists()


def mine(path: Path) -> bool:
    try:
        return path.lstat().st_uid == os.geteuid()
    except FileNotFoundError:
        return False


def test_report_as_data_has_the_promised_shape() -> None:
    told: list[AttackResult] = []
    report = asyncio.run(run_attacks([attack for attack in attacks() if attack.name in ("etc-shadow", "huge-frame")], progress=told.append))
    assert report.as_dict().keys() == {"level", "attacks"}
    assert [result.as_dict() for result in told] == report.as_dict()["attacks"]
    by_name = {row["name"]: (row["outcome"], row["layer"]) for row in report.as_dict()["attacks"]}
    shadow = "namespaces" if "namespaces" in report.layers else "landlock"
    assert by_name == {"etc-shadow": ("unix", shadow), "huge-frame": ("stopped", "host")}
