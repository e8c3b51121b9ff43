"""The page about hosts names every argument and member."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import annexe
from annexe import (
    BreakerPolicy,
    HealthPolicy,
    Host,
    IsolationLevel,
    PluginHandle,
    PluginState,
    Policies,
    RequestScope,
    RestartPolicy,
    StopPolicy,
    SyncHost,
)

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "host.md").read_text()
ARGUMENTS = PAGE.partition("\n## Arguments\n")[2].partition("\n## ")[0]
# Contracts are told on a page of their own.
ELSEWHERE = {"HookSpec", "ExtensionPoint", "hook", "__version__"}


def names(text: str) -> set[str]:
    """Return what stands in code on a piece of the page, signatures without their arguments."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return {re.split(r"[(\s]", name)[0].partition(".")[2] or re.split(r"[(\s=]", name)[0] for name in re.findall(r"`([^`]+)`", text)}


@pytest.mark.parametrize("name", sorted(set(annexe.__all__) - ELSEWHERE))
def test_page_names_what_is_exported(name: str) -> None:
    assert f"`{name}" in PAGE or f"## {name}\n" in PAGE


def test_page_names_every_argument_with_its_default() -> None:
    for parameter in inspect.signature(Host).parameters.values():
        row = next((line for line in ARGUMENTS.splitlines() if f"`{parameter.name}`" in line.partition(" | ")[0]), None)
        assert row is not None, parameter.name
        if isinstance(parameter.default, str | bool | tuple) and parameter.name not in ("name", "version"):
            assert f"`{parameter.default!r}`".replace("'", '"') in row, row


def test_page_names_no_argument_that_is_not_there() -> None:
    told = {name for line in ARGUMENTS.splitlines() if line.startswith("| `") for name in re.findall(r"`(\w+)`", line.split(" | ")[0])}
    assert told == set(inspect.signature(Host).parameters)


@pytest.mark.parametrize("cls", [Host, PluginHandle, RequestScope, SyncHost], ids=lambda cls: str(cls.__name__))
def test_page_names_every_member(cls: type) -> None:
    told = names(PAGE) | set(re.findall(r"`(?:stream\.)?(\w+)\(", PAGE))
    assert [name for name in dir(cls) if not name.startswith("_") and name not in told] == []


@pytest.mark.parametrize("cls", [Policies, RestartPolicy, HealthPolicy, StopPolicy, BreakerPolicy], ids=lambda cls: str(cls.__name__))
def test_page_names_every_field_of_policies(cls: Any) -> None:
    told = PAGE.partition("\n## Policies\n")[2]
    assert [field.name for field in dataclasses.fields(cls) if f"{field.name}=" not in told and f"`{field.name}`" not in told] == []


@pytest.mark.parametrize("word", [*PluginState, *IsolationLevel])
def test_page_names_every_state_and_level(word: str) -> None:
    assert f"`{word}`" in PAGE
