"""What a plugin's author may do in handlers, end to end: real plugins, started both ways, and the same results from both."""

# mypy: disable-error-code="empty-body"
from __future__ import annotations

import asyncio
import itertools
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from annexe import ExtensionPoint, HookSpec, Host, Responded, hook
from annexe.errors import ActivationError, ConfigInvalidError, PluginRaisedError, RejectedError
from annexe.supervision.health import HealthPolicy
from annexe.supervision.policies import Policies
from tests.process.hosts import until, wait_state

pytestmark = pytest.mark.any_user

STRATEGIES = ("process", "in-process")
HEADS = ("", "from __future__ import annotations\n")
_number = itertools.count(1)


@dataclass
class Item:
    name: str
    tags: list[str] = field(default_factory=list)


@dataclass
class Order:
    first: Item
    items: list[Item]
    by_name: dict[str, Item]
    note: Item | None = None


@dataclass
class Answer:
    text: str


class H(HookSpec, name="h", revision=1):
    @hook.filter
    async def edit(self, order: Order) -> Order: ...

    @hook.filter
    async def edit_async(self, order: Order) -> Order: ...

    @hook.filter
    async def text(self, text: str) -> str: ...

    @hook.filter
    async def text_async(self, text: str) -> str: ...

    @hook.filter(responds=Answer)
    async def answered(self, text: str) -> str: ...

    @hook.first_result
    async def find(self, what: str) -> Any | None: ...

    @hook.first_result
    async def find_async(self, what: str) -> Any | None: ...


class Streams(ExtensionPoint, name="streams", revision=1):
    def count(self, to: int) -> AsyncIterator[int]: ...
    async def total(self, numbers: AsyncIterator[int]) -> int: ...
    def doubled(self, numbers: AsyncIterator[int], by: int = 2) -> AsyncIterator[int]: ...


class Orders:
    """The application's own functions."""

    name: ClassVar[str] = "orders"

    def __init__(self) -> None:
        self.host: Host | None = None
        self.meeting = 0

    async def find(self, id: int, deep: bool = False) -> dict[str, int]:
        return {"id": id, "deep": int(deep)}

    async def fail(self) -> None:
        raise RuntimeError("inside the application")

    async def call_back(self, text: str, through: str) -> str:
        """Call the plugin that calls this."""
        assert self.host is not None
        answer: str = await getattr(self.host.hooks(H), through)(text)
        return answer


Open = Callable[..., AbstractAsyncContextManager[Host]]


@pytest.fixture(params=STRATEGIES)
def strategy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_plugin(tmp_path: Path) -> Open:
    """Give a function that opens a host over one plugin of a few lines."""

    @asynccontextmanager
    async def opened(
        code: str,
        *,
        hooks: str = "",
        strategy: str = "process",
        head: str = "",
        runtime: str = "",
        extra: str = "",
        extensions: str = "",
        schema: str = "",
        **settings: Any,
    ) -> AsyncIterator[Host]:
        # A name of its own, so that what an error says of a frame shows whose it is.
        entry = f"handlers_{next(_number)}"
        folder = tmp_path / "plugins" / "p"
        folder.mkdir(parents=True, exist_ok=True)
        provided = "\n".join(f'"h.{name}" = {{ revision = 1 }}' for name in hooks.split())
        filled = "\n".join(f'"{name}" = {{ revision = 1 }}' for name in extensions.split())
        config = '[config]\nschema = "schema.json"' if schema else ""
        (folder / "plugin.toml").write_text(
            f'manifest-version = 1\n[plugin]\nid = "p"\nversion = "1.0.0"\nname = "P"\n[runtime]\nkind = "python"\nentry = "{entry}"\n'
            f"{runtime}\n[provides.hooks]\n{provided}\n[provides.extensions]\n{filled}\n{extra}\n{config}\n"
        )
        (folder / "schema.json").write_text(schema)
        first = "import asyncio, os, sys, threading, time\nfrom dataclasses import dataclass, field\n"
        (folder / f"{entry}.py").write_text(
            head + first + "from annexe_sdk import CallFailed, Plugin, Reject, Respond\nplugin = Plugin()\n" + textwrap.dedent(code)
        )
        made: dict[str, Any] = {"plugins": tmp_path / "plugins", "state_dir": tmp_path / "state", "contracts": [H, Streams]}
        made |= {"grants": "manifest", "strategy": strategy, "control": False}
        async with Host(**made | settings) as host:
            yield host

    return opened


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(_awaited(scenario))


async def _awaited(scenario: Callable[[], Awaitable[None]]) -> None:
    await scenario()


CAPABILITIES = '[permissions]\ncapabilities = ["orders"]\n'
KV = '[permissions.kv]\nquota = "1MiB"\n'
ORDER = Order(first=Item("a", ["x"]), items=[Item("b"), Item("c")], by_name={"d": Item("d")})

# Handlers.

TWO_KINDS = """
    @plugin.filter("h.text")
    def text(text):
        return text + threading.current_thread().name[:0] + "-def"

    @plugin.filter("h.text_async")
    async def text_async(text, ctx):
        await asyncio.sleep(0)
        return text + "-async"
"""


def test_def_and_async_def_handlers_live_in_one_plugin(open_plugin: Open, strategy: str) -> None:
    async def scenario() -> None:
        async with open_plugin(TWO_KINDS, hooks="text text_async", strategy=strategy) as host:
            hooks = host.hooks(H)
            answers = await asyncio.gather(*(call("a") for _ in range(5) for call in (hooks.text, hooks.text_async)))
            assert answers == ["a-def", "a-async"] * 5

    run(scenario)


DATACLASSES = """
    @dataclass
    class Item:
        name: str
        tags: list[str] = field(default_factory=list)

    @dataclass
    class Order:
        first: Item
        items: list[Item]
        by_name: dict[str, Item]
        note: "Item | None" = None

    def change(order):
        assert type(order) is Order and type(order.first) is Item
        assert [type(item) for item in order.items] == [Item, Item] and type(order.by_name["d"]) is Item
        order.items.append(Item(order.first.name.upper(), ["new"]))
        order.note = Item("note") if order.note is None else Item(type(order.note).__name__)
        return order

    @plugin.filter("h.edit")
    def edit(order: Order) -> Order:
        return change(order)

    @plugin.filter("h.edit_async")
    async def edit_async(order: Order, ctx) -> Order:
        return change(order)
"""


@pytest.mark.parametrize("head", HEADS, ids=["types", "strings"])
def test_dataclass_annotations_build_nested_dataclasses(open_plugin: Open, strategy: str, head: str) -> None:
    async def scenario() -> None:
        async with open_plugin(DATACLASSES, hooks="edit edit_async", strategy=strategy, head=head) as host:
            for call in (host.hooks(H).edit, host.hooks(H).edit_async):
                changed = await call(ORDER)
                assert changed == Order(
                    first=ORDER.first, items=[*ORDER.items, Item("A", ["new"])], by_name=ORDER.by_name, note=Item("note")
                )
                assert (await call(changed.__class__(**{**vars(ORDER), "note": Item("given")}))).note == Item("Item")

    run(scenario)


CAPABILITY = """
    @plugin.first_result("h.find")
    def find(what, ctx):
        orders = ctx.cap("orders")
        if what == "named":
            return orders.find(id=7, deep=True)
        try:
            return orders.fail() if what == "fail" else orders.find("seven") if what == "wrong" else orders.find(7)
        except CallFailed as error:
            return error.code

    @plugin.first_result("h.find_async")
    async def find_async(what, ctx):
        orders = ctx.cap("orders")
        if what == "named":
            return await orders.find(id=7, deep=True)
        try:
            return await (orders.fail() if what == "fail" else orders.find("seven") if what == "wrong" else orders.find(7))
        except CallFailed as error:
            return error.code
"""


def test_capability_is_called_from_def_and_from_async_def(open_plugin: Open, strategy: str) -> None:
    async def scenario() -> None:
        async with open_plugin(CAPABILITY, hooks="find find_async", strategy=strategy, extra=CAPABILITIES, capabilities=[Orders()]) as host:
            for find in (host.hooks(H).find, host.hooks(H).find_async):
                assert await find("plain") == {"id": 7, "deep": 0}
                assert await find("named") == {"id": 7, "deep": 1}
                assert await find("wrong") == "invalid-params"
                assert isinstance(await find("fail"), str)

    run(scenario)


def test_capability_that_is_not_granted_is_refused_in_the_handler(open_plugin: Open, strategy: str) -> None:
    async def scenario() -> None:
        async with open_plugin(CAPABILITY, hooks="find find_async", strategy=strategy, capabilities=[Orders()]) as host:
            assert await host.hooks(H).find("plain") == "permission-denied"
            assert await host.hooks(H).find_async("plain") == "permission-denied"

    run(scenario)


# State.

STATE = """
    @plugin.filter("h.text")
    def text(text, ctx):
        ctx.state.setdefault("texts", []).append(text)
        ctx.state["last"] = text
        return ctx.unchanged

    @plugin.filter("h.text_async")
    async def text_async(text, ctx):
        ctx.state.pop("last", None)
        ctx.state["texts"] = ctx.state.get("texts", []) + [text]
        return text

    @plugin.first_result("h.find")
    def find(what, ctx):
        return dict(ctx.state)
"""


def test_state_is_kept_across_hooks_and_across_a_restart(open_plugin: Open, strategy: str) -> None:
    async def scenario() -> None:
        async with open_plugin(STATE, hooks="text text_async find", strategy=strategy) as host:
            async with host.request(deadline_s=20) as request:
                hooks = request.hooks(H)
                assert await hooks.text("a") == "a"
                assert await hooks.find("") == {"texts": ["a"], "last": "a"}
                await host.plugin("p").restart()
                await hooks.text_async("b")
                assert await hooks.find("") == {"texts": ["a", "b"]}
            assert await host.hooks(H).find("") == {}

    run(scenario)


# Concurrency.

MEETING = """
    meeting = threading.Barrier(2)
    open_now = most_open = 0
    counting = threading.Lock()

    @plugin.filter("h.text")
    def text(text):
        meeting.wait(5)
        return text + "!"

    @plugin.filter("h.text_async")
    async def text_async(text):
        global open_now, most_open
        open_now += 1
        most_open = max(most_open, open_now)
        await asyncio.sleep(0.02)
        open_now -= 1
        return str(most_open)

    @plugin.first_result("h.find")
    def find(what):
        global open_now, most_open
        with counting:
            open_now += 1
            most_open = max(most_open, open_now)
        time.sleep(0.02)
        with counting:
            open_now -= 1
        return most_open
"""


def test_handlers_run_side_by_side_up_to_the_concurrency(open_plugin: Open, strategy: str) -> None:
    async def scenario() -> None:
        async with open_plugin(MEETING, hooks="text text_async find", strategy=strategy, runtime="concurrency = 2") as host:
            hooks = host.hooks(H)
            assert set(await asyncio.gather(hooks.text("a"), hooks.text("b"))) == {"a!", "b!"}
            assert set(await asyncio.gather(*(hooks.text_async("") for _ in range(6)))) <= {"1", "2"}
            assert await hooks.text_async("") == "2"

    run(scenario)


def test_handlers_of_a_plugin_without_concurrency_run_one_by_one(open_plugin: Open, strategy: str) -> None:
    only_def = MEETING.replace("async def", "def").replace("await asyncio.sleep(0.02)", "time.sleep(0.02)")

    async def scenario() -> None:
        for code in (MEETING, only_def):
            async with open_plugin(code, hooks="text text_async find", strategy=strategy) as host:
                await asyncio.gather(*(host.hooks(H).find("") for _ in range(5)), *(host.hooks(H).text_async("") for _ in range(5)))
                assert await host.hooks(H).find("") == 1

    run(scenario)


def test_def_handlers_side_by_side_reach_the_concurrency(open_plugin: Open, strategy: str) -> None:
    only_def = MEETING.replace("async def", "def").replace("await asyncio.sleep(0.02)", "time.sleep(0.02)")

    async def scenario() -> None:
        async with open_plugin(only_def, hooks="text text_async find", strategy=strategy, runtime="concurrency = 4") as host:
            await asyncio.gather(*(host.hooks(H).find("") for _ in range(12)))
            assert await host.hooks(H).find("") == 4

    run(scenario)


# Answers.

ANSWERS = """
    @plugin.filter("h.answered")
    def answered(text, ctx):
        if text == "respond":
            raise Respond({"text": "at once"})
        if text == "wrong":
            raise Respond({"texts": 1})
        raise Reject("no-more", "there is no more", status=429)

    @plugin.filter("h.text")
    def text(text, ctx):
        if text == "raise":
            raise ZeroDivisionError("mine")
        if text == "none":
            return None
        if text == "leave":
            return ctx.unchanged
        raise Respond("instead")

    @plugin.filter("h.text_async")
    async def text_async(text, ctx):
        if text == "leave":
            return ctx.unchanged
        if text == "reject":
            raise Reject("no", "no")
        raise Respond("instead")
"""


def test_respond_reject_and_unchanged_reach_the_application(open_plugin: Open, strategy: str) -> None:
    async def scenario() -> None:
        async with open_plugin(ANSWERS, hooks="answered text text_async", strategy=strategy) as host:
            hooks = host.hooks(H)
            with pytest.raises(Responded) as responded:
                await hooks.answered("respond")
            assert (responded.value.value, responded.value.plugin, responded.value.hook) == (Answer("at once"), "p", "h.answered")
            with pytest.raises(RejectedError) as rejected:
                await hooks.answered("reject")
            assert (rejected.value.reject_code, rejected.value.status, rejected.value.plugin) == ("no-more", 429, "p")
            assert await hooks.answered("wrong") == "wrong"  # of the wrong type: passed over
            assert await hooks.text("leave") == "leave"
            assert await hooks.text("now") == "instead"
            assert await hooks.text_async("leave") == "leave"
            assert await hooks.text_async("now") == "instead"
            with pytest.raises(RejectedError):
                await hooks.text_async("reject")
            async with host.request(id="r") as request:
                await request.hooks(H).text("raise")
                await request.hooks(H).text("none")
            raised, none = host.explain("r")["steps"]
            assert "ZeroDivisionError: mine (at handlers_" in raised["reason"]
            assert "handler at handlers_" in none["reason"]

    run(scenario)


# Life.

LIFE = """
    happened = []

    @plugin.on_activate
    def start(ctx):
        ctx.progress(0.5, "half way")
        ctx.log.info("activated", word=ctx.config["word"])
        happened.append("activate " + ctx.config["word"])

    @plugin.on_configure
    DEF configure(ctx):
        happened.append("configure " + ctx.config["word"])
        return "restart" if ctx.config["word"] == "big" else None

    @plugin.on_shutdown
    DEF stop(ctx):
        ctx.log.info("said goodbye")

    @plugin.first_result("h.find")
    def find(what, ctx):
        return [happened, ctx.config["word"], ctx.grants]
"""
WORD = '{"type": "object", "properties": {"word": {"type": "string", "default": "first"}}}'


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_life_of_a_plugin_is_told_to_it(open_plugin: Open, strategy: str, kind: str) -> None:
    async def scenario() -> None:
        code = textwrap.dedent(LIFE).replace("DEF", kind)
        async with open_plugin(code, hooks="find", strategy=strategy, extra=KV, schema=WORD) as host:
            find, plugin = host.hooks(H).find, host.plugin("p")
            assert await find("") == [["activate first"], "first", ["kv"]]
            await plugin.configure({"word": "second"})
            assert await find("") == [["activate first", "configure second"], "second", ["kv"]]
            with pytest.raises(ConfigInvalidError):
                await plugin.configure({"word": 3})
            assert (await find("") or [])[1] == "second"
            await plugin.configure({"word": "big"})
            assert plugin.state == "ready"
            assert (await find("") or [])[1] == "big"
            await plugin.stop()
            messages = [line["message"] for line in await asyncio.to_thread(host.logs.tail, "p", 200)]
            assert "activated" in messages and messages.count("said goodbye") == 2

    run(scenario)


def test_activation_that_raises_tells_file_and_line(open_plugin: Open, strategy: str) -> None:
    async def scenario() -> None:
        code = '@plugin.on_activate\ndef start(ctx):\n    raise LookupError("no model")\n'
        async with open_plugin(code, strategy=strategy) as host:
            plugin = host.plugin("p")
            assert plugin.state == "backing-off"
            assert "LookupError: no model (at handlers_" in plugin.reason
            launch_failed = [event for event in host.events.latest(100) if event.facts.get("code") == ActivationError.code]
            assert len(launch_failed) == 1

    run(scenario)


def test_print_goes_to_the_plugins_log(open_plugin: Open) -> None:
    code = """
        @plugin.filter("h.text")
        def text(text):
            print("printed", text)
            print("to standard error", file=sys.stderr)
            return text
    """

    async def scenario() -> None:
        async with open_plugin(code, hooks="text") as host:
            await host.hooks(H).text("a")
            await host.plugin("p").stop()
            lines = [(line["source"], line["message"]) for line in await asyncio.to_thread(host.logs.tail, "p", 100)]
            assert ("stdout", "printed a") in lines
            assert ("stderr", "to standard error") in lines

    run(scenario)


# Threads and re-entrance.

THREADS = """
    @plugin.first_result("h.find")
    def find(what, ctx):
        def work(number):
            for turn in range(20):
                ctx.kv.increment("count")
            ctx.kv.set(f"thread/{number}", threading.current_thread().name)
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [ctx.kv.get("count"), len(ctx.kv.list("thread/")[0])]

    go, done, said = threading.Event(), threading.Event(), []

    @plugin.on_activate
    def start(ctx):
        def work():
            go.wait(10)
            try:
                said.append(ctx.kv.increment("later"))
            except CallFailed as error:
                said.append(error.code)
            done.set()
        threading.Thread(target=work).start()

    @plugin.filter("h.text")
    def text(text, ctx):
        go.set()
        done.wait(10)
        return str(said)
"""


def test_threads_of_the_plugins_own_call_the_host(open_plugin: Open, strategy: str) -> None:
    async def scenario() -> None:
        async with open_plugin(THREADS, hooks="find text", strategy=strategy, extra=KV) as host:
            assert await host.hooks(H).find("") == [80, 4]
            assert await host.hooks(H).find("") == [160, 4]
            assert await host.hooks(H).text("a") == "[1]"  # also long after activation

    run(scenario)


REENTRANT = """
    @plugin.filter("h.text")
    def text(text, ctx):
        if text.startswith("leaf"):
            return text + ".def"
        return ctx.cap("orders").call_back("leaf", text) + ".back"

    @plugin.filter("h.text_async")
    async def text_async(text, ctx):
        if text.startswith("leaf"):
            return text + ".async"
        return await ctx.cap("orders").call_back("leaf", text) + ".back"
"""


@pytest.mark.parametrize("kinds", ["def", "both"])
def test_call_back_into_the_plugin_that_waits_is_served_at_concurrency_one(open_plugin: Open, strategy: str, kinds: str) -> None:
    async def scenario() -> None:
        orders = Orders()
        code = REENTRANT if kinds == "both" else REENTRANT.replace("async def", "def").replace("await ", "")
        leaf = "leaf.async"
        async with open_plugin(
            code, hooks="text text_async", strategy=strategy, extra=CAPABILITIES, capabilities=[orders], default_deadline_s=5.0
        ) as host:
            orders.host = host
            hooks = host.hooks(H)
            assert await hooks.text("text") == "leaf.def.back"
            assert await hooks.text("text_async") == f"{leaf}.back"
            assert await hooks.text_async("text_async") == f"{leaf}.back"
            assert await hooks.text_async("text") == "leaf.def.back"

    run(scenario)


# Streams.

STREAMS = """
    @plugin.extension("streams")
    class Streams:
        def count(self, to):
            yield from range(to)

        def total(self, numbers):
            return sum(numbers)

        def doubled(self, numbers, by):
            for number in numbers:
                yield number * by
"""
ASYNC_STREAMS = """
    @plugin.extension("streams")
    class Streams:
        async def count(self, to):
            for number in range(to):
                yield number

        async def total(self, numbers, ctx):
            return sum([number async for number in numbers])

        async def doubled(self, numbers, by, ctx):
            async for number in numbers:
                yield number * by
"""


@pytest.mark.parametrize("code", [STREAMS, ASYNC_STREAMS], ids=["def", "async"])
def test_extension_streams_out_in_and_both_ways(open_plugin: Open, strategy: str, code: str) -> None:
    async def numbers(count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    async def scenario() -> None:
        async with open_plugin(code, extensions="streams", strategy=strategy) as host:
            streams = host.extension(Streams)
            assert [number async for number in streams.count(1000)] == list(range(1000))
            assert await streams.total(numbers(1000)) == sum(range(1000))
            assert [number async for number in streams.doubled(numbers(500), by=3)] == [number * 3 for number in range(500)]
            assert [number async for number in streams.doubled(numbers(0))] == []
            assert [number async for number in streams.count(2)] == [0, 1], "the next stream is none the worse for it"

    run(scenario)


def test_stream_of_a_method_that_raises_ends_with_its_error(open_plugin: Open, strategy: str) -> None:
    code = """
        @plugin.extension("streams")
        class Streams:
            def count(self, to):
                yield 1
                raise LookupError("no more")
            def total(self, numbers):
                raise LookupError("not even one")
            def doubled(self, numbers, by):
                yield from ()
    """

    async def numbers() -> AsyncIterator[int]:
        yield 1

    async def scenario() -> None:
        async with open_plugin(code, extensions="streams", strategy=strategy) as host:
            streams, seen = host.extension(Streams), []
            with pytest.raises(PluginRaisedError, match=r"LookupError: no more \(at handlers_"):
                async for number in streams.count(3):
                    seen.append(number)
            assert seen == [1]
            with pytest.raises(PluginRaisedError, match="not even one"):
                await streams.total(numbers())

    run(scenario)


# Lazy start and idle stop.


def test_lazy_plugin_starts_at_its_first_call_stops_when_idle_and_starts_again(open_plugin: Open, strategy: str) -> None:
    async def scenario() -> None:
        runtime = 'start = "lazy"\nidle-stop = "1s"'
        policies = Policies(health=HealthPolicy(ping_interval_s=0.1))
        async with open_plugin(TWO_KINDS, hooks="text text_async", strategy=strategy, runtime=runtime, policies=policies) as host:
            plugin = host.plugin("p")
            assert plugin.state == "stopped"
            answers = await asyncio.gather(*(host.hooks(H).text("a") for _ in range(5)))
            assert answers == ["a-def"] * 5
            assert plugin.state == "ready"
            starts = [change for change in plugin.history if change.state == "starting"]
            assert len(starts) == 1
            await wait_state(plugin, "stopped")
            assert "idle for 1 s" in plugin.reason
            assert await host.hooks(H).text_async("a") == "a-async"
            await until(lambda: plugin.state == "ready")

    run(scenario)
