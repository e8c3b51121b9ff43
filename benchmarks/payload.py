"""The value that every call carries: a nested chat request of about 1 KB, and what a plugin does to it. And the benchmark of larger ones.

The edit changes the last message and counts itself, so n filters leave n marks, and a reply that was not really made from its request
is found by `check`. Requests differ from each other, so nothing is gained by remembering an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.harness import Bench, Cell, Mark, Subject, reference

__all__ = ["MARKS", "NAME", "TITLE", "ChatRequest", "Message", "Sampling", "check", "edit", "measure", "requests"]

NAME = "payload"
TITLE = "Long bytes, 1 KiB to 64 MiB: to a plugin, from it, both"
MARKS = (
    Mark(
        key="arena_1mib_over_floor_and_copies",
        limit=1.5,
        about="1 MiB both ways by shared memory, looked at where it lies ÷ (floor + the copies that must be), pinned",
        held_back_by="the call itself costs more than the floor, and what is copied pushes both processes' own work out of the caches.",
    ),
    Mark(key="arena_64kib_over_inline", limit=1.0, about="64 KiB both ways by shared memory ÷ in frames, pinned: the threshold is right"),
)
_WAYS = {"in": "take", "out": "give", "both": "echo", "both, as a view": "pass_on"}
_MUST_BE = ("in", "out", "both")
_KIB, _MIB = 1024, 1024 * 1024
# Sizes, and how often each is sent at a time.
_COUNTS = {_KIB: 200, 16 * _KIB: 200, 64 * _KIB: 150, 256 * _KIB: 60, _MIB: 40, 8 * _MIB: 6, 64 * _MIB: 2}
_LONGEST_INLINE = 8 * _MIB  # of these; a frame may have 10 MiB
_OURS = (
    Subject("by shared memory", "benchmarks.payload_subject:ByArena", ours=True),
    Subject("in frames", "benchmarks.payload_subject:Inline", ours=True),
)


@dataclass(slots=True)
class Message:
    """One message of a conversation."""

    role: str
    content: str
    tokens: int


@dataclass(slots=True)
class Sampling:
    """How an answer is drawn."""

    temperature: float
    top_p: float
    stop: list[str]


@dataclass(slots=True)
class ChatRequest:
    """What the application hands to its plugins."""

    model: str
    user: str
    edits: int
    messages: list[Message]
    sampling: Sampling
    labels: dict[str, str]


_TURNS = (
    ("system", "You are the help desk of a small bookshop. Answer in two sentences, name the shelf, never promise a delivery date."),
    ("user", "Good morning! I am looking for an atlas of the night sky that a nine-year-old can read alone, with maps for each season."),
    ("assistant", "We have three of those on shelf C4. The one with the turning star wheel is the easiest to read outdoors, in red light."),
    ("user", "Lovely. Is the star wheel made for our latitude? We live near Tromsø, and last time half of the summer maps were no use."),
)


def requests(count: int) -> list[ChatRequest]:
    """Return that many requests, each different."""
    return [
        ChatRequest(
            model="small-2",
            user=f"reader-{number:04}",
            edits=0,
            messages=[Message(role, f"{content} ({number}.{turn})", 24 + turn) for turn, (role, content) in enumerate(_TURNS * 2)][:6],
            sampling=Sampling(0.7, 0.95, ["\n\n", "###"]),
            labels={"tenant": f"shop-{number % 7}", "channel": "web"},
        )
        for number in range(count)
    ]


def edit(request: dict[str, Any]) -> dict[str, Any]:
    """Do in plain builtins what the benchmark plugin does: count, and move the last message's first letter to its end."""
    request["edits"] += 1
    last = request["messages"][-1]
    last["content"] = last["content"][1:] + last["content"][0]
    return request


def check(sent: Any, got: Any, *, edits: int) -> None:
    """Raise unless ``got`` is ``sent`` after that many edits and is of the very same type."""
    before, after = sent.messages[-1].content, got.messages[-1].content
    if type(got) is not type(sent) or got is sent:
        raise RuntimeError(f"expected a new {type(sent).__name__}, got {type(got).__name__}")
    if (got.user, got.edits, after) != (sent.user, sent.edits + edits, before[edits:] + before[:edits]):
        raise RuntimeError(f"expected {sent.user} with {edits} edits, got {got.user} with {got.edits - sent.edits}: {after!r}")


def measure(bench: Bench) -> None:
    """Measure every size and way, in frames and by shared memory, as scheduled and pinned, beside the copies that must be."""
    subjects = [reference("floor", "Floor"), reference("floor and copies", "Copies"), *_OURS]
    for suffix in ("", " (pinned)"):
        with bench.seats(subjects, pinned=bool(suffix)) as seats:
            cells = [Cell("floor", "floor", args={"count": bench.count(600)})]
            for size, full in _COUNTS.items():
                for way, method in _WAYS.items():
                    count = {"count": bench.count(full)}
                    if way in _MUST_BE:
                        cells.append(Cell(_row("floor and copies", size, way), "floor and copies", args={"size": size, "way": way} | count))
                    if way in _MUST_BE and size <= _LONGEST_INLINE:
                        cells.append(Cell(_row("in frames", size, way), "in frames", method, {"size": size} | count))
                    if size >= 64 * _KIB:  # below, both are the same
                        cells.append(Cell(_row("by shared memory", size, way), "by shared memory", method, {"size": size} | count))
            bench.interleave(seats, cells, suffix=suffix)
        _compare(bench, suffix)
        bench.absent.clear()


def _compare(bench: Bench, suffix: str) -> None:
    end = "" if suffix else "_as_scheduled"
    for way, key in (("both, as a view", ""), ("both", "_as_bytes"), ("in", "_in"), ("out", "_out")):
        must_be = bench.value(_row("floor and copies", _MIB, way.partition(",")[0]) + suffix)
        bench.ratio(f"arena_1mib_over_floor_and_copies{key}{end}", bench.value(_row("by shared memory", _MIB, way) + suffix), must_be)
    for size, told in ((64 * _KIB, "64kib"), (_MIB, "1mib")):
        arena, inline = (bench.value(_row(how, size, "both") + suffix) for how in ("by shared memory", "in frames"))
        bench.ratio(f"arena_{told}_over_inline{end}", arena, inline)


def _row(how: str, size: int, way: str) -> str:
    told = f"{size // _MIB} MiB" if size >= _MIB else f"{size // _KIB} KiB"
    return f"{told} {way}, {how}"
