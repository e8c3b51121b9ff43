"""The runner without a host: what handlers see, and what tests get back."""

# mypy: disable-error-code="empty-body"
from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from annexe import ExtensionPoint, HookSpec, hook
from annexe.errors import ActivationError, ConfigInvalidError, InvalidParamsError, InvalidResultError, ManifestError, MethodNotFoundError
from annexe.testing import FakeClock, LogLine, MetricValue, PluginRunner, PublishedEvent
from annexe_sdk import AsyncContext, CallFailed, Context, Event, PermissionDenied, Plugin, Reject, Respond
from annexe_sdk.codec import CodecError


@dataclass
class Message:
    role: str


@dataclass
class Chat:
    messages: list[Message] = field(default_factory=list)


class Shop(HookSpec, name="shop", revision=1):
    @hook.filter(responds=int)
    async def price(self, chat: Chat, rate: float = 0.5) -> Chat: ...

    @hook.action
    async def told(self, text: str) -> None: ...

    @hook.stream_filter
    def lines(self, lines: AsyncIterator[str], count: int) -> AsyncIterator[str]: ...


class Words(ExtensionPoint, name="words", revision=1):
    async def tax(self, order: int, rate: float = 0.2) -> float: ...
    async def join(self, words: AsyncIterator[str], by: str = "-") -> str: ...
    def split(self, text: str) -> AsyncIterator[str]: ...


class Orders:
    name: ClassVar[str] = "orders"

    async def find(self, id: int, deep: bool = False) -> dict[str, int]:
        return {"id": id, "deep": int(deep)}


@pytest.fixture
def plugin() -> Plugin:
    return Plugin()


def test_call_gives_plain_values_and_takes_plain_values(plugin: Plugin) -> None:
    seen: list[Any] = []

    @plugin.filter("chat.on_request")
    def change(request: dict[str, Any], ctx: Context) -> Any:
        seen.append(request)
        return {"messages": (1, 2)}

    given = Chat([Message("user")])
    assert PluginRunner(plugin).call("chat.on_request", given) == {"messages": [1, 2]}
    assert seen == [{"messages": [{"role": "user"}]}]


def test_call_builds_the_dataclasses_of_annotations(plugin: Plugin) -> None:
    @plugin.filter("chat.on_request")
    def change(request: Chat) -> Chat:
        request.messages.append(Message("assistant"))
        return request

    answer = PluginRunner(plugin).call("chat.on_request", {"messages": [{"role": "user"}]})
    assert answer == {"messages": [{"role": "user"}, {"role": "assistant"}]}


def test_call_of_an_unchanged_filter_gives_what_was_sent(plugin: Plugin) -> None:
    @plugin.filter("chat.on_request")
    def leave(request: dict[str, Any], ctx: Context) -> Any:
        request["lost"] = True
        return ctx.unchanged

    assert PluginRunner(plugin).call("chat.on_request", {"a": 1}) == {"a": 1}


def test_call_lets_reject_respond_and_mistakes_through(plugin: Plugin) -> None:
    @plugin.filter("chat.on_request")
    def refuse(request: dict[str, Any]) -> Any:
        if request["do"] == "reject":
            raise Reject("no", "not today", status=418)
        if request["do"] == "respond":
            raise Respond(Message("now"))
        raise ZeroDivisionError("mine")

    runner = PluginRunner(plugin)
    with pytest.raises(Reject) as rejected:
        runner.call("chat.on_request", {"do": "reject"})
    assert (rejected.value.code, rejected.value.status) == ("no", 418)
    with pytest.raises(Respond) as responded:
        runner.call("chat.on_request", {"do": "respond"})
    assert responded.value.value == {"role": "now"}
    with pytest.raises(ZeroDivisionError, match="mine"):
        runner.call("chat.on_request", {"do": "fail"})


def test_call_of_an_unknown_hook_says_what_there_is(plugin: Plugin) -> None:
    plugin.action("chat.log")(lambda what: None)
    with pytest.raises(MethodNotFoundError, match=r"hook 'chat.on_request'; it answers: hook.chat.log") as missing:
        PluginRunner(plugin).call("chat.on_request", {})
    assert missing.value.method == "hook.chat.on_request"
    with pytest.raises(MethodNotFoundError, match="extension point 'words'"):
        PluginRunner(plugin).extension("words")


def test_result_that_cannot_travel_is_refused(plugin: Plugin) -> None:
    @plugin.filter("chat.on_request")
    def wrong(request: Any) -> Any:
        return object()

    with pytest.raises(TypeError):
        PluginRunner(plugin).call("chat.on_request", 1)


def test_request_shares_state_id_and_key(plugin: Plugin) -> None:
    @plugin.filter("chat.on_request")
    def count(request: Any, ctx: Context) -> Any:
        ctx.state["count"] = ctx.state.get("count", 0) + 1
        return [ctx.request_id, ctx.key, ctx.deadline_s is not None and 4.0 < ctx.deadline_s <= 5.0]

    @plugin.action("chat.forget")
    def forget(ctx: Context) -> None:
        del ctx.state["count"]

    runner = PluginRunner(plugin)
    with runner.request(id="r-1", key="ann", deadline_s=5.0) as request:
        assert request.call("chat.on_request", 0) == ["r-1", "ann", True]
        request.call("chat.on_request", 0)
        assert request.state == {"count": 2}
        request.call("chat.forget")
        assert request.state == {}
        assert request.id == "r-1"
    assert runner.request().state == {}
    assert runner.call("chat.on_request", 0)[1] is None


def test_logs_and_metrics_are_kept(plugin: Plugin) -> None:
    @plugin.action("chat.log")
    def log(ctx: Context) -> None:
        ctx.log.warning("so it is", why=1)
        ctx.metrics.count("seen", 2, model="m")

    runner = PluginRunner(plugin)
    runner.call("chat.log")
    assert runner.logs == [LogLine("warning", "so it is", {"why": 1})]
    assert runner.metrics == [MetricValue("counter", "seen", 2, {"model": "m"})]


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
def test_events_are_kept_and_told(plugin: Plugin, is_async: bool) -> None:
    heard: list[Any] = []

    async def awaited(event: Event, ctx: AsyncContext) -> None:
        heard.append((event.topic, event.value, event.publisher, ctx.caller, await ctx.publish("b.done", {"n": (1, 2)})))

    def blocking(event: Event, ctx: Context) -> None:
        heard.append((event.topic, event.value, event.publisher, ctx.caller, ctx.publish("b.done", {"n": (1, 2)})))

    handler: Any = awaited if is_async else blocking
    plugin.on_event("a.done")(handler)
    runner = PluginRunner(plugin)
    runner.event("a.done", (7,), publisher="clerk")
    runner.event("a.done")
    assert heard == [("a.done", [7], "clerk", "clerk", 0), ("a.done", None, None, None, 0)]
    assert runner.published == [PublishedEvent("b.done", {"n": [1, 2]})] * 2
    with pytest.raises(MethodNotFoundError, match=r"event 'c\.done'; it answers: event\.a\.done"):
        runner.event("c.done")
    runner.close()


def test_kv_answers_as_the_host_does(plugin: Plugin) -> None:
    @plugin.first_result("t.kv")
    def use(ctx: Context) -> Any:
        kv = ctx.kv
        kv.set("a/1", {"x": 1}, ttl_s=10)
        kv.set("a/2", 2)
        kv.set("b", 3)
        return [
            kv.get("a/1"),
            kv.get("none", "default"),
            kv.increment("a/2", 5),
            kv.increment("new", ttl_s=5),
            kv.list("a/", limit=1),
            kv.list("a/", after="a/1"),
            kv.compare_and_set("b", 3, 4),
            kv.compare_and_set("b", 3, 5),
            kv.compare_and_set("fresh", None, 1),
            kv.delete("b"),
            kv.delete("b"),
        ]

    clock = FakeClock()
    runner = PluginRunner(plugin, clock=clock)
    page = [["a/1"], "a/1"]
    assert runner.call("t.kv") == [{"x": 1}, "default", 7, 1, page, [["a/2"], None], True, False, True, True, False]
    assert runner.kv == {"a/1": {"x": 1}, "a/2": 7, "fresh": 1, "new": 1}
    clock.advance(5)
    assert list(runner.kv) == ["a/1", "a/2", "fresh"]
    clock.advance(5)
    assert list(runner.kv) == ["a/2", "fresh"]


def test_kv_misused_fails_the_call(plugin: Plugin) -> None:
    @plugin.action("t.kv")
    def use(ctx: Context) -> None:
        ctx.kv.set("text", "x")
        ctx.kv.increment("text")

    with pytest.raises(CallFailed) as failed:
        PluginRunner(plugin).call("t.kv")
    assert failed.value.code == "invalid-params"


def test_kv_value_that_was_read_is_a_copy(plugin: Plugin) -> None:
    @plugin.action("t.kv")
    def use(ctx: Context) -> None:
        given = {"n": 1}
        ctx.kv.set("k", given)
        given["n"] = 5
        read = ctx.kv.get("k")
        read["n"] += 1  # without set: lost, as under a host

    runner = PluginRunner(plugin)
    runner.call("t.kv")
    assert runner.kv == {"k": {"n": 1}}
    runner.kv["k"]["n"] = 7
    assert runner.kv == {"k": {"n": 1}}


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
def test_kv_refuses_what_the_host_refuses_with_its_facts(plugin: Plugin, is_async: bool) -> None:
    def use(what: str, ctx: Context) -> Any:
        return ctx.kv.set("k" * 600, 1) if what == "key" else ctx.kv.set("k", b"bytes" if what == "bytes" else object())

    async def use_async(what: str, ctx: AsyncContext) -> None:
        await use(what, ctx)

    plugin.action("t.kv")(use_async if is_async else use)
    with PluginRunner(plugin) as runner:
        for what, param in {"key": "key", "bytes": "value"}.items():
            with pytest.raises(CallFailed, match=f"kv.set: {param}: expected ") as failed:
                runner.call("t.kv", what)
            assert (failed.value.code, failed.value.data["param"], failed.value.data["method"]) == ("invalid-params", param, "kv.set")
        with pytest.raises(CodecError):
            runner.call("t.kv", "object")


def test_capabilities_are_called_with_checked_arguments(plugin: Plugin) -> None:
    @plugin.first_result("t.find")
    def find(how: str, ctx: Context) -> Any:
        orders = ctx.cap("orders")
        if how == "named":
            return orders.find(id=7, deep=True)
        if how == "wrong":
            return orders.find(id="seven")
        if how == "short":
            return orders.find()
        return orders.lose() if how == "unknown" else ctx.cap("nothing").find(1)

    runner = PluginRunner(plugin, capabilities=[Orders()])
    assert runner.call("t.find", "named") == {"id": 7, "deep": 1}
    for how, code in {"wrong": "invalid-params", "short": "invalid-params", "unknown": "method-not-found", "": "method-not-found"}.items():
        with pytest.raises(CallFailed) as failed:
            runner.call("t.find", how)
        assert failed.value.code == code


def test_what_capabilities_take_and_return_makes_the_trip_over_the_wire(plugin: Plugin) -> None:
    class Archive:
        name: ClassVar[str] = "archive"

        async def keep(self, chat: Chat, tags: list[str]) -> Chat:
            tags.append("lost")
            chat.messages.append(Message("archive"))
            return chat

    @plugin.first_result("t.keep")
    def keep(what: Any, ctx: Context) -> Any:
        chat, tags = Chat([Message("user")]), ["a"]
        kept = ctx.cap("archive").keep(chat, tags)
        assert type(kept) is dict
        return [kept, tags, len(chat.messages)]

    answer = PluginRunner(plugin, capabilities=[Archive()]).call("t.keep", 0)
    assert answer == [{"messages": [{"role": "user"}, {"role": "archive"}]}, ["a"], 1]


def test_async_handlers_await_the_same(plugin: Plugin) -> None:
    @plugin.filter("t.find")
    async def find(id: int, ctx: AsyncContext) -> Any:
        await ctx.kv.set("last", id)
        ctx.state["id"] = id
        return [await ctx.cap("orders").find(id), await ctx.kv.get("last")]

    @plugin.stream_filter("t.lines")
    async def lines(lines: AsyncIterator[str], ctx: AsyncContext) -> AsyncIterator[str]:
        async for line in lines:
            yield line.upper()

    with PluginRunner(plugin, capabilities=[Orders()]) as runner:
        request = runner.request()
        assert request.call("t.find", 7) == [{"id": 7, "deep": 0}, 7]
        assert request.state == {"id": 7}
        assert runner.stream("t.lines", ["a", "b"]) == ["A", "B"]


def test_streams_and_extensions(plugin: Plugin) -> None:
    @plugin.stream_filter("t.lines")
    def lines(lines: Iterator[str]) -> Iterator[str]:
        held = ""
        for line in lines:
            held += line
            if held.endswith("."):
                yield held
                held = ""

    @plugin.extension("words")
    class Words:
        def count(self, text: str) -> int:
            return len(text.split())

        def split(self, text: str) -> Iterator[str]:
            yield from text.split()

        def join(self, words: Iterator[str], by: str) -> str:
            return by.join(words)

    runner = PluginRunner(plugin)
    assert runner.stream("t.lines", ["a", "b.", "c."]) == ["ab.", "c."]
    words = runner.extension("words")
    assert words.count("a b") == 2
    assert words.split("a b") == ["a", "b"]
    assert words.join(iter(["a", "b"]), "-") == "a-b"


def test_call_without_a_parameter_says_which_is_missing(plugin: Plugin) -> None:
    @plugin.filter("shop.price")
    def price(chat: Any, rate: float, ctx: Context) -> Any:
        return [chat, rate]

    with pytest.raises(TypeError, match=r"handler at test_plugin_runner.py:\d+ needs 'rate', which the test does not give"):
        PluginRunner(plugin).call("shop.price", {})
    answer = PluginRunner(plugin).call("shop.price", {}, 0.1)
    assert answer == [{}, 0.1]


def test_call_by_the_contract_is_checked_as_a_host_does(plugin: Plugin) -> None:
    @plugin.filter("shop.price")
    def price(chat: dict[str, Any], rate: float, ctx: Context) -> Any:
        if rate > 1:
            raise Respond("much" if rate > 2 else 7)
        return {"messages": [{"role": rate}]} if rate < 0 else {"messages": [{"role": str(rate)}]}

    @plugin.action("shop.told")
    def told(text: str) -> str:
        return text

    @plugin.first_result("shop.unknown")
    def unknown(value: Any) -> Any:
        return value

    runner = PluginRunner(plugin, contracts=[Shop, Words])
    assert runner.call("shop.price", Chat()) == {"messages": [{"role": "0.5"}]}
    assert runner.call("shop.told", "a") is None
    assert runner.call("shop.unknown", "anything") == "anything"
    with pytest.raises(InvalidParamsError, match="needs parameter 'chat'") as missing:
        runner.call("shop.price")
    assert missing.value.data["parameter"] == "chat"
    with pytest.raises(InvalidParamsError) as wrong:
        runner.call("shop.price", {"messages": [{"role": 1}]})
    assert (wrong.value.data["parameter"], wrong.value.data["path"]) == ("chat", "$.messages[0].role")
    with pytest.raises(InvalidResultError) as answered:
        runner.call("shop.price", {}, -1.0)
    assert (answered.value.data["path"], answered.value.data["expected"]) == ("$.messages[0].role", "str")
    with pytest.raises(Respond):
        runner.call("shop.price", {}, 1.5)
    with pytest.raises(InvalidResultError):
        runner.call("shop.price", {}, 2.5)


def test_streams_and_extensions_by_the_contract_are_checked(plugin: Plugin) -> None:
    @plugin.stream_filter("shop.lines")
    def lines(lines: Iterator[Any], count: int) -> Iterator[Any]:
        yield from lines
        yield "end" if count else 0

    @plugin.extension("words")
    class Answers:
        def tax(self, order: int, rate: float, ctx: Context) -> Any:
            return "nothing" if rate > 1 else order * rate

        def join(self, words: Iterator[str], by: str) -> str:
            return by.join(words)

        def split(self, text: str) -> Iterator[Any]:
            yield from text.split() if text else iter((0,))

    runner = PluginRunner(plugin, contracts=[Shop, Words])
    assert runner.stream("shop.lines", ["a"], 1) == ["a", "end"]
    cases: list[tuple[Any, Any, type[Exception]]] = [
        ("a", 0, InvalidResultError),
        (1, 1, InvalidParamsError),
        ("a", "1", InvalidParamsError),
    ]
    for item, count, error in cases:
        with pytest.raises(error):
            runner.stream("shop.lines", [item], count)
    words = runner.extension("words")
    assert (words.tax(10), words.tax(10, rate=0.5), words.tax(10, 0.1)) == (2.0, 5.0, 1.0)
    assert words.join(iter(["a", "b"])) == "a-b"
    assert words.split("a b") == ["a", "b"]
    for name, given, refused in (
        ("tax", (10, 2.0), InvalidResultError),
        ("tax", ("ten",), InvalidParamsError),
        ("tax", (), InvalidParamsError),
        ("join", (iter([1]),), InvalidParamsError),
        ("split", ("",), InvalidResultError),
    ):
        with pytest.raises(refused):
            getattr(words, name)(*given)
    with pytest.raises(InvalidParamsError, match="can be named when its contract is given"):
        PluginRunner(plugin).extension("words").tax(10, rate=0.5)
    assert runner.call("shop.lines", ["a"], 1) == ["a", "end"]  # as it is


def test_life_runs_and_tells(plugin: Plugin) -> None:
    happened: list[Any] = []

    @plugin.on_activate
    def start(ctx: Context) -> None:
        ctx.progress(0.5, "half")
        happened.append(ctx.config["word"])

    @plugin.on_configure
    async def configure(ctx: Context) -> str:
        happened.append(ctx.config["word"])
        return "restart" if ctx.config["word"] == "big" else ""

    @plugin.on_shutdown
    def stop() -> None:
        happened.append("stop")

    with PluginRunner(plugin, config={"word": "first"}) as runner:
        assert runner.progress == [(0.5, "half")]
        assert not runner.configure({"word": "second"})
        assert runner.configure({"word": "big"})
        assert runner.config == {"word": "big"}
    assert happened == ["first", "second", "big", "stop"]


MANIFEST = """
manifest-version = 1
[plugin]
id = "sample"
version = "0.1.0"
name = "Sample"
[runtime]
kind = "python"
entry = "sample_plugin"
[provides.hooks]
"t.edit" = { revision = 1 }
"""
CODE = """
from annexe_sdk import Plugin
plugin = Plugin()

@plugin.filter("t.edit")
def edit(value, ctx):
    if value == "kv":
        ctx.kv.set("a", 1)
    if value == "cap":
        ctx.cap("orders").find(1)
    from sample_late import LATE
    return f"{value} {LATE}"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plugin.toml").write_text(MANIFEST)
    (tmp_path / "sample_plugin.py").write_text(CODE)
    (tmp_path / "sample_late.py").write_text("LATE = 'late'")
    return tmp_path


def test_folder_is_loaded_and_may_import_later(folder: Path) -> None:
    import sys

    with PluginRunner(folder) as runner:
        assert runner.call("t.edit", "x") == "x late"
    assert str(folder.resolve()) not in sys.path


def test_folder_gets_no_more_rights_than_its_manifest_asks_for(folder: Path) -> None:
    with PluginRunner(str(folder), capabilities=[Orders()]) as runner:
        with pytest.raises(PermissionDenied, match=r'under \[permissions\]: kv = \{ quota = "1MiB" \}'):
            runner.call("t.edit", "kv")
        with pytest.raises(PermissionDenied, match=r'capabilities = \["orders"\]'):
            runner.call("t.edit", "cap")
    (folder / "plugin.toml").write_text(MANIFEST + '[permissions]\nkv = {}\ncapabilities = ["orders"]\n')
    with PluginRunner(folder, capabilities=[Orders()]) as runner:
        assert runner.call("t.edit", "kv") == "kv late"
        assert runner.call("t.edit", "cap") == "cap late"


def test_private_folder_is_there_for_the_test_if_the_manifest_asks_for_it(folder: Path) -> None:
    (folder / "sample_plugin.py").write_text(
        "from pathlib import Path\nfrom annexe_sdk import Plugin\nplugin = Plugin()\n@plugin.filter('t.edit')\n"
        "def edit(text, ctx):\n    (Path(ctx.data_dir) / 'kept').write_text(text)\n    return ctx.data_dir\n"
    )
    with PluginRunner(folder) as runner, pytest.raises(PermissionDenied, match=r'under \[permissions\]: data = \{ quota = "50MiB" \}'):
        runner.call("t.edit", "x")
    (folder / "plugin.toml").write_text(MANIFEST + "[permissions]\ndata = {}\n")
    with PluginRunner(folder) as runner:
        kept = Path(runner.call("t.edit", "x"))
        assert runner.call("t.edit", "y") == str(kept)
        assert (kept / "kept").read_text() == "y"
    assert not kept.exists()


def test_folder_has_its_configuration_completed_and_checked_by_its_schema(folder: Path) -> None:
    with pytest.raises(ConfigInvalidError, match=r"which has no \[config\] schema"):
        PluginRunner(folder, config={"limit": 1})
    (folder / "plugin.toml").write_text(MANIFEST + '[config]\nschema = "schema.json"\n')
    (folder / "schema.json").write_text('{"properties": {"limit": {"type": "integer"}, "factor": {"default": 2}}}')
    with PluginRunner(folder, config={"limit": 1}) as runner:
        assert runner.config == {"limit": 1, "factor": 2}
        with pytest.raises(ConfigInvalidError) as refused:
            runner.configure({"limit": "one"})
        assert refused.value.data["problems"][0]["path"] == "/limit"
        assert runner.config == {"limit": 1, "factor": 2}
        runner.configure({"factor": 3})
        assert runner.config == {"factor": 3}


def test_folder_whose_code_and_manifest_differ_is_refused(folder: Path) -> None:
    (folder / "plugin.toml").write_text(MANIFEST + '"t.more" = { revision = 1 }\n')
    with pytest.raises(ActivationError, match=r"declares hook 't.more', but the code") as missing, PluginRunner(folder):
        pass
    assert missing.value.plugin == "sample"
    (folder / "plugin.toml").write_text(MANIFEST.replace("t.edit", "t.other"))
    with pytest.raises(ActivationError, match=r"answers hook 't.edit', which plugin.toml"), PluginRunner(folder):
        pass


def test_folder_without_a_plugin_is_refused(folder: Path) -> None:
    (folder / "sample_empty.py").write_text("")
    (folder / "plugin.toml").write_text(MANIFEST.replace("sample_plugin", "sample_empty"))
    with pytest.raises(TypeError, match=r"plugin = Plugin\(\)"):
        PluginRunner(folder)
    (folder / "plugin.toml").write_text("nonsense")
    with pytest.raises(ManifestError):
        PluginRunner(folder)


def test_two_plugins_of_one_module_name_are_two_plugins(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "plugin.toml").write_text(MANIFEST)
    (other / "sample_plugin.py").write_text(CODE.replace("{value} {LATE}", "other"))
    (other / "sample_late.py").write_text("LATE = 'late'")
    with PluginRunner(folder) as runner:
        assert runner.call("t.edit", "x") == "x late"
    with PluginRunner(other) as runner:
        assert runner.call("t.edit", "x") == "other"


def test_clock_goes_on_when_told_and_never_back() -> None:
    clock = FakeClock(monotonic_s=1.0, now_s=2.0)
    clock.advance(0.5)
    assert (clock.monotonic(), clock.now()) == (1.5, 2.5)
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)
