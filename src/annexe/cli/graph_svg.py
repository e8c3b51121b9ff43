"""The graph of requirements as an SVG that needs nothing beside itself.

Pure. Columns from left to right in the order in which plugins start. An arrow over several columns has a place of its own in each that it
passes, and boxes and places are put in order so that few arrows cross.

* Every text is escaped: what plugins' authors wrote is text and nothing else.

Source: features CL1 and SV2; the method is that of Sugiyama, Tagawa and Toda (1981), with barycentres.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import final

from annexe.cli.graph_picture import Arrow, Box, Picture
from annexe.cli.terminal import safe

__all__ = ["as_svg"]

# All in pixels.
_CHAR, _LINE, _MARGIN, _HEAD = 7.3, 16, 24, 84
_BOX_HEIGHT, _BOX_PITCH, _PASS_PITCH, _GAP = 42, 58, 16, 110
_MAX_CHARS = 34
_SWEEPS = 8

_Place = str | tuple[int, int]  # a box by its key, or where an arrow passes a column: the arrow's number and the column

_STYLE = """
  text { font: 12px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #263238; }
  .title { font: bold 18px "DejaVu Sans", sans-serif; } .name { font-weight: bold; }
  .summary, .heading { font: 13px "DejaVu Sans", sans-serif; fill: #546e7a; }
  .box rect { fill: #fff; stroke-width: 1.5; } .lack rect { stroke-dasharray: 3 3; fill: #fff8f6; }
  .arrow { fill: none; stroke-width: 1.4; stroke-opacity: .75; } .optional { stroke-dasharray: 6 4; }
  .arrow:hover { stroke-width: 3; stroke-opacity: 1; }
"""


def as_svg(picture: Picture) -> str:
    """Return the SVG document."""
    layout = _Layout(picture)
    size = f'width="{layout.width:.0f}" height="{layout.height:.0f}" viewBox="0 0 {layout.width:.0f} {layout.height:.0f}"'
    colours = sorted({arrow.colour for arrow in picture.arrows})
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title">',
        '<title id="title">Plugins and what they require</title>',
        f"<style>{_STYLE}</style>",
        *(
            f'<marker id="head-{colour[1:]}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0 0L10 5L0 10z" fill="{colour}"/></marker>'
            for colour in colours
        ),
        '<rect width="100%" height="100%" fill="#fff"/>',
        _text(_MARGIN, _MARGIN + 8, "Plugins and what they require", "title"),
        _text(_MARGIN, _MARGIN + 28, f"{picture.summary}. An arrow leads to what is required; dashed: optional.", "summary"),
        *(_text(layout.lefts[number], _HEAD - 8, heading, "heading") for number, heading in enumerate(picture.columns)),
        *(_arrow(arrow, layout.way(number)) for number, arrow in enumerate(picture.arrows)),
        *(_box(box, layout) for box in picture.boxes),
        "</svg>",
        "",
    ]
    return "\n".join(parts)


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{_escaped(text)}</text>'


def _arrow(arrow: Arrow, way: str) -> str:
    kind = "arrow optional" if arrow.is_dashed else "arrow"
    head = f"url(#head-{arrow.colour[1:]})"
    return f'<path class="{kind}" d="{way}" stroke="{arrow.colour}" marker-end="{head}"><title>{_escaped(arrow.note)}</title></path>'


def _box(box: Box, layout: _Layout) -> str:
    x, y, width = layout.lefts[box.column], layout.middles[box.key] - _BOX_HEIGHT / 2, layout.widths[box.column]
    rect = f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{_BOX_HEIGHT}" rx="6" stroke="{box.colour}"/>'
    lines = [_text(x + 10, y + 17 + _LINE * number, _cut(line), "" if number else "name") for number, line in enumerate(box.lines)]
    return f'<g class="{"box" if box.is_there else "box lack"}"><title>{_escaped(box.note)}</title>{rect}{"".join(lines)}</g>'


def _cut(text: str) -> str:
    text = safe(text)
    return text if len(text) <= _MAX_CHARS else text[: _MAX_CHARS - 1] + "…"


def _escaped(text: str) -> str:
    return escape(safe(text))


@final
class _Layout:
    """Where everything is.

    Attributes:
        lefts: Left side of each column.
        widths: Width of each column.
        middles: Height of the middle of each box and each place where an arrow passes.
    """

    def __init__(self, picture: Picture) -> None:
        self._column_of = {box.key: box.column for box in picture.boxes}
        self._arrows = picture.arrows
        self._columns: list[list[_Place]] = [[] for _ in picture.columns]
        self._beside: dict[_Place, list[_Place]] = {}  # in the columns next to its own
        for box in sorted(picture.boxes, key=lambda box: box.key):
            self._columns[box.column].append(box.key)
        self._ways = [self._route(number, arrow) for number, arrow in enumerate(picture.arrows)]
        self.middles: dict[_Place, float] = {}
        self._order()
        heads = [
            (heading, *(line for box in picture.boxes if box.column == at for line in box.lines))
            for at, heading in enumerate(picture.columns)
        ]
        self.widths = [20 + _CHAR * max(len(_cut(line)) for line in lines) for lines in heads]
        self.lefts = [_MARGIN + sum(self.widths[:number]) + _GAP * number for number in range(len(self.widths))]
        self.width = max(640.0, 2 * _MARGIN + sum(self.widths) + _GAP * (len(self.widths) - 1))
        self.height = _HEAD + _MARGIN + max(map(_height, self._columns), default=0.0)

    def _route(self, number: int, arrow: Arrow) -> list[_Place]:
        start, end = self._column_of[arrow.start], self._column_of[arrow.end]
        passed = [(number, column) for column in (range(start + 1, end) if start < end else range(start - 1, end, -1))]
        for place in passed:
            self._columns[place[1]].append(place)
        way: list[_Place] = [arrow.start, *passed, arrow.end]
        for one, other in pairwise(way if start != end else ()):
            self._beside.setdefault(one, []).append(other)
            self._beside.setdefault(other, []).append(one)
        return way

    def _order(self) -> None:
        """Put what is in a column where it is nearest to what it is joined with, there and back again."""
        for places in self._columns:
            self._stack(places)
        for sweep in range(_SWEEPS):
            last = len(self._columns) - 1
            for number in range(1, last + 1) if sweep % 2 == 0 else range(last - 1, -1, -1):
                neighbours = set(self._columns[number - 1 if sweep % 2 == 0 else number + 1])
                heights = {place: self._wanted(place, neighbours) for place in self._columns[number]}
                self._columns[number].sort(key=heights.__getitem__)
                self._stack(self._columns[number])

    def _wanted(self, place: _Place, neighbours: set[_Place]) -> float:
        there = [self.middles[other] for other in self._beside.get(place, ()) if other in neighbours]
        return sum(there) / len(there) if there else self.middles[place]

    def _stack(self, places: Sequence[_Place]) -> None:
        top = _HEAD + (max(map(_height, self._columns)) - _height(places)) / 2
        for place in places:
            self.middles[place] = top + _pitch(place) / 2
            top += _pitch(place)

    def way(self, number: int) -> str:
        """Return the path of an arrow."""
        arrow, way = self._arrows[number], self._ways[number]
        start, end = self._column_of[arrow.start], self._column_of[arrow.end]
        if start == end:  # out at the right and in again
            x, above, below = self.lefts[start] + self.widths[start], self.middles[arrow.start], self.middles[arrow.end]
            return f"M{x:.1f} {above:.1f}C{x + 60:.1f} {above:.1f} {x + 60:.1f} {below:.1f} {x:.1f} {below:.1f}"
        is_left = end < start
        x, y = self._side(start, is_left=is_left), self.middles[arrow.start]
        path = f"M{x:.1f} {y:.1f}"
        for place in way[1:]:
            column = end if isinstance(place, str) else place[1]
            to_x, to_y = self._side(column, is_left=not is_left), self.middles[place]
            half = (x + to_x) / 2
            path += f"C{half:.1f} {y:.1f} {half:.1f} {to_y:.1f} {to_x:.1f} {to_y:.1f}"
            x, y = to_x, to_y
            if not isinstance(place, str):
                x = self._side(column, is_left=is_left)
                path += f"H{x:.1f}"
        return path

    def _side(self, column: int, *, is_left: bool) -> float:
        return self.lefts[column] + (0.0 if is_left else self.widths[column])


def _pitch(place: _Place) -> float:
    return _BOX_PITCH if isinstance(place, str) else _PASS_PITCH


def _height(places: Sequence[_Place]) -> float:
    return sum(map(_pitch, places))
