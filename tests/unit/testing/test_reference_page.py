"""The page about testing names everything public."""

from __future__ import annotations

from pathlib import Path

import pytest

from annexe import testing
from annexe.testing import pytest_plugin
from annexe.testing.clock import FakeClock
from annexe.testing.failures import FakeFailureMemory
from annexe.testing.launch import FakeLaunchedPlugin, FakeLaunchStrategy
from annexe.testing.plugin_runner import PluginRunner, RunnerRequest

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "testing.md").read_text()


@pytest.mark.parametrize("name", [*testing.__all__, *pytest_plugin.__all__])
def test_page_names_what_is_exported(name: str) -> None:
    assert f"`{name}" in PAGE or f"{name}(" in PAGE


@pytest.mark.parametrize(
    "cls", [PluginRunner, RunnerRequest, FakeClock, FakeLaunchStrategy, FakeFailureMemory], ids=lambda cls: cls.__name__
)
def test_page_names_members(cls: type) -> None:
    inherited = {name for base in cls.__mro__[1:] for name in vars(base)}
    missing = [name for name in vars(cls) if not name.startswith("_") and name not in inherited and f"`{name}" not in PAGE]
    assert missing == []


def test_page_names_what_fake_plugins_have() -> None:
    for name in ("theirs", "signals", "ignores_terminate", "end", "requests", "launched", "errors", "is_closed", "failures", "quarantines"):
        assert f"`{name}" in PAGE
    assert hasattr(FakeLaunchedPlugin, "end") and hasattr(FakeLaunchStrategy(), "errors")


@pytest.mark.parametrize("name", testing.__all__)
def test_exported_name_is_there(name: str) -> None:
    assert getattr(testing, name).__name__ == name


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = testing.nothing
