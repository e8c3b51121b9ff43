"""Calls of a service by its contract: arguments by position or name, answers of the types that the contract names.

Imported by the first ``ctx.service`` with a contract, never before a plugin is ready. The check of a method's answers is made at its first
call and kept with the contract.

* Wrong arguments are refused before anything is sent.
* An answer is of the type that the annotation names, all the way down, or the call fails as ``invalid-result`` with the place that is not.
* An annotation that cannot be held against what travels is refused, never passed over.

Source: docs/reference/sdk.md, "Services"; feature SV2.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final, get_type_hints

from annexe_sdk.checks import Mismatch, check_for
from annexe_sdk.contract import Contract, Method, contract_of
from annexe_sdk.errors import CallFailed

if TYPE_CHECKING:
    from annexe_sdk.context import Context

__all__ = ["TypedClient"]


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

        def ask(*args: Any, **named: Any) -> Any:
            answer = context._ask(wire_name, method.bind(args, named), key)
            return _awaited(answer, check) if hasattr(answer, "__await__") else check(answer)

        return ask

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._contract.methods]


async def _awaited(answer: Any, check: Callable[[Any], Any]) -> Any:
    return check(await answer)


def _checking(contract: Contract, method: Method) -> Callable[[Any], Any]:
    """Make the check of a method's answers and keep it; two threads that do so at once make two alike."""
    title = f"{contract.name}.{method.name}"
    convert = check_for(_returned(contract, method), f"{method.at}: {contract.title}.{method.name}")

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


class _Annotated:
    """Carries one annotation to ``get_type_hints``."""

    def __init__(self, annotation: Any) -> None:
        self.__annotations__ = {"return": annotation}


def _returned(contract: Contract, method: Method) -> Any:
    """Return what a method returns, its names looked up where it was written."""
    function = method.function
    try:
        holder: Any = _Annotated(function.__annotations__["return"])
        types = {name: held for name, held in vars(method.cls).items() if isinstance(held, type)}
        return get_type_hints(holder, function.__globals__, types)["return"]
    except Exception as error:
        text = f"{method.at}: what {contract.title}.{method.name} returns cannot be read ({type(error).__name__}: {error})"
        raise TypeError(f"{text}; import what it names, also when the contract runs, beside the contract") from error
