"""Hiding and restoring, also in pieces."""

from __future__ import annotations

import pytest
from pii_redactor.detect import KINDS
from pii_redactor.placeholders import MAX_STATE_BYTES, Hider, Restorer, restore


def test_hide_of_the_same_value_twice_gives_the_same_placeholder() -> None:
    hider = Hider(KINDS, [])
    assert hider.hide("a@example.org b@example.org a@example.org") == "[EMAIL_1] [EMAIL_2] [EMAIL_1]"
    assert hider.hide("b@example.org") == "[EMAIL_2]"
    assert hider.values == {"[EMAIL_1]": "a@example.org", "[EMAIL_2]": "b@example.org"}


def test_hide_never_gives_out_a_placeholder_that_the_text_holds() -> None:
    hider = Hider(KINDS, ["what is [EMAIL_1]? and [EMAIL_2]?"])
    assert hider.hide("a@example.org") == "[EMAIL_3]"


def test_hide_of_more_than_the_state_holds_still_hides_all() -> None:
    hider = Hider(KINDS, [])
    text = hider.hide(" ".join(f"somebody-{number}@example.org" for number in range(5_000)))
    assert "@" not in text
    assert hider.count == 5_000
    assert hider.forgotten == 5_000 - len(hider.values) > 0
    assert sum(len(key) + len(value) for key, value in hider.values.items()) < MAX_STATE_BYTES


def test_restore_leaves_unknown_placeholders_alone() -> None:
    assert restore("[EMAIL_1] [EMAIL_2] [X] [", {"[EMAIL_1]": "a@example.org"}) == "a@example.org [EMAIL_2] [X] ["


VALUES = {"[EMAIL_1]": "a@example.org", "[EMAIL_12]": "b@example.org", "[CARD_1]": "4111 1111 1111 1111"}
TEXT = "x [EMAIL_1][EMAIL_12] [[CARD_1]] [EMAIL_3] [EMAIL [1] [ end ["


@pytest.mark.parametrize("size", range(1, len(TEXT) + 1))
def test_restorer_with_text_cut_anywhere_gives_the_same_as_in_one_piece(size: int) -> None:
    restorer = Restorer(VALUES)
    pieces = [restorer.feed(TEXT[start : start + size]) for start in range(0, len(TEXT), size)]
    assert "".join(pieces) + restorer.flush() == restore(TEXT, VALUES)


@pytest.mark.parametrize(
    ("piece", "shown"),
    [
        ("hello", "hello"),
        ("see [EM", "see "),
        ("see [EX", "see [EX"),
        ("a[1] ", "a[1] "),
        ("[", ""),
        ("[EMAIL_3", "[EMAIL_3"),
        ("[[CARD", "["),
    ],
)
def test_restorer_holds_back_only_what_may_become_a_placeholder(piece: str, shown: str) -> None:
    assert Restorer(VALUES).feed(piece) == shown


def test_restorer_flush_gives_what_never_became_one() -> None:
    restorer = Restorer(VALUES)
    assert restorer.feed("see [EMAIL_") == "see "
    assert restorer.flush() == "[EMAIL_"
    assert restorer.flush() == ""
