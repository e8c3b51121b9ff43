"""The page about the Python SDK names everything public."""

from __future__ import annotations

from pathlib import Path

import pytest

import annexe_sdk
from annexe_sdk import CallFailed, Context, Plugin, Reject
from annexe_sdk.aio import AsyncContext, AsyncKv
from annexe_sdk.context import Kv, Log, Metrics

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "sdk.md").read_text()


def public(cls: type) -> list[str]:
    return [name for name in dir(cls) if not name.startswith("_")]


@pytest.mark.parametrize("name", annexe_sdk.__all__)
def test_page_names_what_is_exported(name: str) -> None:
    assert f"`{name}" in PAGE


@pytest.mark.parametrize("name", sorted({*public(Plugin), *vars(Plugin())}))
def test_page_names_every_member_of_plugin(name: str) -> None:
    assert f"`plugin.{name}" in PAGE


@pytest.mark.parametrize("name", sorted({*public(Context), *public(AsyncContext)}))
def test_page_names_every_member_of_ctx(name: str) -> None:
    assert f"`ctx.{name}" in PAGE


@pytest.mark.parametrize(("member", "cls"), [("log", Log), ("kv", Kv), ("metrics", Metrics)])
def test_page_names_what_hangs_on_ctx(member: str, cls: type) -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `ctx.{member}`"))
    assert [name for name in public(cls) if f"`{name}`" not in row] == []


def test_async_store_has_what_the_blocking_one_has() -> None:
    assert public(AsyncKv) == public(Kv)


def test_page_names_what_exceptions_carry() -> None:
    assert [name for name in vars(CallFailed("a", "b")) if f"`{name}`" not in PAGE] == []
    assert [name for name in vars(Reject("a", "b")) if f"{name}" not in PAGE.partition("`Reject(")[2].partition("`")[0]] == []
