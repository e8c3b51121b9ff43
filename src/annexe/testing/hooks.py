"""Hooks that a plugin defines, without a host: those who would implement them are played by the test's functions.

* Values make the trip over the wire, and with a folder they are held against the schemas that its manifest names.
* What goes wrong at a function of the test's reaches the plugin as what goes wrong at another plugin does, at a hook that fails closed.
* Where the test plays nobody, nobody implements the hook.

Source: docs/reference/testing.md, "Hooks of its own".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from inspect import isawaitable
from typing import Any, final

import msgspec

from annexe.channel.faults import error_to_wire
from annexe.contract import HookDefinition, HookKind, InvalidValueError, ValueType, decode_params
from annexe.dispatch.faults import invalid_result
from annexe.dispatch.hook_definitions import hook_definition
from annexe.errors import AnnexeError, HookError
from annexe.manifest import Manifest
from annexe.testing.wire import PLAYER, error_of, sent
from annexe_sdk import Reject, Respond
from annexe_sdk.errors import PermissionDenied, call_failed

__all__ = ["PlayedHooks"]

_encode = msgspec.msgpack.Encoder().encode


@final
class PlayedHooks:
    """What those do that implement a plugin's hooks.

    Args:
        functions: By name of the hook; ``def`` or ``async def``, called with the value. The result is what is left of it, or was found.
        manifest: The plugin's; None: every hook that is played is its own, a filter where nothing else is known.

    Raises:
        ValueError: The manifest does not define a hook that is played.
    """

    def __init__(self, functions: Mapping[str, Callable[[Any], Any]], *, manifest: Manifest | None) -> None:
        offers = manifest.provides.hook_specs if manifest is not None else {}
        for name in functions:
            if manifest is not None and name not in offers:
                raise ValueError(f"hooks[{name!r}]: its plugin.toml defines {', '.join(map(repr, offers)) or 'no hook'}")
        self._functions = dict(functions)
        self._plugin = manifest.id if manifest is not None else ""
        self._definitions = {name: hook_definition(name, offer, spent=_nothing) for name, offer in offers.items()}
        self._knows_all = manifest is not None

    def answer(self, method: str, params: list[Any]) -> Any:
        """Answer a call of a ``def`` handler's.

        Args:
            method: ``hook.<name>``.
            params: As the plugin gave them.

        Raises:
            CallFailed: What a host would have told.
            CodecError: The value cannot be sent.
        """
        return asyncio.run(self.answer_async(method, params))

    async def answer_async(self, method: str, params: list[Any]) -> Any:
        """Answer a call of an ``async def`` handler's, as ``answer`` does."""
        name = method.partition(".")[2]
        params = sent(params)
        definition = self._definitions.get(name)
        if definition is None and (self._knows_all or name not in self._functions):
            text = f"the plugin calls hook {name!r}, which it does not define; add it under [provides.hook-specs] in its plugin.toml"
            if not self._knows_all:
                text = f"nobody plays hook {name!r}; pass hooks={{{name!r}: …}}"
            raise PermissionDenied("permission-denied", text, {"permission": f"define:{name}"})
        try:
            value = params[0] if definition is None else _checked(definition, params)
            return sent(await self._run(name, definition, value))
        except AnnexeError as error:
            raise call_failed(error_to_wire(error)) from error

    async def _run(self, name: str, definition: HookDefinition | None, value: Any) -> Any:
        kind = definition.kind if definition is not None else HookKind.FILTER
        function = self._functions.get(name)
        result = value if kind is HookKind.FILTER else None
        if function is not None:
            try:
                given = function(value)
                given = await given if isawaitable(given) else given
            except Reject as refusal:
                raise error_of(f"hook.{name}", refusal) from refusal
            except Respond as answer:
                given = answer.value
            except Exception as error:
                raise _closed(name, error_of(f"hook.{name}", error)) from error
            result = given if kind in (HookKind.FILTER, HookKind.FIRST_RESULT) else None
        if definition is None or definition.result is None:
            return result
        try:
            return _held(definition.result, result)
        except InvalidValueError as error:
            raise _closed(name, invalid_result(name, error, plugin=PLAYER, method=f"hook.{name}")) from error


def _checked(definition: HookDefinition, params: list[Any]) -> Any:
    (value,) = decode_params(definition, msgspec.Raw(_encode(params)), "msgpack")
    return value


def _held(value_type: ValueType, value: Any) -> Any:
    return value_type.decoder("msgpack")(_encode(sent(value)))


def _closed(name: str, error: AnnexeError) -> HookError:
    return HookError(f"{name} failed closed: {error.message}", plugin=PLAYER, hook=name, reason=error.code)


def _nothing(_seconds: float) -> None:
    return None
