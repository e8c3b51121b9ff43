"""The value that every call carries: a nested chat request of about 1 KB, and what a plugin does to it.

The edit changes the last message and counts itself, so n filters leave n marks, and a reply that was not really made from its request
is found by `check`. Requests differ from each other, so nothing is gained by remembering an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["ChatRequest", "Message", "Sampling", "check", "edit", "requests"]


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
