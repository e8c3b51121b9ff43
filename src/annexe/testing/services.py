"""Services without a host: other plugins', played by the test's objects, and the plugin's own, called by the test.

* Arguments and answers make the trip over the wire, arguments as a list.
* What goes wrong at an object of the test's reaches the plugin as what goes wrong at another plugin does: as an error that a host tells.
* What goes wrong in the plugin's own service reaches the test as it is.

Source: docs/reference/testing.md, "Services of others".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from inspect import Signature, isasyncgenfunction, isawaitable, isclass, iscoroutinefunction, signature
from typing import Any, cast, final

from annexe.channel.faults import error_to_wire
from annexe.errors import InvalidParamsError, InvalidResultError, MethodNotFoundError, PluginUnavailableError
from annexe.testing.calling import as_async
from annexe.testing.wire import PLAYER, error_of, sent
from annexe_sdk.codec import CodecError
from annexe_sdk.context import Context, ServiceClient, ServiceMethod
from annexe_sdk.contract import contract_of
from annexe_sdk.convert import converter
from annexe_sdk.errors import call_failed
from annexe_sdk.plugin import Handler
from annexe_sdk.typed import TypedClient

__all__ = ["PlayedServices", "client_of", "name_of"]


@final
class PlayedServices:
    """What other plugins offer, by objects of the test's.

    Args:
        services: By name; public methods, ``async def`` or not, answer the calls of their names. A last parameter ``ctx`` gets one.
        caller: Id of the plugin that calls.
        versions: Which versions it requires, by service, for errors.

    Raises:
        TypeError: A class was given for an object.
    """

    def __init__(self, services: Mapping[str, object], *, caller: str, versions: Mapping[str, str]) -> None:
        for name, target in services.items():
            if isclass(target):
                raise TypeError(f"services[{name!r}]: expected an object whose methods answer, got the class {target.__name__}; make one")
        self._services = dict(services)
        self._versions = versions
        self.caller = caller

    def answer(self, method: str, params: Any, context: Callable[[bool], Context]) -> Any:
        """Answer a call of a ``def`` handler's.

        Args:
            method: Name on the wire.
            params: As the plugin gave them.
            context: Makes the ``ctx`` of an ``async def``, or of another.

        Raises:
            CallFailed: What a host would have told.
            CodecError: The arguments cannot be sent.
        """
        params = sent(params)
        with _told(method):
            result = self._begin(method, params, context)
            return _answered(method, asyncio.run(_awaited(result)) if isawaitable(result) else result)

    async def answer_async(self, method: str, params: Any, context: Callable[[bool], Context]) -> Any:
        """Answer a call of an ``async def`` handler's, as ``answer`` does."""
        params = sent(params)
        with _told(method):
            result = self._begin(method, params, context)
            return _answered(method, await result if isawaitable(result) else result)

    def stream(self, method: str, params: Any, items: Any, direction: str, context: Callable[[bool], Context]) -> Any:
        """Answer a streamed call of a ``def`` handler's: an iterator, or what is answered to a stream that goes in; see ``answer``."""
        given = _sent_each(items) if direction != "out" else None
        with _told(method):
            result = self._begin(method, sent(params), context, given, direction)
            if direction == "in":
                return _answered(method, asyncio.run(_awaited(result)) if isawaitable(result) else result)
        return _each_answered(method, result)

    async def answer_stream(self, method: str, params: Any, items: Any, context: Callable[[bool], Context]) -> Any:
        """Answer a stream that an ``async def`` handler sends, as ``answer`` does."""
        with _told(method):
            result = self._begin(method, sent(params), context, await _sent_list(items), "in")
            return _answered(method, await result if isawaitable(result) else result)

    async def stream_async(self, method: str, params: Any, items: Any, context: Callable[[bool], Context]) -> AsyncIterator[Any]:
        """Answer a streamed call of an ``async def`` handler's; ``items``: what it sends, None where that is nothing."""
        with _told(method):
            given = await _sent_list(items) if items is not None else None
            result = self._begin(method, sent(params), context, given, "out" if given is None else "both")
            if hasattr(result, "__anext__"):
                async for item in result:
                    yield _answered(method, item)
            else:
                for item in _yielded(method, result):
                    yield _answered(method, item)

    def _begin(
        self, method: str, params: list[Any], context: Callable[[bool], Context], items: Iterator[Any] | None = None, direction: str = ""
    ) -> Any:
        """Call what answers a method; returns its result, or what to await for it. ``items``: the stream that it takes."""
        function = self._function(method)
        if direction and isinstance(function, ServiceMethod):  # another runner's, by its name
            return function.send(items, *params) if direction == "in" else function.stream(*params, items=items)
        is_async = iscoroutinefunction(function) or isasyncgenfunction(function)
        if items is not None:
            params = [as_async(items) if is_async else items, *params]
        if hasattr(function, "__code__"):
            convert = converter(Handler("service", function))
            params = convert(params) if convert is not None else params
        expected = signature(function)
        named = {"ctx": context(is_async)} if [*expected.parameters][-1:] == ["ctx"] else {}
        _check_arguments(method, expected, params, named)
        return function(*params, **named)

    def _function(self, method: str) -> Callable[..., Any]:
        _, name, function = method.split(".", 2)
        target = self._services.get(name)
        if target is None:
            text = f"no plugin offers service {name!r}{self._wanted(name)} to plugin {self.caller!r}"
            raise PluginUnavailableError(f"{text}; to play it, pass services={{{name!r}: …}}", method=method, service=name)
        found: Callable[..., Any] | None = getattr(target, function, None)
        if not callable(found):
            public = (known for known in dir(target) if not known.startswith("_") and callable(getattr(target, known, None)))
            text = f"plugin {PLAYER!r} has no {method!r}; methods of that service there: {', '.join(public) or 'none'}"
            raise MethodNotFoundError(text, plugin=PLAYER, method=method)
        return found

    def _wanted(self, name: str) -> str:
        version = self._versions.get(name, "")
        return f" {version}" if version else ""


def client_of(of: Any, ask: Callable[[str, list[Any]], Any], stream: Callable[[str, list[Any], Any, str], Any]) -> Any:
    """Return a plugin's service as its callers have it.

    Args:
        of: Its name, or its contract.
        ask: Calls a method, by its name on the wire, with arguments.
        stream: The same with a stream of items, or for one; the last argument is its direction.

    Raises:
        TypeError: It is neither a name nor a contract.
    """
    context: Any = _Asked(ask, stream)
    return ServiceClient(context, of, None) if isinstance(of, str) else TypedClient(context, of, None)


def name_of(of: Any) -> str:
    """Return the name of a service that is given by its name or its contract.

    Raises:
        TypeError: It is neither.
    """
    return of if isinstance(of, str) else contract_of(of).name


@final
class _Asked:
    """Stands where a client of the SDK's has its context."""

    def __init__(self, ask: Callable[[str, list[Any]], Any], stream: Callable[[str, list[Any], Any, str], Any]) -> None:
        self._call = ask
        self._call_stream = stream

    def _ask(self, method: str, params: list[Any], _key: str | None) -> Any:
        return self._call(method, params)

    def _stream(self, method: str, params: list[Any], _key: str | None, items: Any, direction: str) -> Any:
        return self._call_stream(method, params, items, direction)


def _sent_each(items: Iterable[Any]) -> Iterator[Any]:
    return map(sent, items)


async def _sent_list(items: Any) -> Iterator[Any]:
    """Return what an ``async def`` handler sends, all of it: who plays the service may be a ``def``."""
    given = [item async for item in items] if hasattr(items, "__aiter__") else items
    return _sent_each(given)


def _each_answered(method: str, result: Any) -> Iterator[Any]:
    with _told(method):
        for item in _driven(result) if hasattr(result, "__anext__") else _yielded(method, result):
            yield _answered(method, item)


def _yielded(method: str, result: Any) -> Iterator[Any]:
    if not hasattr(result, "__next__"):
        text = f"plugin {PLAYER!r}, {method}: it yields nothing, so there is no stream of it"
        raise InvalidParamsError(text, plugin=PLAYER, method=method)
    return cast(Iterator[Any], result)


def _driven(items: Any) -> Iterator[Any]:
    """Yield what an ``async def`` yields to somebody who does not await."""
    with asyncio.Runner() as runner:
        while True:
            try:
                item = runner.run(_next(items))
            except StopAsyncIteration:
                return
            yield item


async def _next(items: Any) -> Any:
    return await anext(items)


@contextmanager
def _told(method: str) -> Iterator[None]:
    """Tell what goes wrong as a host tells it to the plugin that called."""
    try:
        yield
    except Exception as error:
        raise call_failed(error_to_wire(error_of(method, error))) from error


def _check_arguments(method: str, expected: Signature, params: list[Any], named: dict[str, Any]) -> None:
    try:
        expected.bind(*params, **named)
    except TypeError as error:
        text = f"plugin {PLAYER!r}, {method}: {error}; it takes {expected}, got {len(params)} arguments"
        raise InvalidParamsError(text, plugin=PLAYER, method=method) from error


def _answered(method: str, value: Any) -> Any:
    """Return what arrives of an answer."""
    try:
        return sent(value)
    except CodecError as error:
        raise InvalidResultError(f"plugin {PLAYER!r}, {method}: {error}", plugin=PLAYER, method=method) from error


async def _awaited(work: Awaitable[Any]) -> Any:
    return await work
