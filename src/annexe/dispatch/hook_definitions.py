"""What a manifest says of a hook that its plugin defines, as the definition that a pipeline works with.

Source: ADR-0096.
"""

from __future__ import annotations

from collections.abc import Callable

from annexe.capabilities.bounded_schema import RefusedSchemaError
from annexe.contract import HookDefinition, HookKind, ParamDefinition, ValueType
from annexe.dispatch.schema_types import schema_from, value_type_of
from annexe.manifest import Manifest
from annexe.manifest.model import HookSpecOffer

__all__ = ["hook_definition", "read_schemas", "schema_faults"]


def hook_definition(name: str, offer: HookSpecOffer, *, spent: Callable[[float], None]) -> HookDefinition:
    """Return a hook's definition.

    Args:
        name: Qualified.
        offer: What the manifest says, its schemas read and without ``schema_faults``.
        spent: Told, in seconds, what it took to read each value.
    """
    kind = HookKind(offer.kind)
    value = value_type_of(schema_from(offer.schema_text), admits_none=False, spent=spent)
    result: ValueType | None = value if kind is HookKind.FILTER else None
    if kind is HookKind.FIRST_RESULT:
        result = value_type_of(schema_from(offer.result_text), admits_none=True, spent=spent)
    spec, _, short = name.rpartition(".")
    return HookDefinition(
        spec=spec,
        name=short,
        qualified=name,
        method=f"hook.{name}",
        revision=offer.revision,
        kind=kind,
        params=(ParamDefinition("value", value),),
        result=result,
        responds=None,
        budget_s=offer.budget_s,
        on_failure=offer.on_failure,
        stream_in=None,
        stream_out=None,
    )


def read_schemas(manifest: Manifest) -> None:
    """Read the schemas of the hooks that a manifest defines, so that later to look at them takes no time; not on an event loop."""
    for name, offer in manifest.provides.hook_specs.items():
        schema_faults(name, offer)


def schema_faults(name: str, offer: HookSpecOffer) -> list[str]:
    """Return why the schemas of a hook are refused, one text each; empty when they are not."""
    faults = []
    for path, text in ((offer.schema, offer.schema_text), (offer.result, offer.result_text)):
        if path:
            try:
                schema_from(text)
            except RefusedSchemaError as error:
                faults.append(f"the schema {path} of hook {name!r} is refused: {error}")
    return faults
