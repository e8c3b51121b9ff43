"""``python -m benchmarks.report``: write the results into docs/explanation/performance.md, each with the command that made it.

Only what lies between the page's two markers is replaced; the rest is written by people.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.__main__ import NAMES, figure
from benchmarks.harness import RESULTS, Mark, verdict

__all__ = ["render", "spliced"]

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
_PAGE = Path(__file__).resolve().parent.parent / "docs" / "explanation" / "performance.md"


def render(result: dict[str, Any], title: str, marks: tuple[Mark, ...]) -> str:
    """Return one benchmark's section: command, machine, rows, marks."""
    machine, ratios = result["machine"], result["ratios"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"### {title}",
        "",
        f"`make bench NAME={result['name']}`, {result['when'][:10]}: {machine['cores']} cores of {machine['cpu']}, {machine['system']}, "
        f"CPython {machine['python']} ({machine['python_work_ns']} ns for a fixed piece of Python work), "
        f"load {machine['load_1min']} before the run. {versions}.",
        "",
        "| what | unit | p50 | p99 | n |",
        "|---|---|---:|---:|---:|",
        *(f"| {row['what']} | {row['unit']} | {figure(row['p50'])} | {figure(row['p99'])} | {row['n']} |" for row in result["rows"]),
        "",
        "| mark | asked | measured | |",
        "|---|---:|---:|---|",
    ]
    missed = []
    for mark in marks:
        asked, judged = f"{'≥' if mark.at_least else '≤'} {mark.limit:g}", verdict(mark, ratios)
        lines.append(f"| {mark.about} | {asked} | {figure(ratios.get(mark.key))} | {judged} |")
        if judged != "met" and mark.held_back_by:
            missed.append(f"* *{mark.about}*, {judged}: {mark.held_back_by}")
    return "\n".join([*lines, "", *missed, *([""] if missed else [])])


def spliced(page: str, sections: str) -> str:
    """Return the page with these sections between its markers."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{_PAGE} lacks the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{sections}\n{END}{after}"


def main(folder: Path) -> None:
    """Write a section for every results file in the folder."""
    sections = []
    for name in NAMES:
        path = folder / f"{name}.json"
        if path.exists():
            module = importlib.import_module(f"benchmarks.{name}")
            sections.append(render(json.loads(path.read_text(encoding="utf-8")), module.TITLE, module.MARKS))
    _PAGE.write_text(spliced(_PAGE.read_text(encoding="utf-8"), "\n".join(sections)), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS)
