"""Every method of the control socket, asked of a real host with real plugins."""

# mypy: disable-error-code="empty-body"
from __future__ import annotations

import asyncio
import contextlib
import os
import random
import stat
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from annexe import ExtensionPoint, HookSpec, hook
from annexe.errors import (
    AnnexeError,
    CallError,
    ConfigInvalidError,
    ConflictError,
    HookError,
    HostError,
    HostNotRunningError,
    InvalidParamsError,
    MethodNotFoundError,
    PluginBlockedError,
    PluginUnavailableError,
    RejectedError,
    UnknownPluginError,
)
from annexe.host.control_client import ControlClient
from tests.process.hosts import Doc, T, open_host, run, write_plugin
from tests.support.tools import level_here

pytestmark = pytest.mark.any_user

V = TypeVar("V")


@dataclass
class Reading:
    text: str
    raw: bytes = b""


class Voice(ExtensionPoint, name="voice", revision=1):
    """An extension point with every form of method."""

    async def say(self, reading: Reading, loud: bool = False) -> str: ...

    def words(self, text: str) -> AsyncIterator[str]: ...

    async def join(self, words: AsyncIterator[str]) -> str: ...


class Extra(HookSpec, name="extra", revision=1):
    @hook.filter
    async def swap(self, numbers: list[int], by: int = 1) -> list[int]: ...


SHOUT = """
@plugin.filter("t.edit")
def edit(doc, ctx):
    if doc["text"] == "no":
        raise Reject("not-this", "not this text", status=418)
    if doc["text"] == "boom":
        raise ValueError("it went wrong")
    return {**doc, "text": doc["text"].upper()}

@plugin.filter("t.ask")
def ask(doc, ctx):
    raise Respond({"answer": doc["text"] + "!"})

@plugin.action("t.act")
def act(doc, ctx):
    ctx.log.info("acted", what=doc["text"])

@plugin.first_result("t.find")
def find(doc, ctx):
    return doc["text"] if doc["text"] else None

@plugin.observer("t.seen")
def seen(what, ctx):
    ctx.log.info("seen " + what)

@plugin.stream_filter("t.chunks")
def chunks(chunks, ctx):
    for chunk in chunks:
        yield chunk.upper()

@plugin.filter("extra.swap")
def swap(numbers, by, ctx):
    return [number + by for number in reversed(numbers)]

@plugin.extension("voice")
class Voice:
    def say(self, reading, loud, ctx):
        return reading["text"] + ("!" if loud else ".")

    def words(self, text, ctx):
        yield from text.split()

    def join(self, words, ctx):
        return "-".join(words)

@plugin.on_configure
def configured(ctx):
    ctx.log.info("configured", level=ctx.config["level"])
"""
HOOKS = ["t.edit", "t.ask", "t.act", "t.find", "t.seen", "t.chunks", "extra.swap"]
SCHEMA = '{"type": "object", "properties": {"level": {"type": "integer", "default": 1, "minimum": 0}}, "additionalProperties": false}'
KV = "[permissions]\nkv = { quota = '1MiB' }"


def shout(root: Path, *, extra: str = "") -> None:
    more = '[provides.extensions]\n"voice" = { revision = 1 }\n'
    write_plugin(root / "plugins", "shout", SHOUT, hooks=HOOKS, extra=more + extra, schema=SCHEMA)


def asked(root: Path, ask: Callable[[ControlClient], V], **changes: Any) -> V:
    """Open a host and ask it from another thread, as another process would."""

    async def scenario() -> V:
        async with open_host(root, **{"control": True, "contracts": [T, Extra, Voice]} | changes):
            return await asyncio.to_thread(use)

    def use() -> V:
        with ControlClient.connect(root / "state") as client:
            return ask(client)

    return run(scenario)


def refusal(client: ControlClient, method: str, /, **params: Any) -> AnnexeError:
    with pytest.raises(AnnexeError) as caught:
        client.call(method, **params)
    return caught.value


def test_status_list_and_show_tell_what_runs(tmp_path: Path) -> None:
    shout(tmp_path)
    (tmp_path / "plugins" / "broken").mkdir()
    (tmp_path / "plugins" / "broken" / "plugin.toml").write_text("nonsense = 1\n")

    def ask(client: ControlClient) -> tuple[Any, ...]:
        return client.call("status"), client.call("list"), client.call("show", plugin="shout"), client.call("show", plugin="broken")

    status, plugins, shown, broken = asked(tmp_path, ask)
    assert status["pid"] == os.getpid()
    assert status["plugins"] == {"ready": 1, "blocked": 1}
    assert status["levels"] == {level_here(): 1} and status["isolation"] == "none"
    assert [one["level"] for one in plugins] == [None, level_here()]
    assert shown["requires_level"] == "none" and broken["requires_level"] is None
    assert status["grants"] == "manifest"
    assert "t.edit" in status["hooks"] and "voice.say" in status["extensions"]
    assert [(one["id"], one["state"]) for one in plugins] == [("broken", "blocked"), ("shout", "ready")]
    assert shown["receipt"]["level"] == level_here() and f"level: {level_here()}" in shown["receipt_text"]
    assert [change["state"] for change in shown["history"]] == ["installed", "stopped", "starting", "ready"]
    assert {limit["name"]: limit["worth"] for limit in shown["limits"]}["open-files"] == "enforced"
    assert shown["hooks"] == dict.fromkeys(HOOKS, 1) and shown["extensions"] == {"voice": 1}
    assert broken["receipt"] is None and "is not a valid manifest" in broken["problems"]


def test_worth_of_rights_is_told_rightly_before_anything_was_started(tmp_path: Path) -> None:
    shout(tmp_path, extra="[permissions]\nnetwork = ['api.example.org:443']\nsubprocess = true")
    shown, permissions = asked(
        tmp_path, lambda client: (client.call("show", plugin="shout"), client.call("permissions", plugin="shout")), grants="stored"
    )
    assert shown["receipt"] is None
    for told in (shown["rights"], permissions["rights"]):
        assert {right["right"]: right["worth"] for right in told} == {"network:api.example.org:443": "enforced", "subprocess": "enforced"}


@pytest.mark.parametrize(
    ("method", "args", "value"),
    [
        pytest.param("t.edit", [{"text": "hi"}], {"text": "HI", "marks": []}, id="filter"),
        pytest.param("hook.t.edit", [{"text": "hi"}], {"text": "HI", "marks": []}, id="as on the wire"),
        pytest.param("t.act", [{"text": "hi"}], None, id="action"),
        pytest.param("t.find", [{"text": "hi"}], "hi", id="first result"),
        pytest.param("t.find", [{"text": ""}], None, id="nothing found"),
        pytest.param("t.seen", ["hi"], None, id="observer"),
        pytest.param("t.chunks", [["a", "b"]], ["A", "B"], id="stream filter"),
        pytest.param("extra.swap", [[1, 2]], [3, 2], id="default argument"),
        pytest.param("voice.say", [{"text": "hi", "raw": "aGk="}, True], "hi!", id="extension"),
        pytest.param("ext.voice.words", ["a b"], ["a", "b"], id="stream out"),
        pytest.param("voice.join", [["a", "b"]], "a-b", id="stream in"),
    ],
)
@pytest.mark.parametrize("plugin", ["shout", None])
def test_call_goes_through_the_contract(tmp_path: Path, method: str, args: list[Any], value: Any, plugin: str | None) -> None:
    shout(tmp_path)
    answer = asked(tmp_path, lambda client: client.call("call", method=method, plugin=plugin, args=args))
    assert (answer["outcome"], answer["value"]) == ("result", value)
    assert [step["plugin"] for step in answer["steps"]] in (["shout"], [])


def test_call_by_name_responds_rejects_and_fails(tmp_path: Path) -> None:
    shout(tmp_path)

    def ask(client: ControlClient) -> None:
        named = client.call("call", method="extra.swap", kwargs={"by": 5, "numbers": [1]}, request="mine-1")
        assert (named["value"], named["request"]) == ([6], "mine-1")
        assert client.call("explain", request="mine-1")["steps"][0]["outcome"] == "changed"
        assert client.call("requests", count=1) == ["mine-1"]
        responded = client.call("call", method="t.ask", args=[{"text": "hi"}])
        assert (responded["outcome"], responded["value"]) == ("responded", {"answer": "hi!"})

        rejected = refusal(client, "call", method="t.edit", plugin="shout", args=[{"text": "no"}])
        assert isinstance(rejected, RejectedError) and rejected.status == 418 and rejected.reject_code == "not-this"
        # At one plugin its failure is the answer; as the application would call, the hook's policy holds.
        failed = refusal(client, "call", method="t.edit", plugin="shout", args=[{"text": "boom"}])
        assert isinstance(failed, HookError) and failed.reason == "plugin-raised" and "it went wrong" in failed.message
        open_ = client.call("call", method="t.edit", args=[{"text": "boom"}])
        assert open_["value"]["text"] == "boom" and [step["outcome"] for step in open_["steps"]] == ["failed"]

    asked(tmp_path, ask)


@pytest.mark.parametrize(
    ("params", "error", "facts"),
    [
        pytest.param({"method": "t.edit", "args": [{"text": 5}]}, InvalidParamsError, {"parameter": "doc", "path": "$.text"}, id="type"),
        pytest.param({"method": "t.edit", "args": []}, InvalidParamsError, {"parameter": "doc"}, id="missing"),
        pytest.param({"method": "t.edit", "args": [{"text": "a"}, 1]}, InvalidParamsError, {"parameter": ""}, id="too many"),
        pytest.param({"method": "t.edit", "kwargs": {"dok": 1}}, InvalidParamsError, {"parameter": "dok"}, id="unknown name"),
        pytest.param({"method": "t.chunks", "args": ["ab"]}, InvalidParamsError, {"actual": "str"}, id="no list for a stream"),
        pytest.param({"method": "t.edit", "args": [], "request": "two words"}, InvalidParamsError, {"method": "t.edit"}, id="request id"),
        pytest.param({"method": "t.edit", "args": [], "deadline_s": -1}, InvalidParamsError, {"method": "call"}, id="deadline"),
        pytest.param({"method": "t.gone"}, MethodNotFoundError, {"method": "t.gone"}, id="no such hook"),
        pytest.param({"method": "hook.voice.say"}, MethodNotFoundError, {"method": "hook.voice.say"}, id="no hook but a method"),
        pytest.param({"method": "t.timed", "plugin": "shout"}, PluginUnavailableError, {"method": "hook.t.timed"}, id="not implemented"),
        pytest.param({"method": "t.edit", "plugin": "nobody"}, UnknownPluginError, {}, id="no such plugin"),
    ],
)
def test_call_with_wrong_arguments_is_refused(
    tmp_path: Path, params: dict[str, Any], error: type[AnnexeError], facts: dict[str, Any]
) -> None:
    shout(tmp_path)
    refused = asked(tmp_path, lambda client: refusal(client, "call", **params))
    assert type(refused) is error
    assert {name: refused.data.get(name) for name in facts} == facts


def test_extension_point_without_plugin_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    refused = asked(tmp_path, lambda client: refusal(client, "call", method="voice.say", args=[{"text": "a"}]))
    assert isinstance(refused, PluginUnavailableError) and refused.method == "ext.voice.say"


def test_plugin_is_switched_and_the_answer_tells_its_state(tmp_path: Path) -> None:
    shout(tmp_path)

    def ask(client: ControlClient) -> list[str]:
        return [client.call(step, plugin="shout")["state"] for step in ("stop", "start", "restart", "disable", "enable")]

    assert asked(tmp_path, ask) == ["stopped", "ready", "ready", "stopped", "ready"]


def test_grant_needs_the_rights_that_were_read(tmp_path: Path) -> None:
    shout(tmp_path, extra="[permissions]\nkv = { quota = '1MiB' }\n")

    def ask(client: ControlClient) -> None:
        shown = client.call("show", plugin="shout")
        assert (shown["state"], shown["rights"][0]["granted"], shown["rights"][0]["worth"]) == ("blocked", False, "enforced")
        refused = refusal(client, "grant", plugin="shout", rights=[])
        assert isinstance(refused, ConflictError) and refused.data == {"expected": [], "actual": ["kv"]}
        stale = refusal(client, "grant", plugin="shout", rights=["kv"], digest="sha3-512:00")
        assert isinstance(stale, ConflictError) and stale.data["actual"] == shown["digest"]
        assert client.call("show", plugin="shout")["state"] == "blocked"
        assert client.call("grant", plugin="shout", rights=["kv"], digest=shown["digest"])["state"] == "ready"
        assert client.call("show", plugin="shout")["rights"][0]["granted"] is True
        assert client.call("revoke", plugin="shout")["state"] == "blocked"

    asked(tmp_path, ask, grants="stored")


def test_grant_is_refused_where_grants_come_from_elsewhere(tmp_path: Path) -> None:
    shout(tmp_path)
    refused = asked(tmp_path, lambda client: refusal(client, "grant", plugin="shout", rights=[]))
    assert type(refused) is HostError and refused.data == {"reason": "policy"}
    policy = tmp_path / "policy.toml"
    policy.write_text("policy-version = 1\n[plugins]\n")
    refused = asked(tmp_path, lambda client: refusal(client, "revoke", plugin="shout"), grants=policy)
    assert type(refused) is HostError and str(policy) in refused.message


def test_configuration_is_checked_pushed_and_kept_from_overwriting(tmp_path: Path) -> None:
    shout(tmp_path)

    def ask(client: ControlClient) -> None:
        assert client.call("config.get", plugin="shout") == {"plugin": "shout", "value": {"level": 1}, "written": {}, "revision": 0}
        told = client.call("config.set", plugin="shout", value={"level": 3}, expected_revision=0)
        assert (told["value"], told["revision"]) == ({"level": 3}, 1)
        wrong = refusal(client, "config.set", plugin="shout", value={"level": -1})
        assert isinstance(wrong, ConfigInvalidError) and wrong.data["problems"][0]["path"] == "/level"
        late = refusal(client, "config.set", plugin="shout", value={}, expected_revision=0)
        assert isinstance(late, ConflictError) and late.data["actual_revision"] == 1
        records = list(client.stream("logs", plugin="shout"))
        assert [record["fields"]["level"] for record in records if record["message"] == "configured"] == [3]

    asked(tmp_path, ask)


def test_scan_finds_what_is_new_and_gone(tmp_path: Path) -> None:
    shout(tmp_path)

    def ask(client: ControlClient) -> tuple[Any, Any]:
        write_plugin(tmp_path / "plugins", "late", "")
        (tmp_path / "plugins" / "shout" / "plugin.toml").unlink()
        return client.call("scan"), client.call("list")

    scanned, plugins = asked(tmp_path, ask)
    assert scanned == {"added": ["late"], "removed": ["shout"], "known": 1}
    assert [(one["id"], one["state"]) for one in plugins] == [("late", "ready")]


def test_schema_and_metrics_are_told(tmp_path: Path) -> None:
    shout(tmp_path)

    def ask(client: ControlClient) -> tuple[Any, Any]:
        client.call("call", method="t.edit", args=[{"text": "hi"}])
        return client.call("schema"), client.call("metrics")

    schema, metrics = asked(tmp_path, ask)
    assert set(schema["hook_specs"]) == {"t", "extra"} and set(schema["extensions"]) == {"voice"}
    assert metrics["shout"]["methods"]["hook.t.edit"]["calls"] == 1


def test_log_and_events_are_followed(tmp_path: Path) -> None:
    shout(tmp_path)

    def ask(client: ControlClient) -> None:
        with ControlClient.connect(tmp_path / "state") as logs, ControlClient.connect(tmp_path / "state") as events:
            records = logs.stream("logs", plugin="shout", count=1, follow=True)
            happenings = events.stream("events", plugin="shout", kind="state-changed", count=1, follow=True)
            assert "ready" in next(records)["message"]
            assert next(happenings)["facts"]["after"] == "ready"
            client.call("call", method="t.act", args=[{"text": "\x1b[2Jhi"}])
            record = next(records)
            assert (record["message"], record["fields"], record["source"]) == ("acted", {"what": "\\x1b[2Jhi"}, "log")
            client.call("stop", plugin="shout")
            assert [next(happenings)["facts"]["after"] for _ in range(2)] == ["draining", "stopped"]
        kinds = {event["kind"] for event in client.stream("events")}
        assert {"host-started", "plugin-added", "state-changed"} <= kinds
        assert isinstance(refusal(client, "events", kind="nonsense"), InvalidParamsError)
        assert isinstance(refusal(client, "logs", plugin="nobody"), UnknownPluginError)

    asked(tmp_path, ask)


def test_change_goes_on_when_its_client_leaves(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "slow", "@plugin.on_activate\ndef wait(ctx):\n    time.sleep(1)\n")

    def leave() -> None:
        with ControlClient.connect(tmp_path / "state") as watching:
            watching.call("stop", plugin="slow")
            leaving = ControlClient.connect(tmp_path / "state")
            leaving._socket.sendall(b'{"id": 9, "method": "start", "params": {"plugin": "slow"}}\n')
            while watching.call("list")[0]["state"] not in ("starting", "ready"):
                pass
            leaving.close()

    async def scenario() -> None:
        async with open_host(tmp_path, control=True) as host:
            await asyncio.to_thread(leave)
            while host.plugin("slow").state != "ready":
                await asyncio.sleep(0.01)

    run(scenario)


def test_changes_at_the_same_time_leave_a_plugin_that_works(tmp_path: Path) -> None:
    shout(tmp_path, extra=KV)
    steps = ("restart", "disable", "enable", "stop", "start", "revoke")

    def hammer(seed: int) -> None:
        chance = random.Random(seed)
        with ControlClient.connect(tmp_path / "state") as client:
            for _ in range(12):
                with contextlib.suppress(ConflictError, CallError, HookError, PluginBlockedError):  # disabled by another
                    match chance.randrange(5):
                        case 0:
                            client.call("grant", plugin="shout", rights=["kv"])
                        case 1:
                            client.call("config.set", plugin="shout", value={"level": chance.randrange(9)})
                        case 2:
                            client.call("call", method="t.edit", plugin="shout", args=[{"text": "hi"}], deadline_s=1)
                        case _:
                            client.call(chance.choice(steps), plugin="shout")

    async def scenario() -> None:
        async with open_host(tmp_path, control=True, contracts=[T, Extra, Voice], grants="stored") as host:
            # Threads of their own: the loop's few are what the host works with.
            with ThreadPoolExecutor(6) as threads:
                await asyncio.gather(*(asyncio.get_running_loop().run_in_executor(threads, hammer, seed) for seed in range(6)))
            plugin = host.plugin("shout")
            await plugin.grant()
            await plugin.enable()
            await plugin.restart()
            assert plugin.state == "ready", plugin.reason
            assert (await host.hooks(T).edit(Doc("hi"))).text == "HI"

    run(scenario)


def test_socket_and_token_are_ours_alone_and_gone_with_the_host(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    folder = tmp_path / "state" / "control"
    tokens = []

    def ask(_client: ControlClient) -> None:
        tokens.append((folder / "token").read_text())
        modes = [stat.S_IMODE(path.lstat().st_mode) for path in (folder, folder / "socket", folder / "token")]
        assert modes == [0o700, 0o600, 0o600]

    asked(tmp_path, ask)
    asked(tmp_path, ask)
    assert tokens[0] != tokens[1] and len(tokens[0]) > 40
    assert list(folder.iterdir()) == []
    with pytest.raises(HostNotRunningError) as caught:
        ControlClient.connect(tmp_path / "state")
    assert caught.value.data == {"path": str(tmp_path / "state")}


def test_socket_of_a_killed_host_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    folder = tmp_path / "state" / "control"
    folder.mkdir(parents=True)
    (folder / "socket").write_text("left behind")
    (folder / "token.draft").write_text("left behind")
    assert asked(tmp_path, lambda client: client.call("status"))["plugins"] == {}


def test_state_directory_of_any_depth_will_do(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a-rather-long-folder-name"] * 8)
    deep.mkdir(parents=True)
    (deep / "plugins").mkdir()
    assert len(str(deep)) > 200
    assert asked(deep, lambda client: client.call("status"))["state_dir"] == str(deep / "state")


def test_control_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "control").symlink_to(tmp_path / "elsewhere")

    async def scenario() -> None:
        with pytest.raises(HostError) as caught:
            async with open_host(tmp_path, control=True):
                pass
        assert caught.value.data["path"] == str(tmp_path / "state" / "control")

    run(scenario)
