"""The list of attacks, read from the attacker's source without importing it.

What an attack is called, and which layers stop it, stands once: in the decorator over its code. The decorators' arguments are literals.

Source: feature IS10.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, final

__all__ = ["BYSTANDER_FOLDER", "LAYERS", "PLUGIN_FOLDER", "Attack", "attacks"]

PLUGIN_FOLDER = Path(__file__).parent / "plugin"
BYSTANDER_FOLDER = Path(__file__).parent / "bystander"

LAYERS = (
    "environment",
    "descriptors",
    "uid",
    "no-new-privileges",
    "namespaces",
    "seccomp",
    "landlock",
    "rlimits",
    "cgroup",
    "host",
)
"""What can stop an attack; ``host`` is the host's own code, which is always there."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One attack.

    Attributes:
        name: Lower-case words joined by hyphens.
        theme: Module that it is in.
        text: What it tries, one sentence.
        stopped_by: Layers each of which stops it by itself; the one named in reports first.
        capped_by: Layers each of which lets it have no more than is allowed.
        unix: The permissions of plain Unix stop it for everybody but root: no merit of the sandbox.
        check: What the host looks at, by its name in ``judges``; empty when the attacker can tell.
        phases: How many instances of the plugin it takes.
    """

    name: str
    theme: str
    text: str
    stopped_by: tuple[str, ...] = ()
    capped_by: tuple[str, ...] = ()
    unix: bool = False
    check: str = ""
    phases: int = 1

    def first_layer(self, on: frozenset[str], *, capped: bool = False) -> str:
        """Return the first of its layers that is on; empty when none is."""
        layers = (*self.capped_by, *self.stopped_by) if capped else (*self.stopped_by, *self.capped_by)
        return next((layer for layer in layers if layer in on), "")


@cache
def attacks() -> tuple[Attack, ...]:
    """Return all attacks, by theme and in the order of the source."""
    return tuple(attack for path in sorted((PLUGIN_FOLDER / "escape").glob("*.py")) for attack in _attacks_in(path))


def _attacks_in(path: Path) -> Iterator[Attack]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name) and decorator.func.id == "attack":
                    name, text = (ast.literal_eval(argument) for argument in decorator.args)
                    named: dict[str, Any] = {one.arg: ast.literal_eval(one.value) for one in decorator.keywords if one.arg is not None}
                    yield Attack(name=name, theme=path.stem.replace("_", "-"), text=text, **named)
