"""Pipelines of filters, observers, hooks that nobody hears, and plugins in process; pluggy beside. Source: ADR-0046."""

from __future__ import annotations

from typing import Any

from benchmarks.harness import Bench, Cell, Mark, Subject
from benchmarks.references import peer, timed

__all__ = ["MARKS", "NAME", "TITLE", "Pluggy", "measure"]

NAME = "hooks"
TITLE = "Hooks, everything pinned to one core"
MARKS = (
    Mark(
        key="ten_filters_over_ten_calls",
        limit=1.1,
        about="pipeline of 10 filters ÷ 10 single calls",
        held_back_by="ten processes take turns on one core, and each finds the caches cold. A call to ten plugins in turn, without any "
        "hook, costs that much more than a call to one plugin again and again; against it the pipeline adds little.",
    ),
    Mark(key="no_subscriber_us", limit=0.5, about="hook that nobody hears, µs"),
    Mark(
        key="in_process_over_pluggy_and_codec",
        limit=2,
        about="one filter in process ÷ (pluggy + the same encodes and decodes)",
        held_back_by="a plugin in process is served by a thread of its own over a socket pair, so that nothing above notices the "
        "difference; two hand-overs of the interpreter between threads and four system calls are most of its time.",
    ),
)
_SUBJECTS = (
    *(Subject(f"pluggy {number}", "benchmarks.hooks:Pluggy", {"implementations": number}) for number in (1, 3, 10)),
    Subject("call", "benchmarks.subject:AsyncCall", ours=True),
    Subject("ten plugins", "benchmarks.subject:AsyncCall", {"copies": 10}, ours=True),
    Subject("filters 1", "benchmarks.subject:AsyncFilters", ours=True),
    Subject("filters 3", "benchmarks.subject:AsyncFilters", {"copies": 3}, ours=True),
    Subject("filters 10", "benchmarks.subject:AsyncFilters", {"copies": 10}, ours=True),
    Subject("observer", "benchmarks.subject:AsyncFilters", {"plugin": "watcher"}, ours=True),
    Subject("in process", "benchmarks.subject:AsyncFilters", {"strategy": "in-process"}, ours=True),
)


def measure(bench: Bench) -> None:
    """Measure each pipeline in a host of its own."""
    count = {"count": bench.count(600)}
    cells = [
        Cell("one call", "call", args=count),
        Cell("one call, to ten plugins in turn", "ten plugins", "block_in_turn", count),
        *(Cell(f"pipeline of {filters}", f"filters {filters}", args=count) for filters in (1, 3, 10)),
        Cell("observer, as the application sees it", "observer", "block_observed", count),
        Cell("no subscriber, inside a request", "call", "block_unheard", count),
        Cell("no subscriber, with a request of its own", "call", "block_unheard_alone", count),
        Cell("one filter in process", "in process", args=count),
        Cell("pluggy, 1 implementation, with encodes and decodes", "pluggy 1", "block_with_codec", count),
        *(Cell(f"pluggy, {number} implementation{'s' if number > 1 else ''}", f"pluggy {number}", args=count) for number in (1, 3, 10)),
    ]
    with bench.seats(_SUBJECTS, pinned=True) as seats:
        bench.interleave(seats, cells)
    call, ten = bench.value("one call"), bench.value("pipeline of 10")
    bench.ratio("ten_filters_over_ten_calls", ten, call and call * 10)
    in_turn = bench.value("one call, to ten plugins in turn")
    bench.ratio("ten_filters_over_calls_to_ten_plugins", ten, in_turn and in_turn * 10)
    bench.ratio("no_subscriber_us", bench.value("no subscriber, inside a request"))
    bench.ratio(
        "in_process_over_pluggy_and_codec",
        bench.value("one filter in process"),
        bench.value("pluggy, 1 implementation, with encodes and decodes"),
    )


class Pluggy:
    """pluggy in this very process: the price of a hook without any walls."""

    def __init__(self, implementations: int) -> None:
        self.implementations = implementations

    def start(self) -> None:
        import msgspec

        from benchmarks.payload import ChatRequest, check, edit, requests

        pluggy = peer("pluggy")
        spec, impl = pluggy.HookspecMarker("bench"), pluggy.HookimplMarker("bench")

        class Spec:
            @spec  # type: ignore[untyped-decorator]
            def edit(self, request: dict[str, Any]) -> None: ...

        class Plugin:
            @impl  # type: ignore[untyped-decorator]
            def edit(self, request: dict[str, Any]) -> dict[str, Any]:
                return edit(request)

        hooks = pluggy.PluginManager("bench")
        hooks.add_hookspecs(Spec)
        for number in range(self.implementations):
            hooks.register(Plugin(), name=f"plugin-{number}")
        self.hook = hooks.hook.edit
        self.request = requests(1)[0]
        self.plain = msgspec.to_builtins(self.request)
        self.encode, self.decode_plain = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode
        self.decode = msgspec.msgpack.Decoder(ChatRequest).decode
        check(self.request, self._edited(), edits=self.implementations)

    def block(self, count: int) -> list[float]:
        """Return the microseconds of the hook alone; implementations edit one plain value in place."""
        hook, plain = self.hook, self.plain
        return timed(lambda: hook(request=plain), count)

    def block_with_codec(self, count: int) -> list[float]:
        """Return them with the encodes and decodes that keep a plugin from sharing the application's own value."""
        return timed(self._edited, count)

    def _edited(self) -> Any:
        value = self.decode_plain(self.encode(self.request))
        return self.decode(self.encode(self.hook(request=value)[-1]))

    def close(self) -> None: ...
