"""Calls from plugin to plugin, through real processes."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from annexe import HealthPolicy, Host, ServicePolicy
from annexe.channel.messages import JSON
from annexe.errors import InvalidParamsError, MethodNotFoundError, PluginUnavailableError
from annexe.host.control_client import ControlClient
from annexe.record import EventKind
from tests.process.hosts import Doc, T, connection_of, events, open_host, outcome_of, policies, run, until, wait_state, write_plugin

pytestmark = pytest.mark.any_user

WORDS = """
@plugin.service("tokenizer")
class Tokenizer:
    def count(self, text, ctx):
        return len(text.split())
    def who(self, ctx):
        return [ctx.caller, ctx.request_id, ctx.key, ctx.traceparent]
    def here(self):
        return "{plugin}"
    def slow(self, seconds, ctx):
        open(ctx.data_dir + "/began", "w").close() if "data" in ctx.grants else None
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if ctx.cancelled:
                ctx.log.info("was cancelled")
                return "cancelled"
            time.sleep(0.005)
        return "slept"
    def die(self):
        os._exit(7)
    def echo(self, value):
        return value
    def raises(self):
        raise ValueError("not today")
    def refuses(self):
        raise Reject("no-words", "there are none", status=404)
"""
CALLS = """
inf = float("inf")

@plugin.filter("t.edit")
def edit(doc, ctx):
    tokenizer = ctx.service("tokenizer")
    method, args = eval(doc["text"])
    try:
        doc["marks"].append(repr(getattr(tokenizer, method)(*args)))
    except Exception as error:
        doc["marks"] += [type(error).__name__, getattr(error, "code", ""), str(error)]
    return doc
"""
CALLS_AWAITED = CALLS.replace("def edit", "async def edit").replace("repr(getattr(", "repr(await getattr(")
ASKS = '[requires.services]\n"tokenizer" = { version = ">=1,<2" }\n[permissions]\nservices = ["tokenizer"]\n'


def offer(version: str = "1.2.0", idempotent: str = "[]") -> str:
    return f'[provides.services]\n"tokenizer" = {{ version = "{version}", idempotent = {idempotent} }}\n'


def write_words(root: Path, plugin: str = "words", *, extra: str = "", runtime: str = "", **terms: str) -> None:
    write_plugin(root / "plugins", plugin, WORDS.replace("{plugin}", plugin), extra=offer(**terms) + extra, runtime=runtime)


def write_caller(root: Path, plugin: str = "caller", *, code: str = CALLS, extra: str = ASKS, runtime: str = "") -> None:
    write_plugin(root / "plugins", plugin, code, hooks=["t.edit"], extra=extra, runtime=runtime)


async def called(host: Host, method: str, *args: Any, deadline_s: float = 5.0, **request: Any) -> list[str]:
    """Have the caller call a method of the service; return what it saw."""
    async with host.request(deadline_s=deadline_s, **request) as scope:
        doc = await scope.hooks(T).edit(Doc(repr((method, args))))
    return doc.marks


@pytest.mark.both_users
@pytest.mark.parametrize("code", [pytest.param(CALLS, id="def"), pytest.param(CALLS_AWAITED, id="async def")])
@pytest.mark.parametrize("codecs", [pytest.param(("msgpack", "json"), id="msgpack"), pytest.param(("json",), id="json")])
def test_service_answers_and_knows_on_whose_behalf(open_folder: Path, tmp_path: Path, code: str, codecs: Any) -> None:
    async def scenario() -> None:
        write_words(tmp_path)
        write_caller(tmp_path, code=code)
        async with open_host(tmp_path, codecs=codecs) as host:
            assert await called(host, "count", "one two three") == ["3"]
            told = await called(host, "who", id="r-7", key="tenant-1", traceparent=f"00-{'a' * 32}-{'b' * 16}-01")
            assert told == [repr(["caller", "r-7", "tenant-1", f"00-{'a' * 32}-{'b' * 16}-01"])]
            assert await called(host, "raises") == [
                "CallFailed",
                "plugin-raised",
                "plugin-raised: plugin 'words', svc.tokenizer.raises: ValueError: not today (at main.py:27)",
            ]
            assert (await called(host, "refuses"))[1] == "rejected"
            assert (await called(host, "nothing"))[1:] == [
                "method-not-found",
                "method-not-found: plugin 'words' has no 'svc.tokenizer.nothing'; methods of that service there: "
                "count, die, echo, here, raises, refuses, slow, who",
            ]

    run(scenario)


def test_what_json_cannot_say_is_refused_between_plugins_of_two_codecs(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_words(tmp_path)
        write_caller(tmp_path)
        async with open_host(tmp_path) as host:
            words = connection_of(host, "words")
            words.codec = JSON  # as with an SDK that has no MessagePack
            assert await called(host, "echo", {"deep": [1, 2.5, None, "é", True, {"k": []}]}) == [
                repr({"deep": [1, 2.5, None, "é", True, {"k": []}]})
            ]
            assert await called(host, "echo", b"\x00\xff") == [repr("AP8=")]
            refused = await called(host, "echo", float("inf"))
            assert refused[1] == "invalid-params"
            assert "cannot be passed on: at $[0]: expected a finite number, got inf" in refused[2]

    run(scenario)


def test_long_bytes_go_from_plugin_to_plugin(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_words(tmp_path)
        write_caller(
            tmp_path, code=CALLS.replace("eval(doc", "(lambda m, a: (m, [a[0] * a[1]]))(*eval(doc").replace('["text"])', '["text"]))')
        )
        async with open_host(tmp_path) as host:
            assert (await called(host, "echo", b"ab", 200_000))[0] == repr(b"ab" * 200_000)

    run(scenario)


def test_deadline_of_the_request_ends_the_call_and_cancels_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        # It reads the cancel while it works because it could run a second call.
        write_words(tmp_path, extra='[resources]\ncall-timeout = "20s"\n', runtime="concurrency = 2")
        write_caller(tmp_path, extra=ASKS + '[resources]\ncall-timeout = "20s"\n')
        async with open_host(tmp_path) as host:
            began = asyncio.get_running_loop().time()
            error = await outcome_of(called(host, "slow", 10, deadline_s=1.0))
            assert error == [] and asyncio.get_running_loop().time() - began < 5.0  # the hook fails open
            await until(lambda: not connection_of(host, "words").open_calls, what="words to be asked to stop")
            await until(lambda: any("was cancelled" in line["message"] for line in host.logs.tail("words", 20)))
            assert await called(host, "count", "a b") == ["2"]

    run(scenario)


def test_own_call_timeout_of_the_provider_holds(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_words(tmp_path, extra='[resources]\ncall-timeout = "100ms"\n')
        write_caller(tmp_path)
        async with open_host(tmp_path) as host:
            told = await called(host, "slow", 10)
            assert told[:2] == ["DeadlineExceeded", "deadline-exceeded"]
            assert "plugin 'words' did not answer svc.tokenizer.slow within its deadline of 0.1 s" in told[2]
            (event,) = events(host, EventKind.CALL_FAILED, "words")
            assert event.facts["caller"] == "caller" and event.facts["code"] == "deadline-exceeded"

    run(scenario)


def test_provider_that_dies_leaves_the_outcome_unknown_and_is_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_words(tmp_path)
        write_caller(tmp_path)
        async with open_host(tmp_path, policies=policies(first_delay_s=0.5)) as host:
            assert (await called(host, "die"))[1] == "outcome-unknown"
            assert host.plugin("caller").state == "ready"  # a crash of what it requires is not its own
            await wait_state(host.plugin("words"), "backing-off")
            assert (await called(host, "count", "a b"))[1] == "unavailable"
            await wait_state(host.plugin("words"), "ready")
            assert await called(host, "count", "a b") == ["2"]

    run(scenario)


def test_call_of_an_idempotent_method_is_answered_by_the_next_provider_when_the_first_dies(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_words(tmp_path, "words-a", idempotent='["slow"]')
        write_words(tmp_path, "words-b", idempotent='["slow"]')
        write_caller(tmp_path)
        async with open_host(tmp_path) as host:
            call = asyncio.ensure_future(called(host, "slow", 0.3))
            await until(lambda: connection_of(host, "words-a").open_calls, what="the call to reach words-a")
            os.kill(_pid(host, "words-a"), signal.SIGKILL)
            assert await call == [repr("slept")]
            dying = asyncio.ensure_future(called(host, "die"))  # not declared so
            assert (await dying)[1] == "outcome-unknown"

    run(scenario)


def _pid(host: Host, plugin: str) -> int:
    pid = host.plugin(plugin).pid
    assert pid is not None
    return pid


@pytest.mark.parametrize(
    ("select", "keys", "expected"),
    [
        pytest.param("first", ["a"] * 4, ["words-b"] * 4, id="first"),
        pytest.param("round-robin", ["a"] * 6, ["words-a", "words-c", "words-b"] * 2, id="round-robin"),
        pytest.param("sticky", ["a", "b", "c", "d"] * 2, None, id="sticky"),
        pytest.param("least-loaded", ["a"] * 4, ["words-b"] * 4, id="least-loaded"),
    ],
)
def test_operator_chooses_who_answers(tmp_path: Path, select: Any, keys: list[str], expected: list[str] | None) -> None:
    async def scenario() -> None:
        for plugin in ("words-a", "words-b", "words-c"):
            write_words(tmp_path, plugin)
        write_words(tmp_path, "words-old", version="0.9.0")
        write_caller(tmp_path)
        policy = ServicePolicy(select=select, order=["words-b"])
        async with open_host(tmp_path, services={"tokenizer": policy}) as host:
            answered = [(await called(host, "here", key=key))[0] for key in keys]
        assert repr("words-old") not in answered  # not in the range that the caller wants
        if expected is not None:
            assert answered == [repr(name) for name in expected]
        else:
            assert answered[:4] == answered[4:] and len(set(answered)) > 1

    run(scenario)


def test_busy_or_stopped_provider_is_passed_over(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_words(tmp_path, "words-a")
        write_words(tmp_path, "words-b")
        write_caller(tmp_path, extra=ASKS)
        async with open_host(tmp_path) as host:
            assert await called(host, "here") == [repr("words-a")]
            await host.plugin("words-a").stop()
            assert host.plugin("caller").state == "ready"  # the other one stands in
            assert await called(host, "here") == [repr("words-b")]
            await host.plugin("words-a").start()
            assert await called(host, "here") == [repr("words-a")]

    run(scenario)


def test_service_that_was_not_granted_is_refused_with_the_line(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_words(tmp_path)
        write_caller(tmp_path, extra="")
        async with open_host(tmp_path) as host:
            told = await called(host, "count", "a")
            assert told[:2] == ["PermissionDenied", "permission-denied"]
            assert told[2].startswith("plugin 'caller' has no permission")  # and does not say its code once more
            assert 'add to plugin.toml under [permissions]: services = ["tokenizer"]' in told[2]
            (event,) = events(host, EventKind.PERMISSION_DENIED, "caller")
            assert event.facts["permission"] == "services:tokenizer"

    run(scenario)


def test_misspelt_service_is_told_with_what_it_may_have_meant(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_words(tmp_path)
        asks = '[requires.services]\n"tokenizer" = { version = ">=1" }\n[permissions]\nservices = ["tokeniser"]\n'
        write_caller(tmp_path, code=CALLS.replace('"tokenizer"', '"tokeniser"'), extra=asks)
        async with open_host(tmp_path) as host:
            told = await called(host, "count", "a")
            assert told[1] == "unavailable" and "did you mean 'tokenizer'? Else install a plugin that has" in told[2]
            add = 'add to plugin.toml under [permissions]: services = ["tokeniser", "tokenizer"]'
            lines = [line["message"] for line in await asyncio.to_thread(host.logs.tail, "caller", 20)]
            assert f"it requires service 'tokenizer' and has no right to call it; {add}" in lines

    run(scenario)


def test_operator_calls_a_service_by_name(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_words(tmp_path)
        write_words(tmp_path, "words-b")

        def use() -> None:
            with ControlClient.connect(tmp_path / "state") as client:
                assert client.call("call", method="svc.tokenizer.count", plugin="words", args=["a b"])["value"] == 2
                assert client.call("call", method="svc.tokenizer.here", plugin=None)["value"] == "words-b"
                told = client.call("call", method="svc.tokenizer.who", plugin="words", key="k", request="r-1")["value"]
                assert told[:3] == [None, "r-1", "k"]
                with pytest.raises(
                    PluginUnavailableError,
                    match="plugin 'words' does not offer service 'speech'; services that are offered here: tokenizer",
                ):
                    client.call("call", method="svc.speech.count", plugin="words")
                with pytest.raises(MethodNotFoundError, match=r"methods of that service there: .*count"):
                    client.call("call", method="svc.tokenizer.nothing", plugin="words")
                with pytest.raises(MethodNotFoundError, match=r"open: .*; a service is called as svc.tokenizer.count"):
                    client.call("call", method="tokenizer.count", plugin=None)
                with pytest.raises(InvalidParamsError, match="by position"):
                    client.call("call", method="svc.tokenizer.count", plugin="words", kwargs={"text": "a"})

        async with open_host(tmp_path, control=True, services={"tokenizer": ServicePolicy(order=["words-b"])}):
            await asyncio.to_thread(use)

    run(scenario)


def test_service_is_not_offered_by_whoever_takes_its_name(tmp_path: Path) -> None:
    """A plugin without a grant for the name does not run, and one that does not declare it cannot answer."""

    async def scenario() -> None:
        write_words(tmp_path, "words")
        write_words(tmp_path, "a-thief")
        write_plugin(tmp_path / "plugins", "a-liar", WORDS.replace("{plugin}", "a-liar"))
        write_caller(tmp_path, extra=ASKS)
        async with open_host(tmp_path, grants="stored") as host:
            for plugin in ("words", "caller"):
                await host.plugin(plugin).grant()
            thief = host.plugin("a-thief")
            assert thief.state == "blocked" and "it asks for provide:tokenizer, which nobody has granted" in thief.reason
            told = events(host, EventKind.LAUNCH_FAILED, "a-liar")
            assert "answers service 'tokenizer', which its plugin.toml does not declare; declared are: none" in told[0].reason
            assert await called(host, "here") == [repr("words")]

    run(scenario)


def test_calls_back_and_forth_end_at_their_depth_and_block_nobody(tmp_path: Path) -> None:
    async def scenario() -> None:
        ping = """
        @plugin.service("{own}")
        class Own:
            def hit(self, left, ctx):
                return 0 if left == 0 else 1 + ctx.service("{other}").hit(left - 1)
        """
        for own, other in (("ping", "pong"), ("pong", "ping")):
            extra = f'[provides.services]\n"{own}" = {{ version = "1.0.0" }}\n[permissions]\nservices = ["{other}"]\n'
            write_plugin(tmp_path / "plugins", own, ping.replace("{own}", own).replace("{other}", other), extra=extra)
        code = CALLS.replace('"tokenizer"', '"ping"')
        write_caller(tmp_path, code=code, extra='[permissions]\nservices = ["ping"]\n')
        async with open_host(tmp_path) as host:
            assert await called(host, "hit", 10) == ["10"]
            told = await called(host, "hit", 40)
            assert told[0] == "CallFailed" and "calls within calls are 16 deep; expected at most 16" in told[2]
            assert await called(host, "hit", 10) == ["10"]

    run(scenario)


def test_many_calls_at_once_each_get_their_own_answer(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_words(tmp_path)
        write_caller(tmp_path, code=CALLS_AWAITED, runtime="concurrency = 64")
        async with open_host(tmp_path) as host:
            answers = await asyncio.gather(*(called(host, "echo", number) for number in range(300)))
            assert answers == [[repr(number)] for number in range(300)]

    run(scenario)


HEARS = """
@plugin.on_service("tokenizer")
def changed(change, ctx):
    ctx.log.info("heard", service=change.service, state=change.state, providers=list(change.providers))
"""


async def heard(host: Host) -> list[tuple[str, list[str]]]:
    lines = await asyncio.to_thread(host.logs.tail, "caller", 200)
    return [(line["fields"]["state"], line["fields"]["providers"]) for line in lines if line["message"] == "heard"]


@pytest.mark.both_users
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_plugin_is_told_how_the_services_that_it_uses_are(tmp_path: Path, kind: str) -> None:
    async def scenario() -> None:
        optional = ASKS.replace('version = ">=1,<2"', 'version = ">=1,<2", optional = true')
        write_words(tmp_path, "words-a")
        async with open_host(
            tmp_path, policies=policies(health=HealthPolicy(ping_interval_s=0.05, ping_timeout_s=5.0, slow_s=1.0))
        ) as host:
            # Once its provider is there: it waits for nobody, and would else be told that there is none.
            write_caller(tmp_path, code=HEARS.replace("def changed", f"{kind} changed") + CALLS, extra=optional)
            await host.scan()
            await wait_state(host.plugin("caller"), "ready")
            await until(lambda: host.plugin("words-a").state == host.plugin("caller").state == "ready", what="both to be ready")
            while (told := await heard(host))[-1:] != [("ready", ["words-a"])]:  # gone before, where the caller was there first
                await asyncio.sleep(0.01)

            async def hears(state: str, *providers: str) -> None:
                told.append((state, list(providers)))
                for _ in range(1000):
                    if await heard(host) == told:
                        return
                    await asyncio.sleep(0.01)
                assert await heard(host) == told

            write_words(tmp_path, "words-b")
            await host.scan()
            await hears("ready", "words-a", "words-b")
            await host.plugin("words-a").stop()
            await hears("ready", "words-b")
            os.kill(_pid(host, "words-b"), signal.SIGSTOP)
            await asyncio.sleep(1.5)
            os.kill(_pid(host, "words-b"), signal.SIGCONT)
            await hears("degraded", "words-b")
            await hears("ready", "words-b")
            await host.plugin("words-b").disable()
            await hears("gone")
            await host.plugin("words-a").start()
            await hears("ready", "words-a")
            await host.plugin("words-a").reload()  # nobody misses anything
            assert await called(host, "count", "a b") == ["2"]
            os.kill(_pid(host, "words-a"), signal.SIGKILL)
            await hears("gone")
            await hears("ready", "words-a")

    run(scenario)


def test_plugin_that_watches_a_service_which_it_may_not_use_does_not_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        write_words(tmp_path)
        write_caller(tmp_path, code=HEARS + CALLS, extra="")
        async with open_host(tmp_path) as host:
            (refused, *_) = events(host, EventKind.LAUNCH_FAILED, "caller")
            assert "wants to be told of service 'tokenizer', which it may not use; add to plugin.toml" in refused.reason

    run(scenario)
