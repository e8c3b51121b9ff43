"""Receipts say what was done, and no more."""

from __future__ import annotations

import json

import pytest

from annexe.errors import SandboxError
from annexe.sandbox.levels import IsolationLevel
from annexe.sandbox.receipt import Layer, Receipt, receipt_for

LAYERS = (Layer("rlimits", "on"), Layer("parent-death signal", "soft", "cleared by exec of a set-uid program"))


def make(level: IsolationLevel = IsolationLevel.LIMITS, *, own_uid: bool = False, in_process: bool = False) -> Receipt:
    return receipt_for(level, uid=64001 if own_uid else None, own_uid=own_uid, layers=LAYERS, in_process=in_process)


def test_receipt_same_uid_names_token_state_directory_and_signals() -> None:
    words = " ".join(make().notes)
    assert all(word in words for word in ("state directory", "token", "signal", "trace", "network", "every system call", "outlive"))


def test_receipt_own_uid_does_not_claim_the_token_is_readable() -> None:
    words = " ".join(make(own_uid=True).notes)
    assert "token" not in words
    assert "user of its own" in words


def test_receipt_tree_kill_is_hard_only_with_a_user_of_its_own() -> None:
    assert (make(own_uid=True).tree_kill, make().tree_kill) == ("hard", "soft")
    assert "outlive" not in " ".join(make(own_uid=True).notes)


def test_receipt_at_none_says_that_nothing_is_limited() -> None:
    assert "Nothing limits the memory, processes or files it takes." in make(IsolationLevel.NONE).notes
    assert "Nothing limits the memory, processes or files it takes." not in make().notes


def test_receipt_in_process_says_that_it_can_do_all() -> None:
    receipt = make(IsolationLevel.NONE, in_process=True)
    assert receipt.notes == ("It runs inside the host's own process: it can do all that the host can, and its crash is the host's.",)
    assert receipt.tree_kill == "none"


def test_receipt_of_an_unachieved_level_is_refused() -> None:
    with pytest.raises(SandboxError) as caught:
        make(IsolationLevel.FULL)
    assert caught.value.data == {"level": "full"}


def test_receipt_as_dict_survives_json() -> None:
    facts = json.loads(json.dumps(make(own_uid=True).as_dict()))
    assert facts["level"] == "limits"
    assert facts["uid"] == 64001
    assert facts["tree_kill"] == "hard"
    assert make(own_uid=False).as_dict()["tree_kill"] == "soft"
    assert facts["layers"][0] == {"name": "rlimits", "state": "on", "detail": ""}
    assert facts["rights"]["network"]["state"] == "not enforced"
    assert facts["notes"] == list(make(own_uid=True).notes)


def test_receipt_as_text_shows_layers_rights_and_notes() -> None:
    lines = make().as_text().splitlines()
    assert lines[:3] == ["level: limits", "uid: -", "tree kill: soft"]
    assert "  rlimits: on" in lines
    assert "  parent-death signal: soft (cleared by exec of a set-uid program)" in lines
    assert "  data: not available (no private folder is made yet)" in lines
    assert lines[-1].startswith("  - ")
    assert "uid: 64001" in make(own_uid=True).as_text()
