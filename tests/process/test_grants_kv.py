"""What a plugin may use: nothing it was not granted; and what it was granted, not at the cost of others."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from pathlib import Path
from typing import Any, ClassVar

import pytest

from annexe import Host
from annexe.errors import ConfigInvalidError
from annexe.record import EventKind
from tests.process.hosts import Doc, T, connection_of, events, open_host, run, until, wait_state, write_plugin

pytestmark = pytest.mark.any_user

# Evaluates what it is told: the tests are the author of every line of it.
TOOL = """
import json
from annexe_sdk.errors import CallFailed
@plugin.filter("HOOK")
def do(doc, ctx):
    try:
        doc["marks"] = [json.dumps(eval(doc["text"], {**globals(), "ctx": ctx}))]
    except CallFailed as error:
        doc["marks"] = [error.code, error.message, json.dumps(error.data)]
    return doc
"""
KV = '[permissions]\nkv = { quota = "1MiB" }'


def write_tool(root: Path, plugin: str = "alpha", *, hook: str = "t.strict", extra: str = "", **more: Any) -> Path:
    return write_plugin(root / "plugins", plugin, TOOL.replace("HOOK", hook), hooks=[hook], extra=extra, **more)


async def ask(host: Host, expression: str, *, hook: str = "strict") -> Any:
    """Have the tool evaluate something: its value, or ``[code, message, data]`` of the refusal."""
    marks = (await getattr(host.hooks(T), hook)(Doc(expression))).marks
    return json.loads(marks[0]) if len(marks) == 1 else [marks[0], marks[1], json.loads(marks[2])]


# Who may.


def test_nothing_is_granted_by_itself(tmp_path: Path) -> None:
    write_tool(tmp_path, "asks", extra=KV, hook="t.edit")
    write_tool(tmp_path, "modest")

    async def scenario() -> None:
        async with open_host(tmp_path, grants="stored") as host:
            assert (host.plugin("asks").state, host.plugin("modest").state) == ("blocked", "ready")
            assert host.plugin("asks").granted == host.plugin("modest").granted == frozenset()
            assert await ask(host, "ctx.grants") == []
            assert "kv" in host.plugin("asks").reason and "annexe grant asks" in host.plugin("asks").reason

    run(scenario)


def test_revoked_plugin_has_no_rights_while_it_takes_its_time_to_stop(tmp_path: Path) -> None:
    code = """
@plugin.filter("t.edit")
def edit(doc, ctx):
    ctx.kv.increment("before")
    ctx.log.info("works")
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try: ctx.kv.increment("after")
        except PermissionDenied: doc["marks"].append("denied"); return doc
        time.sleep(0.01)
    return doc
"""
    write_plugin(tmp_path / "plugins", "alpha", code, hooks=["t.edit"], extra=KV + '\n[resources]\ncall-timeout = "10s"')

    async def scenario() -> None:
        async with open_host(tmp_path, grants="stored") as host:
            await host.plugin("alpha").grant()
            call = asyncio.create_task(host.hooks(T).edit(Doc("x")))
            await until(lambda: any(line["message"] == "works" for line in host.logs.tail("alpha", 50)))
            await host.plugin("alpha").revoke()
            assert (await call).marks == ["denied"]

    run(scenario)


@pytest.mark.both_users
def test_policy_file_may_be_a_link_but_nothing_that_would_be_waited_for(tmp_path: Path) -> None:
    write_tool(tmp_path, extra=KV)
    (tmp_path / "real.toml").write_text('policy-version = 1\n[plugins.alpha]\nrights = ["kv"]\n')
    (tmp_path / "link.toml").symlink_to("real.toml")
    os.mkfifo(tmp_path / "pipe.toml")

    async def scenario() -> None:
        async with open_host(tmp_path, grants=tmp_path / "link.toml") as host:
            assert host.plugin("alpha").granted == {"kv"}
        with pytest.raises(ConfigInvalidError, match="cannot be read"):
            async with open_host(tmp_path, grants=tmp_path / "pipe.toml"):
                pass

    run(scenario)


def test_denial_tells_author_and_operator_the_line_and_the_command(tmp_path: Path) -> None:
    write_tool(tmp_path)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            code, message, _ = await ask(host, "ctx.kv.set('a', 1)")
            assert code == "permission-denied"
            assert "kv = " in message and "plugin.toml" in message and "annexe grant alpha" in message
            (event,) = events(host, EventKind.PERMISSION_DENIED, "alpha")
            assert event.reason == message and event.facts["method"] == "kv.set"
            (line,) = [line for line in host.logs.tail("alpha", 50) if line["level"] == "warning"]
            assert (line["message"], line["source"], line["fields"]) == (message, "host", {"method": "kv.set"})
            assert line["request"]

    run(scenario)


def test_a_plugin_that_asks_again_and_again_fills_no_log_of_events(tmp_path: Path) -> None:
    write_tool(tmp_path, extra='[resources]\ncall-timeout = "15s"')
    again = "[exec('try: ctx.kv.get(1)\\nexcept CallFailed: pass', {'ctx': ctx, 'CallFailed': CallFailed}) for n in range(1000)]"

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            assert len(await ask(host, again)) == 1000
            assert 1 <= len(events(host, EventKind.PERMISSION_DENIED, "alpha")) <= 60
            assert len(await asyncio.to_thread(host.logs.tail, "alpha", 10_000)) < 1000

    run(scenario)


@pytest.mark.parametrize("to_content", [False, True])
def test_stored_grant_is_bound_to_what_was_granted(tmp_path: Path, to_content: bool) -> None:
    folder = write_tool(tmp_path, extra=KV)

    async def scenario() -> None:
        async with open_host(tmp_path, grants="stored") as host:
            plugin = host.plugin("alpha")
            await plugin.grant(to_content=to_content, by="ada", note="looked at it")
            assert plugin.state == "ready" and plugin.granted == {"kv"}
            assert await ask(host, "ctx.kv.set('a', 1)") is None
            (granted,) = events(host, EventKind.GRANT_CHANGED, "alpha")
            assert granted.reason == "granted by ada" and granted.facts["rights"] == ["kv"]
            # Other code in the same folder.
            (folder / "main.py").write_text((folder / "main.py").read_text() + "\n# changed\n")
            await plugin.restart()
            if to_content:
                assert plugin.state == "blocked" and "its content has changed since" in plugin.reason
            else:
                assert plugin.state == "ready"
            # Other rights.
            write_tool(tmp_path, extra=KV + '\nenv = ["HOME_TOWN"]')
            await plugin.restart()
            assert plugin.state == "blocked" and plugin.pid is None
            assert "env:HOME_TOWN" in plugin.reason and ("content" if to_content else "granted was: kv") in plugin.reason

    run(scenario)


@pytest.mark.both_users
def test_stored_grant_outlives_the_host_and_a_moved_folder_loses_it(tmp_path: Path) -> None:
    folder = write_tool(tmp_path, extra=KV)

    async def first() -> None:
        async with open_host(tmp_path, grants="stored") as host:
            await host.plugin("alpha").grant()

    async def second() -> None:
        async with open_host(tmp_path, grants="stored") as host:
            assert host.plugin("alpha").state == "ready"

    async def third() -> None:
        folder.rename(folder.parent / "elsewhere")
        async with open_host(tmp_path, grants="stored") as host:
            assert host.plugin("alpha").state == "blocked"
            assert str(folder) in host.plugin("alpha").reason

    for scenario in (first, second, third):
        run(scenario)


@pytest.mark.parametrize(
    ("rules", "state"),
    [
        pytest.param('[plugins.alpha]\nrights = ["kv", "env:TOWN"]', "ready", id="both rights"),
        pytest.param('[plugins."*"]\nrights = ["kv"]\n[plugins.alpha]\nrights = ["env:*"]', "ready", id="everybody's and its own"),
        pytest.param('[plugins.alpha]\nrights = ["kv"]', "blocked", id="one right"),
        pytest.param('[plugins.beta]\nrights = ["kv", "env:TOWN"]', "blocked", id="another plugin's"),
        pytest.param('[plugins.alpha]\nrights = ["kv", "env:TOWN"]\nversions = ">=2"', "blocked", id="another version's"),
        pytest.param(f'[plugins.alpha]\nrights = ["kv", "env:TOWN"]\ndigest = "sha3-512:{"0" * 128}"', "blocked", id="other content's"),
        pytest.param("", "blocked", id="nothing"),
    ],
)
def test_policy_file_grants_what_it_says(tmp_path: Path, rules: str, state: str) -> None:
    write_tool(tmp_path, extra=KV + '\nenv = ["TOWN"]')
    (tmp_path / "policy.toml").write_text(f"policy-version = 1\n{rules}\n")

    async def scenario() -> None:
        async with open_host(tmp_path, grants=tmp_path / "policy.toml") as host:
            plugin = host.plugin("alpha")
            assert plugin.state == state, plugin.reason
            assert plugin.granted == ({"kv", "env:TOWN"} if state == "ready" else plugin.granted & {"kv"})

    run(scenario)


@pytest.mark.both_users
@pytest.mark.parametrize("text", [None, "policy-version = 99", "rights =", '[plugins.alpha]\nrihgts = ["kv"]'])
def test_policy_file_that_cannot_be_followed_keeps_the_host_from_opening(tmp_path: Path, text: str | None) -> None:
    write_tool(tmp_path, extra=KV)
    if text is not None:
        (tmp_path / "policy.toml").write_text(text)

    async def scenario() -> None:
        with pytest.raises(ConfigInvalidError) as caught:
            async with open_host(tmp_path, grants=tmp_path / "policy.toml"):
                raise AssertionError("opened")
        assert str(tmp_path / "policy.toml") in str(caught.value)
        async with open_host(tmp_path):  # nothing was kept of the attempt
            pass

    run(scenario)


def test_manifest_mode_grants_all_and_says_so_loudly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tool(tmp_path, extra=KV)

    async def scenario() -> None:
        async with open_host(tmp_path, grants="manifest") as host:
            assert host.plugin("alpha").granted == {"kv"}
            assert [event.reason for event in events(host, EventKind.HOST_STARTED) if "nobody has read" in event.reason]

    with caplog.at_level(logging.WARNING):
        run(scenario)
    assert "nobody has read" in caplog.text
    with pytest.raises(ValueError, match="policy file"):
        Host(grants="manifest", production=True)


# Capabilities.


class Orders:
    name: ClassVar[str] = "orders"

    def __init__(self) -> None:
        self.open = 0
        self.go = asyncio.Event()

    async def find(self, id: int) -> dict[str, Any]:
        return {"id": id}

    async def wait(self) -> None:
        self.open += 1
        await self.go.wait()


def test_capability_answers_only_whom_it_was_granted(tmp_path: Path) -> None:
    write_tool(tmp_path, "granted", extra='[permissions]\ncapabilities = ["orders"]')
    write_tool(tmp_path, "other", hook="t.edit")

    async def scenario() -> None:
        async with open_host(tmp_path, capabilities=[Orders()]) as host:
            assert await ask(host, "ctx.cap('orders').find(id=7)") == {"id": 7}
            assert await ask(host, "ctx.cap('orders').find(7)") == {"id": 7}
            code, message, _ = await ask(host, "ctx.cap('orders').find(7)", hook="edit")
            assert code == "permission-denied"
            assert "cap:orders" in message and 'capabilities = ["orders"]' in message and "annexe grant other" in message
            assert len(events(host, EventKind.PERMISSION_DENIED, "other")) == 1
            assert not events(host, EventKind.PERMISSION_DENIED, "granted")

    run(scenario)


@pytest.mark.parametrize(
    ("expression", "code", "text"),
    [
        ("ctx.cap('orders').find(id='seven')", "invalid-params", "id"),
        ("ctx.cap('orders').find()", "invalid-params", "id"),
        ("ctx.cap('orders').find(id=1, more=2)", "invalid-params", "more"),
        ("ctx.cap('orders').remove(id=1)", "method-not-found", "find"),
        ("ctx.cap('nothing').find(id=1)", "method-not-found", "orders"),
        ("ctx.cap('orders').open()", "method-not-found", "find"),  # an attribute is no method
        ("ctx.cap('orders').name()", "method-not-found", "find"),
    ],
)
def test_wrong_use_of_a_capability_is_a_typed_refusal(tmp_path: Path, expression: str, code: str, text: str) -> None:
    write_tool(tmp_path, extra='[permissions]\ncapabilities = ["orders", "nothing"]')

    async def scenario() -> None:
        async with open_host(tmp_path, capabilities=[Orders()]) as host:
            refused = await ask(host, expression)
            assert refused[0] == code
            assert text in refused[1]

    run(scenario)


def test_one_plugin_holds_only_so_many_capability_calls(tmp_path: Path) -> None:
    code = """
    import asyncio
    @plugin.filter("t.strict")
    async def flood(doc, ctx):
        async def one():
            try:
                await ctx.cap("orders").wait()
            except Exception as error:
                return error.code
        doc["marks"] = [str(code) for code in await asyncio.gather(*(one() for _ in range(100)))]
        return doc
    """
    write_plugin(tmp_path / "plugins", "alpha", code, hooks=["t.strict"], extra='[permissions]\ncapabilities = ["orders"]')

    async def scenario() -> None:
        orders = Orders()
        async with open_host(tmp_path, capabilities=[orders]) as host:
            flood = asyncio.create_task(host.hooks(T).strict(Doc("x")))
            await until(lambda: orders.open >= 64)
            await asyncio.sleep(0.1)
            assert orders.open == 64
            orders.go.set()
            marks = (await flood).marks
            assert (marks.count("None"), marks.count("busy")) == (64, 36)

    run(scenario)


# Environment.


@pytest.mark.both_users
def test_environment_is_an_allow_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "hunter2")
    monkeypatch.setenv("TOWN", "Ulm")
    monkeypatch.setenv("LC_TIME", "C")
    write_tool(tmp_path, "granted", extra='[permissions]\nenv = ["TOWN", "NOT_SET"]')
    write_tool(tmp_path, "other", hook="t.edit")
    write_plugin(tmp_path / "plugins", "greedy", "", extra='[permissions]\nenv = ["LD_PRELOAD", "PYTHONPATH"]')

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            always = {"ANNEXE_FD", "HOME", "LANG", "LC_TIME", "PATH", "TMPDIR"}
            seen = set(await ask(host, "sorted(os.environ)"))
            assert always | {"TOWN"} <= seen <= always | {"TOWN", "LC_CTYPE", "LC_ALL", "TZ"}
            assert "TOWN" not in await ask(host, "sorted(os.environ)", hook="edit")
            assert "hunter2" not in json.dumps(await ask(host, "dict(os.environ)"))
            assert await ask(host, "os.environ['HOME']") == "/nonexistent"
            greedy = host.plugin("greedy")
            assert greedy.state == "blocked" and "LD_PRELOAD" in greedy.reason and "PYTHONPATH" in greedy.reason

    run(scenario)


# The key-value store.


@pytest.mark.both_users
def test_keys_are_each_plugins_own_and_outlive_plugin_and_host(tmp_path: Path) -> None:
    write_tool(tmp_path, "alpha", extra=KV)
    write_tool(tmp_path, "beta", extra=KV, hook="t.edit")

    async def first() -> None:
        async with open_host(tmp_path) as host:
            await ask(host, "ctx.kv.set('shared', 'of alpha')")
            assert await ask(host, "ctx.kv.get('shared')", hook="edit") is None
            await ask(host, "ctx.kv.set('shared', 'of beta')", hook="edit")
            await host.plugin("alpha").restart()
            assert await ask(host, "ctx.kv.get('shared')") == "of alpha"

    async def second() -> None:
        async with open_host(tmp_path) as host:
            assert await ask(host, "ctx.kv.get('shared')") == "of alpha"
            assert await ask(host, "ctx.kv.list()", hook="edit") == [["shared"], None]

    run(first)
    run(second)


@pytest.mark.parametrize(("quota", "refused"), [("64KiB", True), ("8MiB", False)])
def test_quota_bounds_what_a_plugin_keeps(tmp_path: Path, quota: str, refused: bool) -> None:
    write_tool(tmp_path, extra=f'[permissions]\nkv = {{ quota = "{quota}" }}')
    write_tool(tmp_path, "polite", extra=KV, hook="t.edit")

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            outcome = await ask(host, "[ctx.kv.set('k%d' % n, 'x' * 10_000) for n in range(100)]")
            assert await ask(host, "ctx.kv.set('a', 'x' * 1000)", hook="edit") is None
            if not refused:
                assert outcome == [None] * 100
                assert not events(host, EventKind.QUOTA_EXCEEDED)
                return
            assert outcome[0] == "quota-exceeded"
            assert (
                outcome[2]["limit_bytes"] == 65536
                and outcome[2]["used_bytes"] <= 65536 < outcome[2]["wanted_bytes"] + outcome[2]["used_bytes"]
            )
            (event,) = events(host, EventKind.QUOTA_EXCEEDED, "alpha")
            assert event.facts["method"] == "kv.set"
            keys = await ask(host, "ctx.kv.list()")
            assert len(keys[0]) == 6
            assert await ask(host, "ctx.kv.delete('k0')") is True
            assert await ask(host, "ctx.kv.set('again', 'x' * 9000)") is None

    run(scenario)


FLOOD = """
import asyncio
@plugin.filter("t.timed")
async def flood(doc, ctx):
    refused = {}
    over = False
    async def one(number):
        while not over:
            try:
                await ctx.kv.set(f"k{number % 50}", "x" * 32_000)
            except Exception as error:
                code = getattr(error, "code", "")
                if code == "cancelled":
                    return
                refused[code] = refused.get(code, 0) + 1
                await asyncio.sleep(0.001)
    tasks = [asyncio.ensure_future(one(number)) for number in range(400)]
    await asyncio.sleep(float(doc["text"]))
    over = True
    await asyncio.gather(*tasks)
    doc["marks"] = sorted(refused)
    return doc
"""


def test_flood_is_refused_and_a_polite_plugins_waits_stay_short(tmp_path: Path) -> None:
    write_tool(tmp_path, "polite", extra=KV, hook="t.edit")
    # Its answer shall come, whatever budget its hook has.
    write_plugin(
        tmp_path / "plugins", "flood", FLOOD.replace("t.timed", "t.strict"), hooks=["t.strict"],
        extra='[permissions]\nkv = { quota = "8MiB" }\n[resources]\ncall-timeout = "20s"',
    )  # fmt: skip

    async def waits(host: Host, count: int) -> list[float]:
        loop = asyncio.get_running_loop()
        took = []
        for number in range(count):
            started = loop.time()
            assert await ask(host, f"ctx.kv.increment('n{number % 7}')", hook="edit") >= 1
            took.append(loop.time() - started)
            await asyncio.sleep(0.005)
        return sorted(took)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            alone = await waits(host, 100)
            flood = asyncio.create_task(host.hooks(T).strict(Doc("2.5")))
            await asyncio.sleep(0.3)
            beside = await waits(host, 100)
            marks = (await flood).marks
            assert set(marks) & {"busy", "rate-limited"}  # which of the two depends on the machine
            print(f"median {alone[50] * 1000:.1f} -> {beside[50] * 1000:.1f} ms, p95 {alone[95] * 1000:.1f} -> {beside[95] * 1000:.1f} ms")
            # On two cores, one of which the flooding plugin itself takes: bounded, not unharmed.
            assert beside[50] < max(0.1, 10 * alone[50])
            assert beside[95] < 0.5
            assert host.plugin("flood").state == "ready"

    run(scenario)


def test_refused_requests_leave_nothing_behind(tmp_path: Path) -> None:
    write_tool(tmp_path)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            for expression in ("ctx.kv.get('a')", "ctx.cap('orders').find(1)"):
                for _ in range(50):
                    assert (await ask(host, expression))[0] in ("permission-denied", "method-not-found")
            connection = connection_of(host, "alpha")
            assert connection.in_flight == 0
            await wait_state(host.plugin("alpha"), "ready")

    run(scenario)
