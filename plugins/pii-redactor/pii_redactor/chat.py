"""Where the texts are in chat requests, answers and chunks.

Pure. Requests and answers are changed in place: they are this plugin's own copies.

Every string of a message counts, also in fields that nobody has thought of yet, except under the names in ``_OPAQUE``: those hold names
that others rely on, and bytes in base64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise

from .placeholders import Hider, Restorer, restore

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from typing import Any

__all__ = ["StreamRestorer", "hide_request", "restore_answer", "restored_chunks"]

_OPAQUE = frozenset({"role", "type", "id", "tool_call_id", "image_url", "input_audio", "audio", "file"})
# Of the request itself, the fields that are about the user.
_REQUEST_FIELDS = ("user", "metadata", "prediction")


def hide_request(request: dict[str, Any], kinds: Iterable[str]) -> Hider:
    """Put placeholders into a request.

    Args:
        request: A ``ChatRequest`` as a plain map; changed in place.
        kinds: What to hide.

    Returns:
        The hider; its ``values`` restore the answer.
    """
    extra = request.get("extra", {})
    own = {name: extra[name] for name in _REQUEST_FIELDS if name in extra}
    hider = Hider(frozenset(kinds), list(_texts([request["messages"], own])))
    request["messages"] = _mapped(request["messages"], hider.hide)
    extra.update(_mapped(own, hider.hide))
    return hider


def restore_answer(answer: dict[str, Any], values: Mapping[str, str]) -> bool:
    """Put the values back into a ``ChatAnswer``, in place; say whether that changed it."""
    restored = _mapped(answer["choices"], lambda text: restore(text, values))
    changed: bool = restored != answer["choices"]
    answer["choices"] = restored
    return changed


class StreamRestorer:
    """Restores the chunks of one streamed answer.

    Each choice's text, and each of its other growing texts (tool arguments, reasoning), is a stream of its own.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self._texts: dict[tuple[int, tuple[str | int, ...]], Restorer] = {}
        self._last: dict[str, Any] | None = None

    def feed(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """Return the chunk as it can be shown now; what its choices held back comes with their last one."""
        for choice in chunk["choices"]:
            index, delta = choice["index"], choice["delta"]
            self._feed(index, (), delta)
            if choice.get("finish_reason") is not None:
                self._release(index, delta)
        self._last = chunk
        return chunk

    def flush(self) -> dict[str, Any] | None:
        """Return a chunk with what is still held back, for a stream that ended without saying so; None when nothing is."""
        choices = []
        for index in sorted({index for index, _ in self._texts}):
            delta: dict[str, Any] = {"content": None, "extra": {}}
            if self._release(index, delta):
                choices.append({"index": index, "delta": delta, "finish_reason": None, "extra": {}})
        return {**(self._last or {}), "choices": choices} if choices else None

    def _feed(self, index: int, path: tuple[str | int, ...], value: dict[str, Any]) -> None:
        for name, item in value.items():
            if isinstance(item, str) and name not in _OPAQUE:
                value[name] = self._text(index, (*path, name)).feed(item)
            elif isinstance(item, dict):
                self._feed(index, (*path, name), item)
            elif isinstance(item, list):
                for position, entry in enumerate(item):
                    if isinstance(entry, dict):
                        self._feed(index, (*path, name, entry.get("index", position)), entry)

    def _text(self, index: int, path: tuple[str | int, ...]) -> Restorer:
        restorer = self._texts.get((index, path))
        if restorer is None:
            restorer = self._texts[index, path] = Restorer(self._values)
        return restorer

    def _release(self, index: int, delta: dict[str, Any]) -> bool:
        """Add to a choice's delta what was held back of it; say whether there was something."""
        released = False
        for key in [key for key in self._texts if key[0] == index]:
            rest = self._texts.pop(key).flush()
            if rest:
                _append(delta, key[1], rest)
                released = True
        return released


def _append(delta: dict[str, Any], path: tuple[str | int, ...], rest: str) -> None:
    """Append to the text at ``path``; an element of a list is the one of that ``index``, made when it is missing."""
    at: Any = delta
    for name, following in pairwise(path):
        if isinstance(name, str):
            at = at.setdefault(name, [] if isinstance(following, int) else {})
            continue
        entry = next((entry for entry in at if entry.get("index") == name), None)
        if entry is None:
            entry = {"index": name}
            at.append(entry)
        at = entry
    at[path[-1]] = (at.get(path[-1]) or "") + rest


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in the value, also those under opaque names."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """Return the value with every text in it changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {name: item if name in _OPAQUE else _mapped(item, change) for name, item in value.items()}
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    return value


def restored_chunks(chunks: Iterable[dict[str, Any]], values: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield the chunks of a stream with the values put back."""
    restorer = StreamRestorer(values)
    for chunk in chunks:
        yield restorer.feed(chunk)
    rest = restorer.flush()
    if rest is not None:
        yield rest
