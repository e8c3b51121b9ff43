"""Receipts say what was done, and no more."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from annexe.sandbox import Walls
from annexe.sandbox.receipt import Lack, Layer, Receipt, TreeKill, receipt_for
from tests.unit.sandbox.walls import BY_HAND, BY_LEVEL, FULL, INSIDE, LANDLOCK, LIMITS, NAMESPACES, NONE, OWN_USER, PARTIAL

LAYERS = (
    Layer("rlimits", "on", confirmed=True),
    Layer("system calls", "on", "5 filters", confirmed=True),
    Layer("parent-death signal", "soft", "cleared by exec of a set-uid program"),
)


def make(walls: Walls = LIMITS, *, tree_kill: TreeKill = "soft", lacks: tuple[Lack, ...] = ()) -> Receipt:
    return receipt_for(walls, uid=64001 if walls.own_uid else None, layers=LAYERS, tree_kill=tree_kill, lacks=lacks)


def words(walls: Walls, tree_kill: TreeKill = "hard") -> str:
    return " ".join(make(walls, tree_kill=tree_kill).notes)


def test_receipt_same_uid_names_token_state_directory_and_signals() -> None:
    told = words(LIMITS, "soft")
    assert all(word in told for word in ("state directory", "token", "signal", "trace", "network", "every system call", "outlive"))


def test_receipt_own_uid_does_not_claim_the_token_is_readable() -> None:
    assert "token" not in words(OWN_USER)
    assert "user of its own" in words(OWN_USER)


def test_receipt_of_a_hard_tree_kill_does_not_speak_of_children_that_live_on() -> None:
    assert "outlive" not in words(OWN_USER, "hard")


def test_receipt_at_none_says_that_nothing_is_limited() -> None:
    assert "Nothing limits the memory, processes or files it takes." in make(NONE).notes
    assert "Nothing limits the memory, processes or files it takes." not in make().notes
    assert "Nothing limits the files it opens, or their size." in make(Walls(cgroup=FULL.cgroup)).notes


def test_receipt_at_full_promises_files_processes_network_and_calls_and_nothing_of_the_kernel() -> None:
    notes = make(FULL, tree_kill="hard").notes
    assert notes[0] == "For untrusted code: but for what was granted, the files, processes and network of others are out of its reach."
    assert len(notes) == 2
    assert "kernel is shared" in notes[1]


@pytest.mark.parametrize(
    ("walls", "word"),
    [
        pytest.param(NAMESPACES, "One wall", id="no landlock"),
        pytest.param(LANDLOCK, "shares the list of processes", id="no namespaces"),
        pytest.param(PARTIAL, "does not keep signals in", id="an older landlock"),
        pytest.param(replace(PARTIAL, seccomp=False), "no filter stands", id="no filter"),
        pytest.param(replace(FULL, cgroup=frozenset()), "memory limit is soft", id="no control group"),
        pytest.param(replace(FULL, cgroup=frozenset({"memory"})), "take every processor", id="a control group without processors"),
    ],
)
def test_receipt_says_which_wall_is_missing(walls: Walls, word: str) -> None:
    assert word in words(walls)
    assert word not in words(FULL)


@pytest.mark.parametrize("walls", [PARTIAL, replace(LIMITS, seccomp=True)], ids=["an older landlock", "filters alone"])
def test_receipt_of_filters_does_not_say_that_files_and_signals_are_refused(walls: Walls) -> None:
    told = words(walls)
    assert "It shares the list of processes" in told and "It can signal" in told
    assert "refused" not in told


def test_receipt_of_full_promises_nothing_about_what_was_granted() -> None:
    assert make(FULL, tree_kill="hard").notes[0].startswith("For untrusted code: but for what was granted,")


def test_receipt_at_limits_does_not_say_that_mistakes_stay_in_the_plugin() -> None:
    assert "mistakes" not in words(LIMITS)


def test_receipt_in_process_says_that_it_can_do_all() -> None:
    receipt = make(INSIDE, tree_kill="none")
    assert receipt.notes == ("It runs inside the host's own process: it can do all that the host can, and its crash is the host's.",)
    assert receipt.level == "none"


def test_receipt_of_a_process_started_by_hand_does_not_say_that_it_is_inside_the_host() -> None:
    receipt = make(BY_HAND, tree_kill="none")
    assert receipt.level == "none"
    assert len(receipt.notes) == 1
    assert "started by hand, and can do all that its user can" in receipt.notes[0]
    assert "inside the host" not in words(BY_HAND, "none")


def test_receipt_has_the_level_of_its_walls() -> None:
    assert {level: str(make(walls).level) for level, walls in BY_LEVEL.items()} == {level: level for level in BY_LEVEL}


def test_receipt_as_dict_survives_json() -> None:
    facts = json.loads(json.dumps(make(OWN_USER, tree_kill="hard", lacks=(Lack("namespaces", "no bwrap", "install it"),)).as_dict()))
    assert facts["level"] == "limits"
    assert facts["uid"] == 64001
    assert facts["tree_kill"] == "hard"
    assert facts["layers"][0] == {"name": "rlimits", "state": "on", "detail": "", "confirmed": True}
    assert facts["rights"]["network"]["state"] == "not enforced"
    assert facts["notes"] == list(make(OWN_USER, tree_kill="hard").notes)
    assert facts["lacks"] == [{"wall": "namespaces", "why": "no bwrap", "cure": "install it"}]


def test_receipt_as_text_shows_layers_rights_and_notes() -> None:
    lines = make().as_text().splitlines()
    assert lines[:3] == ["level: limits", "uid: -", "tree kill: soft"]
    assert "  rlimits: on (as the kernel says)" in lines
    assert "  system calls: on (5 filters, as the kernel says)" in lines
    assert "  parent-death signal: soft (cleared by exec of a set-uid program)" in lines
    assert "  secrets: not available (no secret store yet)" in lines
    assert lines[-1].startswith("  - ")
    assert "uid: 64001" in make(OWN_USER).as_text()
    assert "not to be had on this machine:" not in lines


def test_receipt_as_text_shows_what_is_lacking_and_its_cure() -> None:
    text = make(lacks=(Lack("namespaces", "no bwrap", "install it"), Lack("seccomp", "no filters"))).as_text()
    assert "not to be had on this machine:\n  namespaces: no bwrap (install it)\n  seccomp: no filters\n" in text
