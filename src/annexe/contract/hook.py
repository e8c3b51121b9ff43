"""Decorators that say how implementations of a hook are called: ``hook.filter``, ``hook.action`` and so on.

Pure. A decorator only leaves a mark on the method, so that type checkers see the method as it was written; ``definition_of`` reads it.
Each works with and without parentheses.

Source: docs/reference/hooks.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from types import FunctionType
from typing import Any, TypeVar, final, get_args, overload

from annexe.contract.annotations import Place
from annexe.contract.definitions import HookKind, OnFailure

__all__ = ["HookMark", "action", "filter", "first_result", "mark_of", "observer", "stream_filter"]

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__annexe_hook__"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HookMark:
    """What a decorator said.

    Attributes:
        kind: Which decorator it was.
        budget_ms: The most one implementation may take; None: no budget of its own.
        on_failure: Policy when an implementation cannot answer.
        responds: Type of what ``Respond`` carries; None: the result's own.
    """

    kind: HookKind
    budget_ms: float | None = None
    on_failure: OnFailure = "open"
    responds: Any = None


def mark_of(function: object) -> HookMark | None:
    """Return the mark a decorator left, or None."""
    mark = getattr(function, _MARK, None)
    return mark if isinstance(mark, HookMark) else None


@overload
def filter(function: F, /) -> F: ...
@overload
def filter(*, budget_ms: float | None = None, on_failure: OnFailure = "open", responds: Any = None) -> Callable[[F], F]: ...
def filter(
    function: F | None = None, /, *, budget_ms: float | None = None, on_failure: OnFailure = "open", responds: Any = None
) -> F | Callable[[F], F]:
    """Each implementation sees what the one before left of the first parameter, and returns it, changed or not.

    Args:
        function: The method, when used without parentheses.
        budget_ms: The most one implementation may take.
        on_failure: ``open``: skip it and go on; ``closed``: the request fails.
        responds: Type of the answer an implementation may end the pipeline with; without it, the hook's own type.
    """
    return _apply(function, HookMark(kind=HookKind.FILTER, budget_ms=budget_ms, on_failure=on_failure, responds=responds))


@overload
def stream_filter(function: F, /) -> F: ...
@overload
def stream_filter(*, budget_ms: float | None = None, on_failure: OnFailure = "open") -> Callable[[F], F]: ...
def stream_filter(function: F | None = None, /, *, budget_ms: float | None = None, on_failure: OnFailure = "open") -> F | Callable[[F], F]:
    """Each implementation takes the stream the one before gives, and gives one.

    Args:
        function: The method, when used without parentheses.
        budget_ms: The most one implementation may take to its first output, and between two.
        on_failure: ``open``: leave it out if it fails before its first output; ``closed``: the request fails.
    """
    return _apply(function, HookMark(kind=HookKind.STREAM_FILTER, budget_ms=budget_ms, on_failure=on_failure))


@overload
def action(function: F, /) -> F: ...
@overload
def action(*, budget_ms: float | None = None, on_failure: OnFailure = "open") -> Callable[[F], F]: ...
def action(function: F | None = None, /, *, budget_ms: float | None = None, on_failure: OnFailure = "open") -> F | Callable[[F], F]:
    """Implementations do something in order and return nothing; the caller waits.

    Args:
        function: The method, when used without parentheses.
        budget_ms: The most one implementation may take.
        on_failure: ``open``: skip it and go on; ``closed``: the request fails.
    """
    return _apply(function, HookMark(kind=HookKind.ACTION, budget_ms=budget_ms, on_failure=on_failure))


@overload
def first_result(function: F, /) -> F: ...
@overload
def first_result(*, budget_ms: float | None = None, on_failure: OnFailure = "open") -> Callable[[F], F]: ...
def first_result(function: F | None = None, /, *, budget_ms: float | None = None, on_failure: OnFailure = "open") -> F | Callable[[F], F]:
    """Implementations are asked in order until one returns something other than None.

    Args:
        function: The method, when used without parentheses.
        budget_ms: The most one implementation may take.
        on_failure: ``open``: skip it and go on; ``closed``: the request fails.
    """
    return _apply(function, HookMark(kind=HookKind.FIRST_RESULT, budget_ms=budget_ms, on_failure=on_failure))


@overload
def observer(function: F, /) -> F: ...
@overload
def observer(*, budget_ms: float | None = None) -> Callable[[F], F]: ...
def observer(function: F | None = None, /, *, budget_ms: float | None = None) -> F | Callable[[F], F]:
    """Implementations are told, all at once; the caller does not wait and they cannot change, delay or fail anything.

    Args:
        function: The method, when used without parentheses.
        budget_ms: The most one implementation may take.
    """
    return _apply(function, HookMark(kind=HookKind.OBSERVER, budget_ms=budget_ms))


def _apply(function: F | None, mark: HookMark) -> F | Callable[[F], F]:
    def decorate(method: F) -> F:
        contract, _, name = getattr(method, "__qualname__", "").rpartition(".")
        place = Place(contract.rpartition(".")[2], name or repr(method))
        if not isinstance(method, FunctionType):
            raise place.error(f"@hook.{mark.kind} decorates something that is not a method", "put it directly above async def")
        if mark_of(method) is not None:
            raise place.error("it has two hook decorators", "keep one, the kind says how it is called")
        if mark.budget_ms is not None and not (isfinite(mark.budget_ms) and mark.budget_ms > 0):
            raise place.error(f"budget_ms is {mark.budget_ms}", "write milliseconds above 0, or leave it out")
        if mark.on_failure not in get_args(OnFailure):
            raise place.error(f"on_failure is {mark.on_failure!r}", "write 'open' or 'closed'")
        setattr(method, _MARK, mark)
        return method

    return decorate if function is None else decorate(function)
