"""What is drawn of the graph of requirements, and that strangers' names do no harm there."""

from __future__ import annotations

import random
import re
from typing import Any
from xml.etree import ElementTree

import pytest

from annexe.cli.graph_picture import Picture, as_dot, given_by, picture_of, requirement_text
from annexe.cli.graph_svg import as_svg

SVG = "{http://www.w3.org/2000/svg}"
NASTY = 'x"];</title><script>alert(1)</script>&amp;\\" -> \\\x1b[2J\n\u202e\ud800'


def plugin(name: str, wave: int | None = 1, *, state: str = "ready", version: str = "1.0.0", reason: str = "so") -> dict[str, Any]:
    return {"id": name, "version": version, "state": state, "reason": reason, "wave": wave}


def need(
    name: str,
    service: str,
    *providers: str,
    status: str = "met",
    optional: bool = False,
    version: str = "",
    kind: str = "service",
    others: dict[str, str] | None = None,
) -> dict[str, Any]:
    return {
        "plugin": name,
        "kind": kind,
        "name": service,
        "version": version,
        "optional": optional,
        "status": status,
        "providers": list(providers),
        "others": others or {},
    }


def told(*parts: dict[str, Any]) -> dict[str, Any]:
    """Return what a host would tell."""
    return {
        "plugins": [one for one in parts if "wave" in one],
        "requirements": [one for one in parts if "providers" in one],
        "refused": [one for one in parts if "path" in one],
    }


def arrows(picture: Picture) -> list[tuple[str, str, str, bool]]:
    names = {"#546e7a": "plain", "#b26a00": "warning", "#b71c1c": "bad"}
    return [(one.start, one.end, names[one.colour], one.is_dashed) for one in picture.arrows]


def placed(picture: Picture) -> dict[str, str]:
    return {box.key: picture.columns[box.column] for box in picture.boxes}


RING = {"plugin": "ring", "reason": "plugin 'ring' is refused", "path": ["ring", "top", "ring"]}


def everything() -> dict[str, Any]:
    return told(
        plugin("base"),
        plugin("spare", state="degraded"),
        plugin("mid", 2),
        plugin("top", 3, state="blocked"),
        plugin("ring", None, state="blocked"),
        need("mid", "words", "base", "spare"),
        need("mid", "base", "base", kind="plugin", version=">=1"),
        need("mid", "late", "top", optional=True),
        need("base", "side", "spare", optional=True),
        need("top", "words", "base", status="down"),
        need("top", "gone", status="missing"),
        need("mid", "gone", status="missing", optional=True),
        need("mid", "maybe", status="missing", optional=True),
        need("top", "old", status="conflict", version=">=2", others={"base": "1.0.0"}),
        RING,
    )


def test_picture_puts_plugins_by_wave_between_what_is_missing_and_what_was_refused() -> None:
    picture = picture_of(everything())
    assert picture.columns == ("not there", "wave 1", "wave 2", "wave 3", "not taken up")
    assert placed(picture) == {
        "lack service gone  missing": "not there",
        "lack service maybe  missing": "not there",
        "lack service old >=2 conflict": "not there",
        "plugin base": "wave 1",
        "plugin spare": "wave 1",
        "plugin mid": "wave 2",
        "plugin top": "wave 3",
        "plugin ring": "not taken up",
    }
    assert picture.summary == "5 plugins, 9 requirements, 4 of them not met"
    assert {box.lines for box in picture.boxes if not box.is_there} == {
        ("service gone", "missing"),
        ("service maybe", "missing"),
        ("service old", ">=2 base has 1.0.0"),
    }
    assert [box.colour for box in picture.boxes if not box.is_there] == ["#b71c1c", "#b26a00", "#b71c1c"]


def test_arrows_lead_to_what_is_required_and_tell_how_it_is() -> None:
    picture = picture_of(everything())
    assert arrows(picture) == [
        ("plugin mid", "plugin base", "plain", False),  # two requirements, one arrow
        ("plugin mid", "plugin spare", "plain", False),
        ("plugin mid", "plugin top", "plain", True),
        ("plugin base", "plugin spare", "plain", True),
        ("plugin top", "plugin base", "warning", False),
        ("plugin top", "lack service gone  missing", "bad", False),
        ("plugin mid", "lack service gone  missing", "warning", True),
        ("plugin mid", "lack service maybe  missing", "warning", True),
        ("plugin top", "lack service old >=2 conflict", "bad", False),
        ("plugin ring", "plugin top", "bad", False),
        ("plugin top", "plugin ring", "bad", False),
    ]
    assert picture.arrows[0].note == "mid requires service words: met; mid requires plugin base >=1: met"


def test_what_is_known_of_no_plugin_is_left_out() -> None:
    picture = picture_of(
        told(
            plugin("a"),
            need("going", "words", "a"),
            need("a", "words", "going"),
            {"plugin": "a", "reason": "no", "path": ["a", "a"]},
            {"plugin": "a", "reason": "no", "path": ["a", "gone", "a"]},
        )
    )
    assert (picture.columns, placed(picture), picture.arrows) == (("wave 1",), {"plugin a": "wave 1"}, ())
    assert picture.summary == "1 plugin, 1 requirement"


@pytest.mark.parametrize(
    ("requirement", "words", "given"),
    [
        pytest.param(need("a", "s", "b", "c", version=">=1,<2"), "service s >=1,<2", "b, c", id="met"),
        pytest.param(need("a", "s", optional=True, others={"b": "1.0.0"}), "service s (optional)", "b has 1.0.0", id="conflict"),
        pytest.param(need("a", "p", kind="plugin"), "plugin p", "nobody", id="missing"),
    ],
)
def test_requirement_is_put_in_words(requirement: dict[str, Any], words: str, given: str) -> None:
    assert (requirement_text(requirement), given_by(requirement)) == (words, given)


def test_dot_has_a_rank_for_each_column() -> None:
    lines = as_dot(picture_of(told(plugin("a"), plugin("b", 2), need("b", "s", "a", optional=True), need("b", "t", status="missing"))))
    assert lines == (
        "digraph annexe {\n"
        '  graph [rankdir=RL, ranksep=1.2, label="2 plugins, 2 requirements, 1 of them not met"];\n'
        '  node [shape=box, style=rounded, fontname="sans-serif"];\n'
        '  subgraph "not there" {\n    rank=same;\n'
        '    "lack service t  missing" [label="service t\\nmissing", color="#b71c1c", tooltip="service t is not there: nobody"'
        ", style=dashed];\n"
        '  }\n  subgraph "wave 1" {\n    rank=same;\n'
        '    "a" [label="a\\n1.0.0 ready", color="#2e7d32", tooltip="a 1.0.0 is ready: so"];\n'
        '  }\n  subgraph "wave 2" {\n    rank=same;\n'
        '    "b" [label="b\\n1.0.0 ready", color="#2e7d32", tooltip="b 1.0.0 is ready: so"];\n'
        "  }\n"
        '  "b" -> "a" [color="#546e7a", tooltip="b requires service s (optional): met", style=dashed];\n'
        '  "b" -> "lack service t  missing" [color="#b71c1c", tooltip="b requires service t: missing"];\n'
        "}\n"
    )


def nasty() -> Picture:
    return picture_of(
        told(
            plugin(NASTY, 1, state=NASTY, version=NASTY, reason=NASTY),
            plugin("b", 2),
            need("b", NASTY, NASTY, version=NASTY),
            need("b", NASTY, status="conflict", others={NASTY: NASTY}, kind=NASTY),
        )
    )


def test_nothing_of_a_name_ends_a_quoted_text_in_dot() -> None:
    dot = as_dot(nasty())
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e\ud800]", dot)
    bare = re.sub(r'"(?:\\.|[^"\\])*"', "T", dot)  # as Graphviz reads them: no quoted text ends early, or goes on over a line
    for line in bare.splitlines():
        assert re.fullmatch(r"[\w\s{}\[\]=,;.>T-]*", line), line
        assert "script" not in line and "alert" not in line
    assert "&amp;amp;" in dot


def test_names_are_text_alone_in_svg() -> None:
    svg = as_svg(nasty())
    root = ElementTree.fromstring(svg)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} == {"svg", "title", "style", "marker", "path", "rect", "text", "g"}
    attributes = {name for element in root.iter() for name in element.attrib}
    assert not [name for name in attributes if name.startswith("on") or "href" in name]
    titles = [element.text or "" for element in root.iter(f"{SVG}title")]
    assert any('x"];</title><script>alert(1)</script>&amp;\\" -> \\\\x1b[2J\\n\\u202e\\ud800' in title for title in titles)
    assert svg.isascii() or "…" in svg


def positions(svg: str) -> list[tuple[str, float, float, float]]:
    """Return name, left, top and width of each box."""
    found = []
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        rect, name = group.find(f"{SVG}rect"), group.find(f"{SVG}text")
        assert rect is not None and name is not None
        found.append((name.text or "", float(rect.attrib["x"]), float(rect.attrib["y"]), float(rect.attrib["width"])))
    return found


def test_svg_shows_every_box_and_arrow_once() -> None:
    picture = picture_of(everything())
    svg = as_svg(picture)
    root = ElementTree.fromstring(svg)
    assert sorted(name for name, *_ in positions(svg)) == sorted(box.lines[0] for box in picture.boxes)
    paths = [path for path in root.iter(f"{SVG}path") if path.attrib.get("class")]
    assert [path.attrib["class"] == "arrow optional" for path in paths] == [arrow.is_dashed for arrow in picture.arrows]
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert {"Plugins and what they require", *picture.columns} <= set(texts)
    assert root.attrib["role"] == "img"


def test_svg_of_nothing_is_one() -> None:
    root = ElementTree.fromstring(as_svg(picture_of(told())))
    assert root.attrib["width"] == "640"


def test_long_names_are_cut_and_told_whole_in_the_note() -> None:
    svg = as_svg(picture_of(told(plugin("a" * 64))))
    assert f"{'a' * 33}…</text>" in svg and f"{'a' * 64} 1.0.0 is ready" in svg


@pytest.mark.parametrize("seed", range(5))
def test_boxes_of_many_plugins_lie_apart_by_wave_and_in_the_picture(seed: int) -> None:
    chance = random.Random(seed)
    waves = {f"p{number}": 1 + number // 12 for number in range(100)}
    plugins = [plugin(name, wave) for name, wave in waves.items()]
    needs = [
        need(one, f"s-{one}-{other}", other) for one in waves for other in chance.sample(sorted(waves), 2) if waves[other] < waves[one]
    ]
    svg = as_svg(picture_of(told(*plugins, *needs)))
    root = ElementTree.fromstring(svg)
    boxes = positions(svg)
    assert len(boxes) == 100
    for name, left, top, width in boxes:
        assert left >= 0 and top >= 0
        assert left + width <= float(root.attrib["width"]) and top + 42 <= float(root.attrib["height"])
        for other, other_left, other_top, other_width in boxes:
            if waves[name] < waves[other]:
                assert left + width + 50 < other_left
            elif name < other and waves[name] == waves[other]:
                assert (left, width) == (other_left, other_width) and abs(top - other_top) >= 50


def test_arrows_cross_less_than_they_would_by_name() -> None:
    # Four pairs, one under the other in the opposite order of their names: put in order, no arrow crosses another.
    parts = [part for number in range(4) for part in (plugin(f"a{number}"), plugin(f"b{3 - number}", 2))]
    needs = [need(f"b{3 - number}", f"s{number}", f"a{number}") for number in range(4)]
    heights = {name: top for name, _, top, _ in positions(as_svg(picture_of(told(*parts, *needs))))}
    assert all(heights[f"a{number}"] == heights[f"b{3 - number}"] for number in range(4))
