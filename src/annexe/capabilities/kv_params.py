"""The parameters of the ``kv.*`` wire methods, and the check of what a plugin sent for them.

Pure. ``docs/reference/kv.md`` describes them for plugin authors.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from annexe.errors import InvalidParamsError
from annexe.storage.kv_values import check_key

__all__ = ["CompareAndSet", "Increment", "List", "OneKey", "Set", "read_params"]

_LONGEST_TTL_S = 10 * 365 * 86400.0

_Ttl = Annotated[float, Meta(gt=0, le=_LONGEST_TTL_S)]
_Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class OneKey(Struct, frozen=True, forbid_unknown_fields=True):
    """Of ``kv.get`` and ``kv.delete``."""

    key: str


class Set(Struct, frozen=True, forbid_unknown_fields=True):
    """Of ``kv.set``."""

    key: str
    value: Any
    ttl_s: _Ttl | None = None


class Increment(Struct, frozen=True, forbid_unknown_fields=True):
    """Of ``kv.increment``."""

    key: str
    by: _Int64 = 1
    ttl_s: _Ttl | None = None


class CompareAndSet(Struct, frozen=True, forbid_unknown_fields=True):
    """Of ``kv.compare_and_set``; null as ``expected`` is "no such key", as ``value`` "remove it"."""

    key: str
    expected: Any
    value: Any
    ttl_s: _Ttl | None = None


class List(Struct, frozen=True, forbid_unknown_fields=True):
    """Of ``kv.list``."""

    prefix: str = ""
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    after: str | None = None


P = TypeVar("P", OneKey, Set, Increment, CompareAndSet, List)


def read_params(params: Any, kind: type[P], *, method: str) -> P:
    """Return checked parameters.

    Args:
        params: What came over the wire: a map of name to value.
        kind: Which parameters the method has.
        method: Its wire name, for the error.

    Raises:
        InvalidParamsError: Something is missing, unknown, of the wrong type or out of bounds.
    """
    try:
        read = msgspec.convert(params, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise InvalidParamsError(f"{method}: {error}.", method=method) from error
    if isinstance(read, List):
        check_key(read.prefix, method=method, name="prefix", may_be_empty=True)
        if read.after is not None:
            check_key(read.after, method=method, name="after")
    else:
        check_key(read.key, method=method)
    return read
