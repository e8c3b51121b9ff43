"""``python -m benchmarks.report [FOLDER]``: the results files as Markdown, each with the command that made it."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.__main__ import NAMES, figure
from benchmarks.harness import RESULTS, Mark, verdict

__all__ = ["render"]


def render(result: dict[str, Any], title: str, marks: tuple[Mark, ...]) -> str:
    """Return one benchmark's section: command, machine, rows, marks."""
    machine, ratios = result["machine"], result["ratios"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"## {title}",
        "",
        f"`make bench NAME={result['name']}`, {result['when'][:10]}: {machine['cores']} cores of {machine['cpu']}, {machine['system']}, "
        f"CPython {machine['python']}, load {machine['load_1min']} before the run. {versions}.",
        "",
        "| what | unit | p50 | p99 | n |",
        "|---|---|---:|---:|---:|",
        *(f"| {row['what']} | {row['unit']} | {figure(row['p50'])} | {figure(row['p99'])} | {row['n']} |" for row in result["rows"]),
        "",
        "| mark | asked | measured | |",
        "|---|---:|---:|---|",
    ]
    for mark in marks:
        asked = f"{'≥' if mark.at_least else '≤'} {mark.limit:g}"
        lines.append(f"| {mark.about} | {asked} | {figure(ratios.get(mark.key))} | {verdict(mark, ratios)} |")
    return "\n".join([*lines, ""])


def main(folder: Path) -> None:
    """Print a section for every results file in the folder."""
    for name in NAMES:
        path = folder / f"{name}.json"
        if path.exists():
            module = importlib.import_module(f"benchmarks.{name}")
            print(render(json.loads(path.read_text(encoding="utf-8")), module.TITLE, module.MARKS))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS)
