"""What strangers wrote does no harm on a terminal."""

from __future__ import annotations

import json

import pytest

from annexe.cli.terminal import error_text, json_text, print_json, print_table, print_text, safe

NASTY = "a\x1b[2Jb\nc\u202ed\u200be\x9bf\x07"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, größer: ok 中", "plain text, größer: ok 中"),
        (NASTY, "a\\x1b[2Jb\\nc\\u202ed\\u200be\\x9bf\\x07"),
        ("\ud800", "\\ud800"),
        ("tab\there", "tab\\there"),
        (None, ""),
        (7, "7"),
    ],
)
def test_unprintable_characters_are_escaped(text: object, shown: str) -> None:
    assert safe(text) == shown


def test_every_way_to_the_terminal_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    print_text(f"first\nsecond {NASTY}")
    print_table(("ONE", "TWO"), [(NASTY, "x"), ("y", NASTY)])
    print_json({"text": NASTY})
    out = capsys.readouterr().out
    assert out.replace("\n", "").isascii()
    assert not any(char in out for char in "\x1b\u202e\u200b\x9b\x07")
    assert error_text(f"it failed\n  {NASTY}").count("\n") == 2


def test_table_without_a_terminal_is_plain_columns(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("ID", "STATE"), [("a-long-one", "ready"), ("b", "blocked")])
    assert capsys.readouterr().out == "ID          STATE\na-long-one  ready\nb           blocked\n"


def test_json_is_one_line_of_ascii() -> None:
    text = json_text({"text": NASTY})
    assert text.isascii() and "\n" not in text
    assert json.loads(text) == {"text": NASTY}
