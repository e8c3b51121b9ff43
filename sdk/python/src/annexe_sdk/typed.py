"""Calls of a service by its contract: arguments by position or name, answers of the types that the contract names.

Imported by the first ``ctx.service`` with a contract, never before a plugin is ready. The check of a method's answers is made at its first
call and kept with the contract.

* Wrong arguments are refused before anything is sent.
* An answer is of the type that the annotation names, all the way down, or the call fails as ``invalid-result`` with the place that is not.
* An annotation that cannot be held against what travels is refused, never passed over.

Source: docs/reference/sdk.md, "Services"; feature SV2.
"""

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, closing
from functools import partial
from typing import TYPE_CHECKING, Any, final, get_type_hints

from annexe_sdk.checks import Mismatch, check_for
from annexe_sdk.contract import Contract, Method, contract_of
from annexe_sdk.convert import stream_item
from annexe_sdk.errors import CallFailed

if TYPE_CHECKING:
    from annexe_sdk.context import Context

__all__ = ["TypedClient", "annotation_of"]


@final
class TypedClient:
    """A service of another plugin's by its contract; has the contract's methods.

    Args:
        context: Of the call that the plugin works on.
        of: The contract.
        key: Alike calls go to the same plugin by it.

    Raises:
        TypeError: ``of`` is no contract.
    """

    __slots__ = ("_context", "_contract", "_key")

    def __init__(self, context: "Context", of: Any, key: str | None) -> None:
        self._contract = contract_of(of)
        self._context = context
        self._key = key

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        contract = self._contract
        method = contract.methods.get(name)
        if method is None:
            raise AttributeError(f"the contract {contract.title} has no {name!r}; it has: {', '.join(contract.methods)}")
        context, key, wire_name = self._context, self._key, f"svc.{contract.name}.{name}"
        check = method.check or _checking(contract, method)
        if method.direction is not None:
            return partial(_streamed, context, method, wire_name, key, check)

        def ask(*args: Any, **named: Any) -> Any:
            answer = context._ask(wire_name, method.bind(args, named), key)
            return _awaited(answer, check) if hasattr(answer, "__await__") else check(answer)

        return ask

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._contract.methods]


def _streamed(
    context: "Context", method: Method, wire_name: str, key: "str | None", check: Callable[[Any], Any], *args: Any, **named: Any
) -> Any:
    """Call a method that takes a stream, or gives one: what it takes is its first argument and does not travel with the others."""
    params = method.bind(args, named)
    items = params.pop(0) if method.direction != "out" else None
    got = context._stream(wire_name, params, key, items, method.direction or "out")
    if method.direction != "in":
        return _each_awaited(got, check) if hasattr(got, "__anext__") else _each(got, check)
    return _awaited(got, check) if hasattr(got, "__await__") else check(got)


def _each(items: Generator[Any, None, Any], check: Callable[[Any], Any]) -> Generator[Any, None, None]:
    with closing(items):
        for item in items:
            yield check(item)


async def _each_awaited(items: AsyncGenerator[Any, None], check: Callable[[Any], Any]) -> AsyncGenerator[Any, None]:
    async with aclosing(items):
        async for item in items:
            yield check(item)


async def _awaited(answer: Any, check: Callable[[Any], Any]) -> Any:
    return check(await answer)


def _checking(contract: Contract, method: Method) -> Callable[[Any], Any]:
    """Make the check of a method's answers, or of the items that it gives, and keep it; two threads that do so at once make two alike."""
    title = f"{contract.name}.{method.name}"
    annotation = annotation_of(contract, method, "return")
    takes = _takes_stream(contract, method)
    item = stream_item(annotation)
    convert = check_for(annotation if item is None else item[0], f"{method.at}: {contract.title}.{method.name}")
    method.direction = ("both" if takes else "out") if item is not None else "in" if takes else None

    def check(answer: Any) -> Any:
        try:
            return convert(answer)
        except Mismatch as found:
            where = found.where
            facts = {"path": where, "expected": found.expected, "actual": found.actual}
            text = f"{title}: at {where}: expected {found.expected}, got {found.actual}"
            raise CallFailed("invalid-result", text, facts) from found.__cause__

    method.check = check
    return check


def _takes_stream(contract: Contract, method: Method) -> bool:
    """Say whether the first parameter is a stream. What travels as it is need not be known here: its type may be unreadable."""
    if not method.names:
        return False
    try:
        return stream_item(annotation_of(contract, method, method.names[0])) is not None
    except TypeError:
        if method.says_stream(method.names[0]):
            raise
        return False


class _Annotated:
    """Carries one annotation to ``get_type_hints``."""

    def __init__(self, annotation: Any) -> None:
        self.__annotations__ = {"return": annotation}


def annotation_of(contract: Contract, method: Method, of: str) -> Any:
    """Return the annotation of a parameter, or of what the method returns, its names looked up where it was written."""
    function = method.function
    try:
        holder: Any = _Annotated(function.__annotations__[of])
        types = {name: held for name, held in vars(method.cls).items() if isinstance(held, type)}
        return get_type_hints(holder, function.__globals__, types)["return"]
    except Exception as error:
        whole = f"{contract.title}.{method.name}"
        what = f"what {whole} returns" if of == "return" else f"the type of {of} of {whole}"
        text = f"{method.at}: {what} cannot be read ({type(error).__name__}: {error})"
        raise TypeError(f"{text}; import what it names, also when the contract runs, beside the contract") from error
