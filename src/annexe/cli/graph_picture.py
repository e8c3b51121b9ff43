"""What is drawn of the graph of requirements, and Graphviz's DOT of it.

Pure. Boxes in columns by the wave in which they start, what is not there first and what was not taken up last; an arrow leads from a plugin
to what it requires.

* Names and reasons are plugins' authors': nothing of them ends a quoted text, or reaches a terminal or a page unescaped.

Source: features CL1 and SV2; docs/reference/control.md, ``graph``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from annexe.cli.terminal import safe

__all__ = ["Arrow", "Box", "Picture", "as_dot", "given_by", "picture_of", "requirement_text"]

_STATE_COLOURS = {"ready": "#2e7d32", "degraded": "#b26a00", "backing-off": "#b26a00", "blocked": "#b71c1c", "quarantined": "#b71c1c"}
_PLAIN, _BAD, _WARNING = "#546e7a", "#b71c1c", "#b26a00"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A plugin, or something that is not there.

    Attributes:
        key: Unlike that of any other box.
        lines: What stands in it; the first is its name.
        colour: Of its frame, as ``#rrggbb``.
        column: From 0.
        is_there: It is a plugin.
        note: More of it, for who points at it.
    """

    key: str
    lines: tuple[str, ...]
    colour: str
    column: int
    is_there: bool
    note: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Arrow:
    """What one box requires of another.

    Attributes:
        start: Key of the box that requires.
        end: Key of the box that is required.
        colour: As ``#rrggbb``.
        is_dashed: It is optional.
        note: Which requirements these are.
    """

    start: str
    end: str
    colour: str
    is_dashed: bool
    note: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """All of it.

    Attributes:
        columns: Their headings.
        summary: In one line.
    """

    columns: tuple[str, ...]
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    summary: str


def requirement_text(requirement: Mapping[str, Any]) -> str:
    """Return a requirement in words: ``service tokenizer >=1,<2 (optional)``."""
    words = (requirement["kind"], requirement["name"], requirement["version"], "(optional)" if requirement["optional"] else "")
    return " ".join(word for word in words if word)


def given_by(requirement: Mapping[str, Any]) -> str:
    """Return who meets a requirement; where nobody does, what is there instead."""
    if requirement["providers"]:
        return ", ".join(requirement["providers"])
    return ", ".join(f"{plugin} has {version}" for plugin, version in requirement["others"].items()) or "nobody"


def picture_of(told: Mapping[str, Any]) -> Picture:
    """Return what is to be drawn.

    Args:
        told: What the control method ``graph`` answers.
    """
    known = {one["id"] for one in told["plugins"]}
    requirements = [one for one in told["requirements"] if one["plugin"] in known]
    lacking = [one for one in requirements if not one["providers"]]
    waves = max((one["wave"] or 0 for one in told["plugins"]), default=0)
    columns = ["not there"] * bool(lacking) + [f"wave {number}" for number in range(1, waves + 1)]
    first = len(columns) - waves
    if any(one["wave"] is None for one in told["plugins"]):
        columns.append("not taken up")
    places = {one["id"]: len(columns) - 1 if one["wave"] is None else first + one["wave"] - 1 for one in told["plugins"]}
    boxes = [*_lacks(lacking), *(_plugin_box(one, places[one["id"]]) for one in told["plugins"])]
    count = f"{_counted(len(known), 'plugin')}, {_counted(len(requirements), 'requirement')}"
    summary = f"{count}, {len(lacking)} of them not met" if lacking else count
    arrows = _arrows(requirements, told["refused"], known)
    return Picture(columns=tuple(columns), boxes=tuple(boxes), arrows=tuple(arrows), summary=summary)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _plugin_box(plugin: Mapping[str, Any], column: int) -> Box:
    state = plugin["state"]
    lines = (plugin["id"], f"{plugin['version']} {state}".strip())
    note = f"{plugin['id']} {plugin['version']} is {state}: {plugin['reason']}"
    colour = _STATE_COLOURS.get(state, _PLAIN)
    return Box(key=_plugin_key(plugin["id"]), lines=lines, colour=colour, column=column, is_there=True, note=note)


def _lacks(lacking: Sequence[Mapping[str, Any]]) -> list[Box]:
    by_key: dict[str, list[Mapping[str, Any]]] = {}
    for one in lacking:
        by_key.setdefault(_lack_key(one), []).append(one)
    boxes = []
    for key, ones in by_key.items():
        one = ones[0]
        there = "missing" if one["status"] == "missing" else given_by(one)
        lines = (f"{one['kind']} {one['name']}", f"{one['version']} {there}".strip())
        colour = _WARNING if all(other["optional"] for other in ones) else _BAD
        note = f"{one['kind']} {one['name']} {one['version']}".rstrip() + f" is not there: {given_by(one)}"
        boxes.append(Box(key=key, lines=lines, colour=colour, column=0, is_there=False, note=note))
    return boxes


def _arrows(requirements: Sequence[Mapping[str, Any]], refused: Sequence[Mapping[str, Any]], known: set[str]) -> list[Arrow]:
    between: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for one in requirements:
        ends = [_plugin_key(provider) for provider in one["providers"] if provider in known] if one["providers"] else [_lack_key(one)]
        for end in ends:
            between.setdefault((_plugin_key(one["plugin"]), end), []).append(one)
    arrows = []
    for (start, end), ones in between.items():
        statuses = {one["status"] for one in ones}
        is_dashed = all(one["optional"] for one in ones)
        bad = _WARNING if is_dashed else _BAD
        colour = bad if statuses & {"missing", "conflict"} else _WARNING if "down" in statuses else _PLAIN
        note = "; ".join(f"{one['plugin']} requires {requirement_text(one)}: {one['status']}" for one in ones)
        arrows.append(Arrow(start=start, end=end, colour=colour, is_dashed=is_dashed, note=note))
    rings = {pair: one["reason"] for one in refused for pair in zip(one["path"], one["path"][1:], strict=False)}
    for (one, other), why in rings.items():
        if one != other and {one, other} <= known:
            arrows.append(Arrow(start=_plugin_key(one), end=_plugin_key(other), colour=_BAD, is_dashed=False, note=why))
    return arrows


def _plugin_key(plugin: str) -> str:
    return f"plugin {plugin}"


def _lack_key(requirement: Mapping[str, Any]) -> str:
    return f"lack {requirement['kind']} {requirement['name']} {requirement['version']} {requirement['status']}"


def as_dot(picture: Picture) -> str:
    """Return Graphviz's DOT, columns from left to right."""
    lines = [
        "digraph annexe {",
        f"  graph [rankdir=RL, ranksep=1.2, label={_quoted(picture.summary)}];",
        '  node [shape=box, style=rounded, fontname="sans-serif"];',
    ]
    for number, heading in enumerate(picture.columns):
        lines.append(f"  subgraph {_quoted(heading)} {{\n    rank=same;")
        for box in (box for box in picture.boxes if box.column == number):
            label = "\\n".join(_quoted(line)[1:-1] for line in box.lines)
            style = "" if box.is_there else ", style=dashed"
            lines.append(f'    {_node(box.key)} [label="{label}", color="{box.colour}", tooltip={_quoted(box.note)}{style}];')
        lines.append("  }")
    for arrow in picture.arrows:
        style = ", style=dashed" if arrow.is_dashed else ""
        lines.append(f'  {_node(arrow.start)} -> {_node(arrow.end)} [color="{arrow.colour}", tooltip={_quoted(arrow.note)}{style}];')
    return "\n".join([*lines, "}", ""])


def _node(key: str) -> str:
    return _quoted(key.removeprefix("plugin "))


def _quoted(text: str) -> str:
    """Return a text in quotes; Graphviz reads backslashes, and names of characters as HTML has them."""
    return '"' + safe(text).replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;") + '"'
