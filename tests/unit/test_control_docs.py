"""The page about the control socket says what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from annexe.clock import SystemClock
from annexe.host import control, control_wire
from annexe.host.control import ControlLimits
from annexe.host.control_methods import ControlMethods

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "control.md").read_text()


def documented() -> dict[str, list[str]]:
    rows = re.findall(r"^\| `([a-z.]+)` \| (.*?) ?\| .+\|$", PAGE, re.MULTILINE)
    return {name: re.findall(r"`(\w+)`", params) for name, params in rows}


def test_every_method_and_parameter_is_documented() -> None:
    nothing: Any = None
    rooms = dict.fromkeys(
        ("registry", "dispatcher", "explain", "events", "logs", "metrics", "thread", "scan", "permissions", "attaching"), nothing
    )
    table = ControlMethods(nothing, state_dir=Path(), clock=SystemClock(), **rooms).table
    assert documented() == {name: list(method.params.__struct_fields__) for name, method in table.items()}


def test_bounds_are_documented() -> None:
    limits = ControlLimits()
    for bound in (
        f"{control.MAX_CONNECTIONS}; the next one",
        f"{control_wire.MAX_HELLO_BYTES // 1024} KiB, within {limits.hello_s:g} seconds",
        f"{control_wire.MAX_REQUEST_BYTES >> 20} MiB; {limits.idle_s:g} seconds",
        f"{control_wire.MAX_RESPONSE_BYTES >> 20} MiB |",
        f"after {limits.write_s:g} seconds",
    ):
        assert bound in PAGE, bound
