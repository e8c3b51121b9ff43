"""What a host checks by its contracts, for plugins that run without a host.

Values stay plain, as handlers see them: they are held against the declared types, not turned into them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, final

from annexe.contract import (
    ExtensionDefinition,
    HookDefinition,
    InvalidValueError,
    MethodDefinition,
    ParamDefinition,
    SpecDefinition,
    ValueType,
    bind,
    definition_of,
)
from annexe.dispatch.faults import invalid_result
from annexe.errors import InvalidParamsError

__all__ = ["Checks"]


@final
class Checks:
    """The types that contracts declare. What none of them opens is not checked.

    Args:
        contracts: Hook specs and extension points, as a host takes them.
        plugin: Id of the plugin, for errors.
    """

    def __init__(self, contracts: Iterable[type[Any]], *, plugin: str) -> None:
        self._plugin = plugin
        self._methods: dict[str, HookDefinition | MethodDefinition] = {}
        for contract in contracts:
            definition = definition_of(contract)
            if isinstance(definition, SpecDefinition):
                self._methods |= {hook.method: hook for hook in definition.hooks.values()}
            elif isinstance(definition, ExtensionDefinition):
                self._methods |= {method.method: method for method in definition.methods.values()}

    def bound(self, method: str, args: tuple[Any, ...], named: Mapping[str, Any]) -> list[Any]:
        """Return one value for each parameter, streams included, defaults filled in.

        Raises:
            InvalidParamsError: One is missing or unknown; ``parameter`` names it.
        """
        definition = self._methods.get(method)
        if definition is None:
            if named:
                raise InvalidParamsError(
                    f"{method}: parameters can be named when its contract is given", method=method, parameter=next(iter(named))
                )
            return list(args)
        return list(bind(definition.params, args, named, method=method))

    def check_params(self, method: str, values: list[Any]) -> None:
        """Hold plain values, streams left out, against the declared types.

        Raises:
            InvalidParamsError: One does not fit; ``parameter``, ``path``, ``expected`` and ``actual`` say where.
        """
        definition = self._methods.get(method)
        declared = [param for param in definition.params if not param.is_stream] if definition is not None else []
        # Of a stream that was called like a function nothing is known.
        for param, value in zip(declared, values, strict=True) if len(declared) == len(values) else ():
            _check_param(method, param, value)

    def items_in(self, method: str, items: Iterable[Any]) -> Iterator[Any]:
        """Give the same items; each is held against the declared type as it is taken."""
        definition = self._methods.get(method)
        stream = next((param for param in definition.params if param.is_stream), None) if definition is not None else None
        for item in items:
            if stream is not None:
                _check_param(method, stream, item)
            yield item

    def result(self, method: str, value: Any, *, is_response: bool = False) -> Any:
        """Return what the application gets of a plain result; a list for a stream.

        Args:
            method: Name on the wire.
            value: What the handler gave.
            is_response: It was given by ``Respond``.

        Raises:
            InvalidResultError: It does not fit; ``path``, ``expected`` and ``actual`` say where.
        """
        definition = self._methods.get(method)
        if definition is None:
            return value
        if definition.stream_out is not None:
            for item in value:
                self._fits(method, definition.stream_out, item)
            return value
        responds = definition.responds if is_response and isinstance(definition, HookDefinition) else None
        expected = responds or definition.result
        if expected is None:
            return None  # an action's result is not looked at
        self._fits(method, expected, value)
        return value

    def _fits(self, method: str, expected: ValueType, value: Any) -> None:
        try:
            expected.from_builtins(value)
        except InvalidValueError as error:
            raise invalid_result(method, error, plugin=self._plugin, method=method) from error


def _check_param(method: str, param: ParamDefinition, value: Any) -> None:
    try:
        param.type.from_builtins(value)
    except InvalidValueError as error:
        text = f"{method}: parameter {param.name!r} {error}."
        facts = {"path": error.path, "expected": error.expected, "actual": error.actual}
        raise InvalidParamsError(text, method=method, parameter=param.name, **facts) from error
