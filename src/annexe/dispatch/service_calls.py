"""A call of a service that no plugin makes: the operator's, by name and with plain values.

Source: docs/reference/control.md, "call"; docs/explanation/services.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from annexe.channel import RequestMeta, passed_on
from annexe.dispatch.request import Request
from annexe.dispatch.services import Services
from annexe.errors import InvalidResultError, PluginUnavailableError

__all__ = ["call_service", "nobody_offers"]


async def call_service(services: Services, name: str, args: Sequence[Any], *, plugin: str | None, request: Request) -> Any:
    """Call a method of a service and return what it answered as plain values; bytes are base64 text.

    Args:
        services: The host's.
        name: On the wire: ``svc.tokenizer.count``.
        args: By position, plain values.
        plugin: The only one to be asked; None: the first that offers it, in the operator's order.
        request: On whose behalf.

    Raises:
        PluginUnavailableError: The plugin does not offer it, or nobody does.
        MethodNotFoundError: It has no such method.
        CallError: What the call itself raised.
    """
    service = name.removeprefix("svc.").rpartition(".")[0]
    offering = services.offering(service)
    provider = offering.get(plugin) if plugin is not None else next(iter(offering.values()), None)
    if provider is None:
        raise PluginUnavailableError(nobody_offers(services, service, plugin), plugin=plugin, method=name)
    connection = provider.connection or await provider.wait_ready(request.deadline, method=name)
    services.check_method(provider.id, service, name)
    meta = RequestMeta(request=request.id, traceparent=request.traceparent, key=request.key)
    response = await connection.call(name, list(args), meta, deadline=request.deadline)
    try:
        return msgspec.json.decode(passed_on(response.result, response.codec, to="json"))
    except ValueError as error:
        text = f"plugin {provider.id!r} answered {name} with what cannot be shown: {error}"
        raise InvalidResultError(text, plugin=provider.id, method=name) from error


def nobody_offers(services: Services, service: str, plugin: str | None) -> str:
    """Return what to say where a plugin, or any, was asked for a service that it does not offer."""
    who = f"plugin {plugin!r} does not offer" if plugin is not None else "no plugin offers"
    offering = ", ".join(services.offering(service))
    there = f"those that do: {offering}" if offering else f"services that are offered here: {', '.join(services.offered()) or 'none'}"
    return f"{who} service {service!r}; {there}"
