from __future__ import annotations

import unicodedata

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annexe.record.safetext import clipped, escaped


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("\x1b[2J\x1b]52;c;ZXZpbA==\x07", "\\x1b[2J\\x1b]52;c;ZXZpbA==\\x07", id="terminal-escape"),
        pytest.param("ok\n2025 host ERROR forged\r", "ok\\n2025 host ERROR forged\\r", id="line-break"),
        pytest.param("\x9b31m", "\\x9b31m", id="C1"),
        pytest.param("a\u2028b\u2029c\x85d", "a\\u2028b\\u2029c\\x85d", id="separators"),
        pytest.param("\u202eevil\u2066x\u200f", "\\u202eevil\\u2066x\\u200f", id="bidi"),
        pytest.param("\ufeff\u200b\u2060", "\\ufeff\\u200b\\u2060", id="invisible"),
        pytest.param("\ud800", "\\ud800", id="surrogate"),
        pytest.param("\U000e0041", "\\U000e0041", id="tag"),
        pytest.param("\x00\x7f", "\\x00\\x7f", id="nul-del"),
    ],
)
def test_escaped_hostile_text_is_shown_as_what_it_is(text: str, expected: str) -> None:
    assert escaped(text) == expected


@pytest.mark.parametrize("text", ["", "plain", "tab\there", "Grüße, 世界 👩\u200d💻", "a\u00a0b", "back\\slash \\x1b"])
def test_escaped_harmless_text_stays(text: str) -> None:
    assert escaped(text) == text


@given(st.text(alphabet=st.characters(codec=None)))
def test_escaped_text_holds_nothing_that_steers_a_terminal(text: str) -> None:
    safe = escaped(text)
    assert not [char for char in safe if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") and char != "\t"]
    assert not [char for char in safe if unicodedata.bidirectional(char) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")]
    assert escaped(safe) == safe
    assert len(safe.splitlines()) <= 1


def test_escaped_alternating_hostile_text_is_safe_and_past_a_bound_escaped_in_one_go() -> None:
    safe = escaped("é\x1b" * 1500)
    assert safe == "é\\x1b" * 1000 + "\\xe9\\x1b" * 500


@pytest.mark.parametrize(
    ("text", "limit", "kept", "cut_bytes"),
    [
        pytest.param("short", 100, "short", 0, id="fits-at-a-glance"),
        pytest.param("exactly", 7, "exactly", 0, id="fits-exactly"),
        pytest.param("exactly!", 7, "exactly", 1, id="one-over"),
        pytest.param('a"b', 3, 'a"', 1, id="quote-takes-two"),
        pytest.param('a"b', 2, "a", 2, id="never-half-an-escape"),
        pytest.param("\\\\\\", 5, "\\\\", 1, id="backslashes"),
        pytest.param("aé", 2, "a", 2, id="never-half-a-character"),
        pytest.param("abc", 0, "", 3, id="nothing"),
    ],
)
def test_clipped_text_is_cut_at_a_whole_character(text: str, limit: int, kept: str, cut_bytes: int) -> None:
    assert clipped(text, limit) == (kept, cut_bytes)


@given(st.text(alphabet=st.characters(codec=None)), st.integers(0, 200))
def test_clipped_text_fits_and_every_byte_is_accounted_for(text: str, limit: int) -> None:
    safe = escaped(text)
    kept, cut_bytes = clipped(safe, limit)
    assert len(msgspec.json.encode(kept)) - 2 <= limit
    assert safe.startswith(kept)
    assert len(kept.encode()) + cut_bytes == len(safe.encode())
