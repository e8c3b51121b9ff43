"""What an exchange used, and what that costs.

Pure. Cost is counted in billionths of the currency, as whole numbers, so that a sum of many small amounts is exact.

Where the model's service reports no tokens they are counted by somebody else, a ``Counter``. Where nobody counts they are guessed: four
characters a token, rounded up, and four more tokens for each message of the request.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Counter(Protocol):
        """Counts the tokens of a request and of an answer's texts."""

        def request(self, request: dict[str, Any]) -> int: ...
        def answer(self, texts: Iterable[str]) -> int: ...


__all__ = ["NANOS", "Guess", "cost_nanos", "texts_of", "tokens_used"]

NANOS = 1_000_000_000
_NANOS_PER_TOKEN = NANOS // 1_000_000  # of a price of 1 for a million tokens

_CHARS_PER_TOKEN = 4
_TOKENS_PER_MESSAGE = 4


class Guess:
    """Counts by the length of texts alone; a ``Counter``."""

    def request(self, request: dict[str, Any]) -> int:
        messages = request.get("messages", [])
        return _by_length(texts_of(messages)) + _TOKENS_PER_MESSAGE * len(messages)

    def answer(self, texts: Iterable[str]) -> int:
        return _by_length(texts)


def tokens_used(request: dict[str, Any], answer: dict[str, Any], counter: Counter) -> tuple[int, int]:
    """Return the tokens of request and answer: as reported with the answer, else as the counter has them."""
    usage = answer.get("usage") or {}
    reported = usage.get("prompt_tokens"), usage.get("completion_tokens")
    # A service in between could report anything: what is no count is counted here.
    asked, answered = (count if isinstance(count, int) and count >= 0 else None for count in reported)
    if asked is None:
        asked = counter.request(request)
    if answered is None:
        answered = counter.answer(texts_of([choice.get("message") for choice in answer.get("choices", [])]))
    return asked, answered


def cost_nanos(prices: dict[str, dict[str, float]], model: str, asked: int, answered: int) -> int:
    """Return what the tokens cost, in billionths; 0 for a model without a price."""
    price = _price(prices, model)
    return round((asked * price["input"] + answered * price["output"]) * _NANOS_PER_TOKEN) if price else 0


def _price(prices: dict[str, dict[str, float]], model: str) -> dict[str, float] | None:
    name = model
    while name:
        if name in prices:
            return prices[name]
        name = name.rpartition("-")[0]
    return prices.get("*")


def _by_length(texts: Iterable[str]) -> int:
    chars = sum(map(len, texts))
    return -(-chars // _CHARS_PER_TOKEN)


def texts_of(value: Any, name: str = "content") -> Iterator[str]:
    """Yield the texts a model reads or writes: contents, text parts, tool names and arguments."""
    if isinstance(value, str):
        if name in ("content", "text", "name", "arguments"):
            yield value
    elif isinstance(value, list):
        for item in value:
            yield from texts_of(item, name)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts_of(item, key)
