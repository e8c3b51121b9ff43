"""What docs/reference/hooks.md promises of stream filters, asked of real plugins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from annexe import Host
from annexe.errors import CallTimeoutError, HookError, InvalidParamsError, InvalidResultError, RejectedError
from annexe.record import EventKind
from tests.process.hosts import T, connection_of, events, open_host, run, steps, until, wait_state, write_plugin

pytestmark = pytest.mark.any_user

KINDS = [pytest.param("def", id="def"), pytest.param("async def", id="async def")]


def stream_filter(root: Path, name: str, body: str, *, hook: str = "t.chunks", kind: str = "def", **more: Any) -> None:
    lines = "\n".join(f"    {row}" for row in body.strip("\n").splitlines())
    if kind == "async def":
        lines = lines.replace("for chunk in", "async for chunk in")
    code = f'import asyncio\n@plugin.stream_filter("{hook}")\n{kind} handle(chunks, ctx):\n{lines}\n'
    write_plugin(root / "plugins", name, code, hooks={hook: more.pop("line", "")}, **more)


async def source(items: Iterable[str], *, every_s: float = 0.0, closed: list[bool] | None = None) -> AsyncIterator[str]:
    try:
        for item in items:
            if every_s:
                await asyncio.sleep(every_s)
            yield item
    finally:
        if closed is not None:
            closed.append(True)


async def collect(stream: AsyncIterator[str], *, every_s: float = 0.0) -> list[str]:
    taken = []
    async for item in stream:
        taken.append(item)
        if every_s:
            await asyncio.sleep(every_s)
    return taken


UPPER = "for chunk in chunks:\n    yield chunk.upper()"


@pytest.mark.parametrize("kind", KINDS)
def test_stream_passes_every_plugin_in_order(tmp_path: Path, kind: str) -> None:
    stream_filter(tmp_path, "alpha", UPPER, kind=kind)
    stream_filter(tmp_path, "beta", "for chunk in chunks:\n    yield chunk + '!'\nyield 'end'", kind=kind)

    async def scenario() -> None:
        async with open_host(tmp_path) as host, host.request(id="r") as request:
            closed: list[bool] = []
            assert await collect(request.hooks(T).chunks(source("abc", closed=closed))) == ["A!", "B!", "C!", "end"]
            assert closed == [True]
            assert sorted(steps(host, "r")) == [("alpha", "changed"), ("beta", "changed")]
            assert await collect(request.hooks(T).chunks(source(""))) == ["end"]

    run(scenario)


@pytest.mark.parametrize("kind", KINDS)
def test_chunk_may_be_held_back(tmp_path: Path, kind: str) -> None:
    body = """
held = ""
for chunk in chunks:
    held += chunk
    if held.endswith(">") or "<" not in held:
        yield held.replace("<NAME>", "Ada")
        held = ""
if held:
    yield held
"""
    stream_filter(tmp_path, "alpha", body, kind=kind)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:

            async def items() -> AsyncIterator[str]:
                for item in ("Hi ", "<NA", "ME>", "<"):
                    if item == "ME>":
                        await asyncio.sleep(1.2)  # longer over the second half than the budget: held back is not late
                    yield item

            assert await collect(host.hooks(T).chunks(items())) == ["Hi ", "Ada", "<"]

    run(scenario)


@pytest.mark.parametrize("kind", KINDS)
def test_slow_upstream_is_never_blamed_on_the_plugin(tmp_path: Path, kind: str) -> None:
    stream_filter(tmp_path, "alpha", UPPER, kind=kind, hook="t.strict_chunks")

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            assert await collect(host.hooks(T).strict_chunks(source("ab", every_s=1.2))) == ["A", "B"]

    run(scenario)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [10_000, 40_000], ids=lambda size: f"{size} bytes")
def test_slow_consumer_is_never_blamed_on_the_plugin(tmp_path: Path, kind: str, size: int) -> None:
    stream_filter(tmp_path, "alpha", UPPER, kind=kind, hook="t.strict_chunks")

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            taken = []
            async for item in host.hooks(T).strict_chunks(source(["a" * size] * 20)):
                taken.append(item)
                if len(taken) in (1, 8):
                    await asyncio.sleep(1.2)
            assert taken == ["A" * size] * 20

    run(scenario)


@pytest.mark.parametrize("kind", KINDS)
def test_budget_bounds_the_first_output_and_open_replays_what_was_fed(tmp_path: Path, kind: str) -> None:
    sleep = "await asyncio.sleep(3)" if kind == "async def" else "time.sleep(3)"
    stream_filter(tmp_path, "alpha", f"for chunk in chunks:\n    {sleep}\n    yield chunk", kind=kind)
    stream_filter(tmp_path, "beta", UPPER, kind=kind)

    async def scenario() -> None:
        async with open_host(tmp_path) as host, host.request(id="r") as request:
            loop = asyncio.get_running_loop()
            started = loop.time()
            assert await collect(request.hooks(T).chunks(source("abc"))) == ["A", "B", "C"]
            assert 0.95 <= loop.time() - started < 2.5
            assert sorted(steps(host, "r")) == [("alpha", "failed"), ("beta", "changed")]
            assert events(host, EventKind.HOOK_SKIPPED, "alpha")[0].facts["code"] == "deadline-exceeded"

    run(scenario)


@pytest.mark.parametrize("every_s", [0.0, 0.15], ids=["upstream at once", "upstream still under way"])
@pytest.mark.parametrize("kind", KINDS)
def test_failure_before_the_first_output_loses_nothing_where_open(tmp_path: Path, kind: str, every_s: float) -> None:
    stream_filter(tmp_path, "alpha", "seen = 0\nfor chunk in chunks:\n    seen += 1\n    if seen == 2: raise ValueError('no')", kind=kind)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            closed: list[bool] = []
            assert await collect(host.hooks(T).chunks(source("abcdef", every_s=every_s, closed=closed))) == list("abcdef")
            assert closed == [True]

    run(scenario)


def test_failure_before_the_first_output_of_a_plugin_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    stream_filter(tmp_path, "alpha", UPPER)
    stream_filter(tmp_path, "beta", "for chunk in chunks:\n    if chunk == 'B': raise ValueError('no')")
    stream_filter(tmp_path, "gamma", "for chunk in chunks:\n    yield chunk + '.'")

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            assert await collect(host.hooks(T).chunks(source("abcdef", every_s=0.05))) == [f"{letter}." for letter in "ABCDEF"]

    run(scenario)


def test_failure_before_the_first_output_fails_the_request_where_closed(tmp_path: Path) -> None:
    stream_filter(tmp_path, "alpha", "for chunk in chunks:\n    raise ValueError('no')", hook="t.strict_chunks")

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            closed: list[bool] = []
            with pytest.raises(HookError) as caught:
                await collect(host.hooks(T).strict_chunks(source("abc", every_s=0.05, closed=closed)))
            error = caught.value
            assert (error.plugin, error.hook, error.reason) == ("alpha", "t.strict_chunks", "plugin-raised")
            assert closed == [True]

    run(scenario)


@pytest.mark.parametrize("hook", ["t.chunks", "t.strict_chunks"])
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param("raise ValueError('later')", "plugin-raised", id="raises"),
        pytest.param("os._exit(1)", "outcome-unknown", id="dies"),
        pytest.param("time.sleep(3)", "deadline-exceeded", id="goes silent"),
        pytest.param("yield 5", "invalid-result", id="wrong type"),
        pytest.param("yield 'x' * 70000", "plugin-raised", id="item too large"),
    ],
)
def test_failure_after_the_first_output_ends_the_stream_with_a_typed_error(tmp_path: Path, hook: str, body: str, reason: str) -> None:
    stream_filter(
        tmp_path, "alpha", f"for chunk in chunks:\n    if chunk == 'b':\n        {body}\n    else:\n        yield chunk", hook=hook
    )

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            taken = []
            with pytest.raises(HookError) as caught:
                async for item in getattr(host.hooks(T), hook[2:])(source("abc")):
                    taken.append(item)
            assert taken == ["a"]
            assert (caught.value.plugin, caught.value.hook, caught.value.reason) == ("alpha", hook, reason)

    run(scenario)


def test_wrong_item_names_plugin_and_types(tmp_path: Path) -> None:
    stream_filter(tmp_path, "alpha", "for chunk in chunks:\n    yield 5", hook="t.strict_chunks")

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            with pytest.raises(HookError) as caught:
                await collect(host.hooks(T).strict_chunks(source("abc")))
            cause = caught.value.__cause__
            assert isinstance(cause, InvalidResultError)
            assert (cause.plugin, cause.data["expected"], cause.data["actual"]) == ("alpha", "str", "int")

    run(scenario)


def test_idle_gap_is_bounded_while_the_plugin_owes_something(tmp_path: Path) -> None:
    stream_filter(tmp_path, "alpha", "yield 'first'\nfor chunk in chunks:\n    time.sleep(4)\n    yield chunk", hook="t.strict_chunks")

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            loop = asyncio.get_running_loop()
            started = loop.time()
            with pytest.raises(HookError) as caught:
                await collect(host.hooks(T).strict_chunks(source("abc")))
            assert caught.value.reason == "deadline-exceeded"
            assert isinstance(caught.value.__cause__, CallTimeoutError)
            assert "the next item" in str(caught.value)
            assert loop.time() - started < 3.5

    run(scenario)


@pytest.mark.parametrize("hook", ["chunks", "strict_chunks"])
def test_steady_upstream_gives_a_silent_plugin_no_more_time(tmp_path: Path, hook: str) -> None:
    stream_filter(tmp_path, "alpha", "for chunk in chunks:\n    time.sleep(5)\n    yield chunk", hook="t." + hook)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            loop = asyncio.get_running_loop()
            started = loop.time()
            stream: Any = aiter(getattr(host.hooks(T), hook)(source(map(str, range(30)), every_s=0.1)))
            if hook == "chunks":
                assert await anext(stream) == "0"
            else:
                with pytest.raises(HookError) as caught:
                    await anext(stream)
                assert caught.value.reason == "deadline-exceeded"
            assert 0.95 <= loop.time() - started < 2.8  # what comes takes 3
            await stream.aclose()

    run(scenario)


def test_item_that_cannot_be_sent_is_the_sources_own_mistake(tmp_path: Path) -> None:
    stream_filter(tmp_path, "alpha", UPPER)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            with pytest.raises(InvalidParamsError) as caught:
                await collect(host.hooks(T).chunks(source(["a", "x" * 70_000])))
            assert (caught.value.plugin, caught.value.method) == ("alpha", "hook.t.chunks")
            assert "65536" in str(caught.value)

    run(scenario)


def test_stream_longer_than_any_budget_is_fine_as_long_as_it_moves(tmp_path: Path) -> None:
    stream_filter(tmp_path, "alpha", "for chunk in chunks:\n    time.sleep(0.15)\n    yield chunk", hook="t.strict_chunks")

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            assert await collect(host.hooks(T).strict_chunks(source("abcdefghij"))) == list("abcdefghij")

    run(scenario)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("upstream", ["slow", "ended"])
def test_deadline_of_the_request_bounds_the_whole_even_when_the_plugin_ignores_cancel(tmp_path: Path, kind: str, upstream: str) -> None:
    # The plugin owes nothing (or does not look): only the deadline can end this.
    body = "for chunk in chunks:\n    yield chunk\n" + ("time.sleep(0.5)\nyield 'x'\n" * 8 if upstream == "ended" else "")
    stream_filter(tmp_path, "alpha", body, kind=kind)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            loop = asyncio.get_running_loop()
            started = loop.time()
            taken = []
            async with host.request(deadline_s=1.5) as request:
                with pytest.raises(HookError) as caught:
                    async for item in request.hooks(T).chunks(source("ab") if upstream == "ended" else source("abcdefghij", every_s=0.4)):
                        taken.append(item)
            assert caught.value.reason == "deadline-exceeded"
            assert taken[:2] == ["a", "b"]
            assert loop.time() - started < 3.5

    run(scenario)


def let_go(host: Host, plugin: str) -> bool:
    return any(line["message"] == "let go" for line in host.logs.tail(plugin, 50))


def is_idle(host: Host, plugin: str) -> bool:
    connection = connection_of(host, plugin)
    return connection.in_flight == 0


@pytest.mark.parametrize("kind", KINDS)
def test_leaving_early_ends_source_and_plugin(tmp_path: Path, kind: str) -> None:
    body = "try:\n    for chunk in chunks:\n        yield chunk\nfinally:\n    ctx.log.info('let go')"
    stream_filter(tmp_path, "alpha", body, kind=kind)
    stream_filter(tmp_path, "beta", body, kind=kind)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            closed: list[bool] = []
            stream: Any = host.hooks(T).chunks(source(map(str, range(10**9)), every_s=0.01, closed=closed))
            async for item in stream:
                if item == "3":
                    break
            await stream.aclose()
            assert closed == [True]
            for name in ("alpha", "beta"):
                await until(partial(let_go, host, name))
                await until(partial(is_idle, host, name))

    run(scenario)


class UpstreamError(Exception):
    pass


@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize("hook", ["chunks", "strict_chunks"])
def test_error_of_the_source_reaches_its_reader_as_it_is(tmp_path: Path, after: int, hook: str) -> None:
    stream_filter(tmp_path, "alpha", UPPER, hook="t." + hook)
    stream_filter(tmp_path, "beta", UPPER, hook="t." + hook)

    async def broken() -> AsyncIterator[str]:
        for letter in "abc"[:after]:
            yield letter
            await asyncio.sleep(0.02)
        raise UpstreamError("upstream")

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            with pytest.raises(UpstreamError):
                await collect(getattr(host.hooks(T), hook)(broken()))
            assert not events(host, EventKind.HOOK_FAILED)
            assert await collect(getattr(host.hooks(T), hook)(source("ab"))) == ["A", "B"]

    run(scenario)


def test_cancelling_the_reader_ends_everything(tmp_path: Path) -> None:
    stream_filter(tmp_path, "alpha", UPPER)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            asked, closed = asyncio.Event(), list[bool]()

            async def slow() -> AsyncIterator[str]:
                asked.set()
                async for item in source("abc", every_s=5, closed=closed):
                    yield item

            task = asyncio.create_task(collect(host.hooks(T).chunks(slow())))
            await asked.wait()
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert closed == [True]
            connection = connection_of(host, "alpha")
            await until(lambda: connection.in_flight == 0)

    run(scenario)


@pytest.mark.parametrize("kind", KINDS)
def test_rejection_in_a_stream_reaches_the_application(tmp_path: Path, kind: str) -> None:
    stream_filter(
        tmp_path,
        "alpha",
        "for chunk in chunks:\n    if chunk == 'b': raise Reject('bad-word', 'no', status=451)\n    yield chunk",
        kind=kind,
    )

    async def scenario() -> None:
        async with open_host(tmp_path) as host, host.request(id="r") as request:
            with pytest.raises(RejectedError) as caught:
                await collect(request.hooks(T).chunks(source("abc")))
            assert (caught.value.plugin, caught.value.reject_code, caught.value.status) == ("alpha", "bad-word", 451)
            assert steps(host, "r") == [("alpha", "rejected")]

    run(scenario)


@pytest.mark.parametrize("kind", KINDS)
def test_large_stream_moves_with_bounded_memory(tmp_path: Path, kind: str) -> None:
    stream_filter(tmp_path, "alpha", UPPER, kind=kind, hook="t.strict_chunks")
    stream_filter(tmp_path, "beta", UPPER, kind=kind, hook="t.strict_chunks")
    size, count = 30_000, 600  # 18 MB

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            fed = 0

            async def items() -> AsyncIterator[str]:
                nonlocal fed
                for _ in range(count):
                    fed += 1
                    yield "a" * size

            taken, ahead = 0, 0
            async for item in host.hooks(T).strict_chunks(items()):
                assert len(item) == size and item[0] == "A"
                taken += 1
                ahead = max(ahead, fed - taken)
                if taken == 100:
                    await asyncio.sleep(0.6)  # whoever does not wait for us runs away now
            assert taken == count
            # Credit: 64 KiB to 256 KiB in each direction of each of two plugins, and what each holds in its hands.
            assert ahead * size <= 4 * 256 * 1024 + 8 * size

    run(scenario)


def test_plugin_that_pours_out_items_without_end_is_held_by_credit(tmp_path: Path) -> None:
    body = "sent = 0\nwhile True:\n    sent += 1\n    ctx.log.info('sent', sent=sent)\n    yield 'x' * 1000"
    stream_filter(tmp_path, "alpha", body, hook="t.strict_chunks")

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            stream: Any = host.hooks(T).strict_chunks(source("a"))
            assert await anext(aiter(stream)) == "x" * 1000

            def sent() -> int:
                return max((line["fields"]["sent"] for line in host.logs.tail("alpha", 1000) if line["message"] == "sent"), default=0)

            await until(lambda: sent() >= 30)
            await asyncio.sleep(0.3)
            assert sent() <= 70  # 64 KiB of credit, and the one in its hands
            await stream.aclose()

    run(scenario)


def test_more_streams_than_the_manifest_says_are_busy(tmp_path: Path) -> None:
    stream_filter(tmp_path, "alpha", UPPER, hook="t.strict_chunks", runtime="streams = 2")

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            streams: list[Any] = [aiter(host.hooks(T).strict_chunks(source("abc", every_s=0.05))) for _ in range(3)]
            outcomes = await asyncio.gather(*(anext(stream) for stream in streams), return_exceptions=True)
            assert outcomes[:2] == ["A", "A"]
            assert isinstance(outcomes[2], HookError)
            assert outcomes[2].reason == "busy"
            for stream in streams:
                await stream.aclose()
            connection = connection_of(host, "alpha")
            await until(lambda: connection.in_flight == 0)  # a cancelled call keeps its place until it is answered
            assert await collect(host.hooks(T).strict_chunks(source("ab"))) == ["A", "B"]

    run(scenario)


def test_stream_state_is_kept_for_the_request(tmp_path: Path) -> None:
    code = """
    @plugin.filter("t.edit")
    def edit(doc, ctx):
        ctx.state["secret"] = doc["text"]
        doc["text"] = "<1>"
        return doc
    @plugin.stream_filter("t.chunks")
    def restore(chunks, ctx):
        for chunk in chunks:
            yield chunk.replace("<1>", ctx.state["secret"])
    """
    write_plugin(tmp_path / "plugins", "alpha", code, hooks=["t.edit", "t.chunks"])

    async def scenario() -> None:
        from tests.process.hosts import Doc

        async with open_host(tmp_path) as host, host.request() as request:
            assert (await request.hooks(T).edit(Doc("Ada"))).text == "<1>"
            assert await collect(request.hooks(T).chunks(source(["hello ", "<1>"]))) == ["hello ", "Ada"]

    run(scenario)


def test_stream_goes_on_without_a_plugin_that_is_not_there(tmp_path: Path) -> None:
    stream_filter(tmp_path, "alpha", "os._exit(1)\nyield")

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            assert await collect(host.hooks(T).chunks(source("abc", every_s=0.02))) == ["a", "b", "c"]
            await wait_state(host.plugin("alpha"), "backing-off", "starting")
            assert await collect(host.hooks(T).chunks(source("abc"))) == ["a", "b", "c"]

    run(scenario)
