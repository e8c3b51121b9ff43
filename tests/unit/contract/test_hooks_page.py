from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from annexe.contract import HookKind, definition_of, export_schema, hook
from annexe.dispatch.breaker import BreakerPolicy
from annexe.dispatch.order import DEFAULT_PRIORITY, Ordered
from annexe_sdk.wire import MAX_NESTING
from tests.unit.contract.test_specs import Chat

PAGE = (Path(__file__).parents[3] / "docs/reference/hooks.md").read_text(encoding="utf-8")
OPTIONS = {
    option: {kind for kind in HookKind if option in inspect.signature(getattr(hook, kind)).parameters}
    for option in ("budget_ms", "on_failure", "responds")
}


@pytest.mark.parametrize("kind", HookKind)
def test_every_kind_of_hook_has_a_section_and_an_example(kind: HookKind) -> None:
    assert f"\n### `{kind}`\n" in PAGE
    assert f"@hook.{kind}" in PAGE


@pytest.mark.parametrize("kind", HookKind)
def test_every_option_of_a_decorator_is_known_here(kind: HookKind) -> None:
    parameters = inspect.signature(getattr(hook, kind)).parameters
    assert set(parameters) - {"function"} == {option for option, kinds in OPTIONS.items() if kind in kinds}


@pytest.mark.parametrize(("option", "kinds"), OPTIONS.items())
def test_every_option_has_a_row_that_tells_its_kinds(option: str, kinds: set[HookKind]) -> None:
    row = re.search(rf"^\| `{option}` \| ([^|]*) \|", PAGE, re.MULTILINE)
    assert row is not None
    told = row[1]
    if told.startswith("all"):
        assert kinds == set(HookKind) - {kind for kind in HookKind if f"`{kind}`" in told}
    else:
        assert {kind for kind in HookKind if f"`{kind}`" in told} == kinds


def keys(exported: Any) -> set[str]:
    if isinstance(exported, list):
        return {key for item in exported for key in keys(item)}
    if not isinstance(exported, dict) or "$id" in exported:
        return set()
    return set(exported) | {key for value in exported.values() for key in keys(value)}


def test_every_key_of_the_exported_schema_is_told() -> None:
    spec = definition_of(Chat)
    told = set(re.findall(r"`(\w+)`", PAGE.partition("## The exported schema")[2]))
    assert keys(export_schema([spec])) - {"chat", *spec.hooks} <= told


def test_figures_are_the_ones_in_the_code() -> None:
    policy = BreakerPolicy()
    assert f"default {DEFAULT_PRIORITY}" in PAGE
    assert Ordered(plugin="a").priority == DEFAULT_PRIORITY
    assert f"After {policy.max_failures} failures or time-outs in a row" in PAGE
    assert f"not called there for {policy.open_s:.0f} s" in PAGE
    assert re.search(rf"Values nest at\s+most {MAX_NESTING} levels", PAGE)
