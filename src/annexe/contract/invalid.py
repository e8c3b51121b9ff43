"""A value that does not fit its declared type: where, what was expected, what was there.

Pure. Everything a decoder, a validator or a model's own checks raise becomes this one error, so that callers have one thing to catch.

* ``path`` starts with ``$`` (the value itself) and goes down by ``.field`` and ``[index]``; ``[...]`` stands for a key not told.
* What a plugin sent may be quoted in the text, but never more than ``MAX_QUOTED_CHARS`` of it.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any, final

import msgspec

__all__ = ["MAX_QUOTED_CHARS", "ONE_OF_THE_DECLARED", "InvalidValueError", "bounded", "from_decoder", "nesting_error"]

MAX_QUOTED_CHARS = 200
ONE_OF_THE_DECLARED = "one of the declared values"
"""What is expected of an enum, as long as nobody has looked up its values."""

_AT = re.compile(r" - at (?P<key>`key` in )?`(?P<path>\$.*)`\Z", re.DOTALL)
_EXPECTED_GOT = re.compile(r"Expected (?P<expected>.+), got (?P<actual>.+)\Z", re.DOTALL)
_OTHER_FORMS = (
    (re.compile(r"Object missing required field `(.+)`\Z", re.DOTALL), "an object with the field {}", "an object without it"),
    (re.compile(r"Object contains unknown field `(.+)`\Z", re.DOTALL), "an object without unknown fields", "the field {}"),
    (re.compile(r"Invalid enum value (.+)\Z", re.DOTALL), ONE_OF_THE_DECLARED, "{}"),
    (re.compile(r"Expected (.+)\Z", re.DOTALL), "{}", "something else"),
)


@final
class InvalidValueError(ValueError):
    """A value does not fit its declared type.

    Args:
        path: Where in the value, ``$.messages[0].role``.
        expected: What the type declares, in words.
        actual: What was there, in words; bounded.
    """

    def __init__(self, *, path: str, expected: str, actual: str) -> None:
        super().__init__(path, expected, actual)
        self.path = path
        self.expected = expected
        self.actual = actual

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(InvalidValueError, path=self.path, expected=self.expected, actual=self.actual), ()

    def __str__(self) -> str:
        return f"at {self.path}: expected {self.expected}, got {self.actual}"

    def inside(self, step: str) -> InvalidValueError:
        """Return the same error as seen from one level further out, whose ``step`` (``.field``, ``[3]``) led here."""
        return InvalidValueError(path=f"${step}{self.path[1:]}", expected=self.expected, actual=self.actual)


def bounded(text: str) -> str:
    """Return the text, cut to what may be quoted of a value that came from a plugin."""
    return text if len(text) <= MAX_QUOTED_CHARS else text[: MAX_QUOTED_CHARS - 1] + "…"


def nesting_error(limit: int) -> InvalidValueError:
    """Return the error for a value nested too deeply."""
    return InvalidValueError(path="$", expected=f"at most {limit} levels of nesting", actual="more")


def from_decoder(error: Exception, *, expected: str) -> InvalidValueError:
    """Translate what decoding raised.

    Args:
        error: From msgspec, from Python (depth, text encoding), or from a model's own checks, which may raise anything.
        expected: The declared type's name, for errors that do not tell.
    """
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        text = text if isinstance(error, msgspec.DecodeError) else f"{type(error).__name__}: {text}"
        return InvalidValueError(path="$", expected=expected, actual=bounded(text))
    path = "$"
    if found := _AT.search(text):
        path = found["path"] + ("[key]" if found["key"] else "")
        text = text[: found.start()]
    if told := _EXPECTED_GOT.match(text):
        return InvalidValueError(path=path, expected=_plain(told["expected"]), actual=_plain(told["actual"]))
    for pattern, wanted, got in _OTHER_FORMS:
        if match := pattern.match(text):
            part = _plain(match[1])
            return InvalidValueError(path=path, expected=wanted.format(part), actual=got.format(part))
    return InvalidValueError(path=path, expected=expected if path == "$" else "a valid value", actual=bounded(text))


def _plain(text: str) -> str:
    return bounded(text.replace("`", ""))
