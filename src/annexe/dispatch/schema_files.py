"""Files of JSON Schema that plugins wrote: each is read once, whatever came of it, for it is asked for whenever its plugin is judged.

Source: ADR-0023; ADR-0096.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeVar

import msgspec

from annexe.capabilities.bounded_schema import RefusedSchemaError

__all__ = ["remembered"]

S = TypeVar("S")

_MAX_REMEMBERED = 1024  # a plugin has 64 at most


def remembered(make: Callable[[Any], S]) -> Callable[[bytes], S]:
    """Have what is made of a document asked for by the text of its file, and remembered; so is a refusal.

    Args:
        make: Makes it, or raises ``RefusedSchemaError``; is given JSON, with numbers of at most 64 bits.
    """

    @lru_cache(maxsize=_MAX_REMEMBERED)
    def read(text: bytes) -> S | RefusedSchemaError:
        try:
            return make(_document(text))
        except RefusedSchemaError as error:
            return RefusedSchemaError(error.pointer, error.message)  # without what its traceback holds

    @wraps(make)
    def given(text: bytes) -> S:
        found = read(text)
        if isinstance(found, RefusedSchemaError):
            raise RefusedSchemaError(found.pointer, found.message)
        return found

    return given


def _document(text: bytes) -> Any:
    try:
        document = msgspec.json.decode(text)
        msgspec.msgpack.encode(document)  # numbers of at most 64 bits
    except (ValueError, OverflowError, RecursionError) as error:  # a decode error is a ValueError
        raise RefusedSchemaError("", f"expected JSON, got: {error}") from error
    return document
