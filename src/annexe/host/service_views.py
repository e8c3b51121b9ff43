"""What plugins declare of a service, as plain values for the control socket.

Source: docs/reference/control.md, "service.schema"; docs/reference/manifest.md, "Schema of a service".
"""

from __future__ import annotations

from typing import Any, final

import msgspec

from annexe.dispatch.service_calls import nobody_offers
from annexe.dispatch.services import Services
from annexe.errors import ContractError, PluginUnavailableError

__all__ = ["ServiceQuery", "schema_view"]


@final
class ServiceQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which service is asked for, and of whom; None: of the first that declares something, in the operator's order."""

    service: str
    plugin: str | None = None


async def schema_view(services: Services, query: ServiceQuery) -> dict[str, Any]:
    """Return the schema that a plugin declares for a service.

    Raises:
        PluginUnavailableError: The plugin, or nobody, offers it.
        ContractError: Nothing is declared.
    """
    service, plugin, schemas = query.service, query.plugin, services.schemas(query.service)
    asked = {one: schema for one, schema in schemas.items() if plugin in (None, one)}
    if not asked:
        raise PluginUnavailableError(nobody_offers(services, service, plugin), plugin=plugin)
    for one, schema in asked.items():
        if schema is not None:
            return {"service": service, "plugin": one, "schema": schema.document}
    text = f'{", ".join(asked)} declares no schema of service {service!r}; its plugin.toml may, under [provides.services]: schema = "PATH"'
    raise ContractError(f"{text}; or print the contract that its callers share: annexe schema MODULE:CLASS", plugin=plugin, name=service)
