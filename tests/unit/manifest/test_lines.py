"""Where keys are."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annexe.manifest.lines import MAX_KEY_PARTS, KeyPath, key_lines, line_of, line_of_long_key

FULL = (Path(__file__).parent / "full.toml").read_text()


def paths_of(value: object, path: KeyPath = ()) -> set[KeyPath]:
    """Every key path below a parsed value."""
    if isinstance(value, dict):
        below = [((*path, key), item) for key, item in value.items()]
    elif isinstance(value, list):
        below = [((*path, index), item) for index, item in enumerate(value)]
    else:
        return set()
    return {found for found, _ in below}.union(*(paths_of(item, found) for found, item in below))


def test_key_lines_of_a_full_manifest_point_at_the_key() -> None:
    lines = FULL.splitlines()
    found = key_lines(FULL)
    assert set(found) == paths_of(tomllib.loads(FULL))
    for path, line in found.items():
        name = next(part for part in reversed(path) if isinstance(part, str))
        assert name in lines[line - 1]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a = 1\r\nb = 2\r\n", id="crlf"),
        pytest.param('a = """\none = 1\n[x]\n"quoted" """\nb = 2', id="multi-line string"),
        pytest.param("a = '''\none = 1 '' \n'''\nb = 2", id="multi-line literal"),
        pytest.param('a = """two quotes at the end"""""\nb = 1', id="quotes at the end of a string"),
        pytest.param("a = [\n  1, # one\n  [2.5,\n 3],\n  {x = {y = []}, z = 4},\n]\nb = {}", id="nested"),
        pytest.param('"a.b".\'c d\' = 1\n[ x . "y z" ] # note\nq.r = 2\nq.s = 3', id="dotted and quoted keys"),
        pytest.param('"\\u0061\\"" = 1', id="escapes in a key"),
        pytest.param("d = 1979-05-27T07:32:00.5Z\nf = +1.5e-3\nt = true", id="values with marks inside"),
        pytest.param('s = "a = 1 # [x]" # c = 2\n', id="marks in strings and comments"),
        pytest.param("", id="empty"),
    ],
)
def test_key_lines_know_every_key_path(text: str) -> None:
    assert set(key_lines(text)) == paths_of(tomllib.loads(text.replace("\r\n", "\n")))


def test_key_lines_of_nested_values_are_exact() -> None:
    found = key_lines("a = [\n  1, # one\n  {x = 2},\n]\n\n[t]\nb = '''\n\n'''\nc = 1\n")
    assert found == {("a",): 1, ("a", 0): 2, ("a", 1): 3, ("a", 1, "x"): 3, ("t",): 6, ("t", "b"): 7, ("t", "c"): 10}


def test_key_lines_of_an_array_of_tables_give_the_first() -> None:
    assert key_lines("\n[[a]]\nb = 1\n[[a]]\nb = 2") == {("a",): 2, ("a", "b"): 3}


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=30),
    st.text(st.sampled_from("ab[]{}=,.\"'#\n \\1"), max_size=40),
)
def test_key_lines_of_whatever_toml_accepts_know_its_keys(text: str, marks: str) -> None:
    for document in (text, marks, f"{marks}\nlast = 1"):
        try:
            parsed = tomllib.loads(document)
        except ValueError:
            continue
        if "[[" not in document:
            assert set(key_lines(document)) == paths_of(parsed)


def test_line_of_a_missing_key_is_that_of_its_nearest_parent() -> None:
    lines = key_lines("\n[plugin]\nid = 'x'")
    assert line_of(lines, ("plugin", "version")) == 2
    assert line_of(lines, ("runtime", "kind")) == 1
    assert line_of(lines, ()) == 1


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a = " + "[" * 30_000 + "]" * 30_000, id="arrays"),
        pytest.param("a." * 30_000 + "a = 1", id="dotted key"),
        pytest.param("[" + "a." * 30_000 + "a]\nb = 1", id="dotted header"),
        pytest.param("a = " + "{a = " * 10_000 + "1" + "}" * 10_000, id="inline tables"),
    ],
)
def test_key_lines_of_deep_nesting_stop_at_a_bound(text: str) -> None:
    found = key_lines(text)
    assert len(found) == 16
    assert max(map(len, found)) == 16


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\n" + "a." * MAX_KEY_PARTS + "b = 1", id="bare"),
        pytest.param("\n" + "'a' . " * MAX_KEY_PARTS + "b", id="quoted, spaced and cut off"),
        pytest.param("\n[" + '"a".' * MAX_KEY_PARTS + "b]", id="header"),
        pytest.param("x = 1.5\ny = {" + "a." * MAX_KEY_PARTS + "b = 1}", id="inline table"),
    ],
)
def test_line_of_long_key_is_found(text: str) -> None:
    assert line_of_long_key(text) == 2


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a." * (MAX_KEY_PARTS - 1) + "b = 1", id="longest allowed"),
        pytest.param("x = '" + "a." * 99 + "'", id="in a string"),
        pytest.param("# " + "a." * 99, id="in a comment"),
        pytest.param("x = [" + "1.5, " * 99 + "]\n" + "".join(f"a.b.c{n} = 1.5\n" for n in range(99)), id="many short ones"),
        pytest.param('x = "' + '\\"' * 30_000 + "." * MAX_KEY_PARTS, id="behind an error"),
    ],
)
def test_line_of_long_key_without_one_is_none(text: str) -> None:
    assert line_of_long_key(text) is None
