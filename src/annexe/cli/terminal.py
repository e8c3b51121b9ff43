"""What goes to the terminal: text that strangers wrote made harmless, tables, JSON.

* Names, reasons and messages of plugins are shown escaped: no control character, no turned direction of text, no invisible mark of theirs
  reaches the terminal. In JSON output everything but ASCII is escaped.
* Tables are drawn by rich on a terminal alone; elsewhere they are plain columns, and rich is not even imported.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click

__all__ = ["error_text", "json_text", "print_json", "print_json_line", "print_table", "print_text", "safe"]

_STATE_STYLES = {
    "ready": "green",
    "degraded": "yellow",
    "starting": "cyan",
    "draining": "cyan",
    "stopped": "dim",
    "blocked": "yellow",
    "backing-off": "yellow",
    "quarantined": "red",
    "ok": "green",
    "warning": "yellow",
    "failed": "red",
    "enforced": "green",
    "soft": "yellow",
    "not enforced": "red",
    "not available": "dim",
    "not built": "dim",
    "met": "green",
    "down": "yellow",
    "conflict": "red",
    "missing": "red",
}


def safe(value: object) -> str:
    r"""Return a text in one line with every character that is not printable escaped as in Python: ``\x1b``, ``\n``, ``\u202e``."""
    text = "" if value is None else str(value)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def error_text(message: str) -> str:
    """Return an error's message for the terminal; its own line breaks stay."""
    lines = [safe(line) for line in message.split("\n")]
    return "annexe: " + "\n".join(lines)


def print_text(text: str = "") -> None:
    """Print a text of ours, parts of which may be a stranger's; its line breaks stay."""
    click.echo("\n".join(safe(line) for line in text.split("\n")))


def json_text(value: Any) -> str:
    """Return a value as JSON in one line, ASCII alone."""
    return json.dumps(value, ensure_ascii=True, default=str)


def print_json(value: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(value, ensure_ascii=True, indent=2, default=str))


def print_json_line(value: Any) -> None:
    """Print one of many JSON documents, each on a line of its own, at once."""
    click.echo(json_text(value))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table."""
    cells = [[safe(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _draw(columns, cells)
        return
    widths = [max(len(row[index]) for row in [list(columns), *cells]) for index in range(len(columns))]
    for row in [list(columns), *cells]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _draw(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for row in cells:
        table.add_row(*(Text(cell, style=_STATE_STYLES.get(cell, "")) for cell in row))
    Console().print(table)
