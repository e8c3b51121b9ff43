"""Hooks that a plugin defines, in its tests: those who implement them are played."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from annexe.testing import PluginRunner
from annexe_sdk import CallFailed, PermissionDenied, Plugin, Reject, Respond

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
CODE = """
from annexe_sdk import Plugin
plugin = Plugin()

@plugin.filter("t.edit")
{}def edit(value, ctx):
    name, given = value
    return {}ctx.hook(name, given)
"""
KINDS = pytest.mark.parametrize(
    "code", [pytest.param(CODE.format("", ""), id="def"), pytest.param(CODE.format("async ", "await "), id="async")]
)


def folder(tmp_path: Path, code: str) -> Path:
    at = tmp_path / f"definer-{len(list(tmp_path.iterdir()))}"
    at.mkdir()
    kinds = {"filter": "", "action": "", "observer": "", "first_result": ', result = "text.json"'}
    hooks = "\n".join(f'"sums.{kind.replace("_", "-")}" = {{ schema = "n.json", kind = "{kind}"{more} }}' for kind, more in kinds.items())
    (at / "plugin.toml").write_text(
        'manifest-version = 1\n[plugin]\nid = "definer"\nversion = "1.0.0"\n[runtime]\nkind = "python"\nentry = "definer_main"\n'
        f'[provides.hooks]\n"t.edit" = {{ revision = 1 }}\n[provides.hook-specs]\n{hooks}\n'
    )
    (at / "definer_main.py").write_text(code)
    (at / "n.json").write_text(json.dumps(SCHEMA))
    (at / "text.json").write_text('{"type": "string"}')
    return at


@KINDS
def test_played_functions_stand_for_who_implements_a_hook(tmp_path: Path, code: str) -> None:
    seen: list[Any] = []

    async def found(value: Any) -> Any:
        seen.append(value)
        return "found"

    hooks: dict[str, Callable[[Any], Any]] = {
        "sums.filter": lambda value: {"n": value["n"] + 1},
        "sums.action": seen.append,
        "sums.observer": seen.append,
        "sums.first-result": found,
    }
    with PluginRunner(folder(tmp_path, code), hooks=hooks) as runner:
        assert runner.call("t.edit", ["sums.filter", {"n": 1}]) == {"n": 2}
        assert [runner.call("t.edit", [f"sums.{kind}", {"n": 3}]) for kind in ("action", "observer", "first-result")] == [
            None,
            None,
            "found",
        ]
        assert seen == [{"n": 3}] * 3


@KINDS
def test_nobody_implements_a_hook_that_is_not_played(tmp_path: Path, code: str) -> None:
    with PluginRunner(folder(tmp_path, code)) as runner:
        assert runner.call("t.edit", ["sums.filter", {"n": 1}]) == {"n": 1}
        assert runner.call("t.edit", ["sums.first-result", {"n": 1}]) is None
        with pytest.raises(PermissionDenied, match=r"calls hook 'other\.hook', which it does not define"):
            runner.call("t.edit", ["other.hook", {"n": 1}])


def test_values_are_held_against_the_schemas_of_the_folder(tmp_path: Path) -> None:
    hooks: dict[str, Callable[[Any], Any]] = {"sums.filter": lambda _: {"n": "one"}, "sums.first-result": lambda _: 5}
    with PluginRunner(folder(tmp_path, CODE.format("", "")), hooks=hooks) as runner:
        with pytest.raises(CallFailed, match=r"parameter 'value' at \$\.n: expected type \"integer\", got 1\.5") as caught:
            runner.call("t.edit", ["sums.filter", {"n": 1.5}])
        assert caught.value.code == "invalid-params"
        with pytest.raises(
            CallFailed, match=r"failed closed: plugin 'test' answered .* at \$\.n: expected type \"integer\", got \"one\""
        ) as caught:
            runner.call("t.edit", ["sums.filter", {"n": 1}])
        assert caught.value.code == "hook-failed"
        with pytest.raises(CallFailed, match="got 5"):
            runner.call("t.edit", ["sums.first-result", {"n": 1}])


def test_what_goes_wrong_at_a_played_function_is_told_as_a_host_tells_it() -> None:
    plugin = Plugin()

    @plugin.filter("t.edit")
    def edit(value: Any, ctx: Any) -> Any:
        return ctx.hook("sums.add", value)

    def add(value: int) -> int:
        match value:
            case 1:
                raise Reject("too-many", "one is too many", status=429)
            case 2:
                raise Respond(20)
            case 3:
                raise ValueError("not today")
        return value + 1

    with PluginRunner(plugin, hooks={"sums.add": add}) as runner:
        assert (runner.call("t.edit", 2), runner.call("t.edit", 4)) == (20, 5)
        with pytest.raises(CallFailed, match="one is too many") as refused:
            runner.call("t.edit", 1)
        assert refused.value.code == "rejected" and refused.value.data["reject_code"] == "too-many"
        with pytest.raises(CallFailed, match=r"failed closed: plugin 'test', hook\.sums\.add: ValueError: not today \(at test_hooks\.py:"):
            runner.call("t.edit", 3)
    with PluginRunner(plugin) as runner, pytest.raises(PermissionDenied, match=r"nobody plays hook 'sums\.add'; pass hooks="):
        runner.call("t.edit", 4)


def test_hook_that_the_manifest_does_not_define_cannot_be_played(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"hooks\['sums\.ad'\]: its plugin\.toml defines 'sums\.filter', "):
        PluginRunner(folder(tmp_path, CODE.format("", "")), hooks={"sums.ad": lambda value: value})
