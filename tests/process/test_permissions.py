"""What ``annexe permissions``, ``grant`` and ``revoke`` say and do, asked of a real host with real plugins."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from annexe import Host
from annexe.cli.app import cli
from annexe.errors import ConflictError, InvalidParamsError, ManifestError, PluginBlockedError
from tests.process.hosts import Doc, T, open_host, outcome_of, run, write_plugin

pytestmark = pytest.mark.any_user

TOOL = """
@plugin.filter("t.edit")
def edit(doc, ctx):
    if doc["text"] == "kv":
        ctx.kv.increment("seen")
    if doc["text"] == "orders":
        ctx.cap("orders").count()
    if doc["text"] == "file":
        open("/srv/no-such/model.bin")
    return doc
"""
ASKS = '[permissions]\nkv = { quota = "64KiB" }\ncapabilities = ["orders"]\nenv = ["TERM"]'


class Orders:
    name = "orders"

    async def count(self) -> int:
        return 3


def write(root: Path, plugin: str = "alpha", *, extra: str = ASKS, version: str = "1.2.0") -> Path:
    return write_plugin(root / "plugins", plugin, TOOL, hooks=["t.edit"], extra=extra, version=version)


def settings(**changes: Any) -> dict[str, Any]:
    return {"grants": "stored", "capabilities": [Orders()], "control": True, **changes}


async def annexe(root: Path, *words: str, status: int = 0) -> str:
    """Run a command beside the host and return what it printed."""
    done = await asyncio.to_thread(CliRunner().invoke, cli, [*words, "--state", str(root / "state")])
    assert done.exit_code == status, (words, done.output, done.exception)
    return done.output


async def told(root: Path, plugin: str = "alpha") -> Any:
    return json.loads(await annexe(root, "permissions", plugin, "--json"))


async def use(host: Host, what: str) -> None:
    await host.hooks(T).edit(Doc(what))


def right_of(told: Any, right: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in told["rights"] if one["right"] == right)
    return found


def test_permissions_say_who_granted_what_bound_to_what_and_why(tmp_path: Path) -> None:
    folder = write(tmp_path)

    async def scenario() -> None:
        async with open_host(tmp_path, **settings()) as host:
            assert [one["granted"] for one in (await told(tmp_path))["rights"]] == [False, False, False]
            await annexe(tmp_path, "grant", "alpha", "--yes", "--note", "read by Ann", "--versions", ">=1,<2")
            assert host.plugin("alpha").state == "ready"
            (grant,) = (await told(tmp_path))["grants"]
            assert grant["rights"] == ["cap:orders", "env:TERM", "kv"]
            assert (grant["bound_to"], grant["folder"], grant["versions"]) == ("folder", str(folder), ">=1,<2")
            assert (grant["note"], grant["holds"], grant["lapsed"]) == ("read by Ann", True, "")
            text = await annexe(tmp_path, "permissions", "alpha")
            for part in ("alpha 1.2.0 is ready", "(read by Ann)", f"to the folder {folder}, versions >=1,<2", "cap:orders, env:TERM, kv"):
                assert part in text
            await annexe(tmp_path, "grant", "alpha", "--yes", "--content")
            grants = (await told(tmp_path))["grants"]
            assert [grant["bound_to"] for grant in grants] == ["folder", "content"]
            (folder / "main.py").write_text((folder / "main.py").read_text() + "\n")
            await host.plugin("alpha").restart()
            assert [grant["lapsed"] for grant in (await told(tmp_path))["grants"]] == ["", "its content has changed since"]
            assert "holds no longer: its content has changed since" in await annexe(tmp_path, "permissions", "alpha")

    run(scenario)


def test_a_grant_for_other_versions_is_refused_and_one_ends_with_its_range(tmp_path: Path) -> None:
    write(tmp_path)

    async def scenario() -> None:
        async with open_host(tmp_path, **settings()) as host:
            plugin = host.plugin("alpha")
            for versions in (">=2", "newest"):
                assert isinstance(await outcome_of(plugin.grant(versions=versions)), InvalidParamsError)
            assert plugin.granted == frozenset()
            await plugin.grant(versions="<1.3")
            assert plugin.state == "ready"
            write(tmp_path, version="1.3.0")
            await plugin.restart()
            assert plugin.state == "blocked"
            assert "it was granted for versions <1.3, this is 1.3.0" in plugin.reason

    run(scenario)


def test_a_right_is_unused_until_it_is_used_and_stays_so_over_a_restart(tmp_path: Path) -> None:
    write(tmp_path)

    async def unused() -> Any:
        return json.loads(await annexe(tmp_path, "permissions", "--unused", "--json"))

    async def scenario() -> None:
        async with open_host(tmp_path, **settings()) as host:
            await host.plugin("alpha").grant()
            found = await unused()
            assert [one["right"] for one in found["unused"]] == ["cap:orders", "kv"]
            assert all(one["granted_at"] for one in found["unused"])
            assert found["not_observable"] == [{"plugin": "alpha", "right": "env:TERM"}]
            await use(host, "kv")
            assert [one["right"] for one in (await unused())["unused"]] == ["cap:orders"]
            await use(host, "orders")
        async with open_host(tmp_path, **settings()) as host:
            assert (await unused())["unused"] == []
            told_ = await told(tmp_path)
            assert [right_of(told_, right)["use"] for right in ("kv", "cap:orders", "env:TERM")] == ["used", "used", "not observable"]
            text = await annexe(tmp_path, "permissions", "--unused", "alpha")
            assert "every right whose use can be observed was used" in text and "alpha: env:TERM" in text
            await host.plugin("alpha").grant()  # again: what it used before does not count
            assert [one["right"] for one in (await unused())["unused"]] == ["cap:orders", "kv"]
            assert "never since granted" in await annexe(tmp_path, "permissions", "alpha")

    run(scenario)


@pytest.mark.both_users
def test_what_was_refused_is_shown_with_the_line_that_asks_for_it(tmp_path: Path) -> None:
    write(tmp_path, extra="")

    async def scenario() -> None:
        async with open_host(tmp_path, **settings()) as host:
            assert "Refused lately:\n  nothing" in await annexe(tmp_path, "permissions", "alpha")
            for what in ("kv", "kv", "orders", "file"):
                await use(host, what)
            denied = {one["manifest_line"]: one for one in (await told(tmp_path))["denied"]}
            kv = denied['kv = { quota = "1MiB" }']
            assert (kv["right"], kv["by"], kv["count"]) == ("kv", "host", 2)
            assert denied['capabilities = ["orders"]']["by"] == "host"
            text = await annexe(tmp_path, "permissions", "alpha")
            assert 'in plugin.toml under [permissions]:\n  capabilities = ["orders"]\n' in text
            assert f"then: annexe grant alpha --state {tmp_path / 'state'}" in text
            if (await host._registry.expected_walls("alpha")).keep_files:
                assert denied['filesystem = { read = ["/srv/no-such/model.bin"] }']["by"] == "sandbox"
                assert "by the sandbox, as the plugin tells it: filesystem.read:/srv/no-such/model.bin" in text
            write(tmp_path, extra='[permissions]\nkv = { quota = "64KiB" }')
            await annexe(tmp_path, "grant", "alpha", "--yes")
            assert "kv" not in [one["right"] for one in (await told(tmp_path))["denied"]]

    run(scenario)


@pytest.mark.parametrize("content", [False, True], ids=["folder", "content"])
def test_revoking_one_right_blocks_the_plugin_until_it_is_granted_again(tmp_path: Path, content: bool) -> None:
    write(tmp_path)

    async def scenario() -> None:
        async with open_host(tmp_path, **settings()) as host:
            plugin = host.plugin("alpha")
            await plugin.grant(to_content=content)
            text = await annexe(tmp_path, "revoke", "alpha", "--right", "cap:orders")
            assert {one["right"]: one["granted"] for one in (await told(tmp_path))["rights"]} == {
                "cap:orders": False,
                "env:TERM": True,
                "kv": True,
            }
            assert text.startswith("revoked; alpha is blocked: it asks for ")
            assert "it asks for cap:orders, which nobody has granted" in plugin.reason and "annexe grant alpha" in plugin.reason
            (grant,) = (await told(tmp_path))["grants"]
            assert grant["rights"] == ["env:TERM", "kv"]
            assert isinstance(await outcome_of(plugin.revoke(rights=["cap:orders"])), InvalidParamsError)
            await plugin.grant(to_content=content)
            assert plugin.state == "ready"
            await plugin.revoke(rights=["kv", "env:TERM", "cap:orders"])
            assert (await told(tmp_path))["grants"] == []

    run(scenario)


def test_permissions_of_all_plugins_are_one_table(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, "beta", extra="")
    write(tmp_path, "gamma", extra='[permissions]\nservices = ["tokenizer"]')

    async def scenario() -> None:
        async with open_host(tmp_path, **settings(grants="manifest")):
            lines = (await annexe(tmp_path, "permissions")).splitlines()
            assert lines[0].split() == ["ID", "RIGHT", "GRANTED", "LAST", "USED", "WORTH"]
            assert [line.split()[:3] for line in lines[1:]] == [
                ["alpha", "cap:orders", "yes"],
                ["alpha", "env:TERM", "yes"],
                ["alpha", "kv", "yes"],
                ["gamma", "services:tokenizer", "yes"],
            ]
            assert [one["id"] for one in json.loads(await annexe(tmp_path, "permissions", "--json"))] == ["alpha", "beta", "gamma"]
            assert 'by nobody: grants="manifest"' in await annexe(tmp_path, "permissions", "alpha")
            assert "no use on record" in await annexe(tmp_path, "permissions", "alpha", "--unused")
            assert "Rights it asks for:\n  none" in await annexe(tmp_path, "permissions", "beta")

    run(scenario)


def test_permissions_by_a_policy_name_its_file(tmp_path: Path) -> None:
    write(tmp_path)
    policy = tmp_path / "grants.toml"
    policy.write_text('policy-version = 1\n[plugins.alpha]\nrights = ["kv", "cap:orders", "env:TERM"]\n')

    async def scenario() -> None:
        async with open_host(tmp_path, **settings(grants=policy)):
            assert f"by the policy file {policy}" in await annexe(tmp_path, "permissions", "alpha")
            found = await told(tmp_path)
            assert (found["source"], found["grants"]) == (str(policy), [])
            assert right_of(found, "kv")["use"] == "unused"

    run(scenario)


def test_permissions_of_a_plugin_whose_manifest_is_refused_are_none(tmp_path: Path) -> None:
    folder = write(tmp_path)

    async def scenario() -> None:
        async with open_host(tmp_path, **settings()) as host:
            await host.plugin("alpha").grant()
        (folder / "plugin.toml").write_text("manifest-version = 1\n")
        async with open_host(tmp_path, **settings()):
            found = await told(tmp_path)
            assert (found["version"], found["rights"]) == ("", [])
            assert [grant["lapsed"] for grant in found["grants"]] == ["its manifest cannot be used"]

    run(scenario)


@pytest.mark.both_users
@pytest.mark.parametrize("content", [False, True], ids=["folder", "content"])
def test_grant_is_of_the_manifest_on_disk_and_starts_the_plugin_afresh(tmp_path: Path, content: bool) -> None:
    write(tmp_path, extra="")
    bound = ["--content"] if content else []

    async def scenario() -> None:
        async with open_host(tmp_path, **settings()) as host:
            plugin = host.plugin("alpha")
            first = plugin.pid
            write(tmp_path, extra=ASKS)
            assert isinstance(await outcome_of(plugin.grant()), ConflictError)  # the application has not seen that
            text = await annexe(tmp_path, "grant", "alpha", "--yes", *bound)
            assert "cap:orders" in text and "plugin.toml has changed since alpha was started" in text
            assert plugin.granted == {"cap:orders", "env:TERM", "kv"}
            assert plugin.state == "ready" and plugin.pid not in (None, first)
            second = plugin.pid
            assert "has changed" not in await annexe(tmp_path, "grant", "alpha", "--yes", *bound)
            assert plugin.pid == second
            await plugin.restart()
            assert plugin.state == "ready"

    run(scenario)


def test_grant_starts_a_plugin_at_once_that_failed_with_another_manifest(tmp_path: Path) -> None:
    folder = write(tmp_path, extra="")
    (folder / "main.py").write_text("1 / 0\n")

    async def scenario() -> None:
        async with open_host(tmp_path, **settings()) as host:
            assert host.plugin("alpha").state == "backing-off"
            write(tmp_path, extra=ASKS)
            assert "granted; alpha is ready" in await annexe(tmp_path, "grant", "alpha", "--yes")

    run(scenario)


def test_grant_of_a_manifest_that_cannot_be_used_is_refused_and_the_plugin_goes_on(tmp_path: Path) -> None:
    folder = write(tmp_path, extra="")

    async def scenario() -> None:
        async with open_host(tmp_path, **settings()) as host:
            pid = host.plugin("alpha").pid
            (folder / "plugin.toml").write_text("manifest-version = 1\n")
            done = await asyncio.to_thread(CliRunner().invoke, cli, ["grant", "alpha", "--yes", "--state", str(tmp_path / "state")])
            assert isinstance(done.exception, ManifestError)
            assert isinstance(await outcome_of(host.plugin("alpha").grant()), ManifestError)
            assert (host.plugin("alpha").state, host.plugin("alpha").pid) == ("ready", pid)
            write(tmp_path)
            assert "alpha is ready" in await annexe(tmp_path, "grant", "alpha", "--yes")

    run(scenario)


@pytest.mark.both_users
def test_grant_of_paths_that_are_given_to_nobody_warns_before_it_asks_and_tells_the_reason_once(tmp_path: Path) -> None:
    write(tmp_path, extra='[permissions]\nfilesystem = { read = ["/etc", "/no-such/folder"] }')

    async def scenario() -> None:
        async with open_host(tmp_path, **settings()):
            where = ["--state", str(tmp_path / "state")]
            done = await asyncio.to_thread(CliRunner().invoke, cli, ["grant", "alpha", "--yes", *where])
            asked, _, after = done.output.partition("\ngranted; ")
            assert "Warning: a grant alone will not let it start: plugin 'alpha' asks to read /etc, and it is a whole folder" in asked
            assert "asks to read /no-such/folder, and it cannot be found" in asked
            assert after == "alpha is blocked\n"
            assert isinstance(done.exception, PluginBlockedError) and "a whole folder" in done.exception.message
            again = await asyncio.to_thread(CliRunner().invoke, cli, ["restart", "alpha", *where])
            assert again.output == "alpha is blocked\n"
            assert isinstance(again.exception, PluginBlockedError)

    run(scenario)
