"""``annexe schema``: contracts as JSON Schema, or as a Python stub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from annexe.cli.options import connect, state_option
from annexe.contract import check_distinct, definition_of, export_schema, export_stub
from annexe.contract.named import contracts_named, services_named
from annexe.errors import ContractError
from annexe_sdk.service_schema import schema_of

__all__ = ["schema"]

_NO_STUB = "--stub is for hooks and extension points; share the contract's class for a service"


@click.command()
@click.argument("contracts", nargs=-1, metavar="[MODULE:SPEC]…")
@click.option("--stub", is_flag=True, help="Print Python types and signatures for plugin authors instead of JSON Schema.")
@click.option("--service", metavar="NAME", help="Print the schema of this service alone, as a plugin's file has it.")
@state_option
def schema(contracts: tuple[str, ...], stub: bool, service: str | None, state_dir: Path) -> None:
    """Print what contracts open to plugins.

    MODULE:SPEC names a HookSpec, an ExtensionPoint or the contract of a service, for example shop.contracts:Orders; a module alone, or the
    path of a Python file, stands for all it has. Without one, --service asks the running host for what its plugins declare.
    """
    if service is not None and stub:
        raise click.UsageError(_NO_STUB)
    if service is None and not contracts:
        raise click.UsageError("name a contract, or a service of the running host with --service")
    if not contracts:
        with connect(state_dir) as client:
            _print(client.call("service.schema", service=service)["schema"])
        return
    described = {name: one for name in contracts for name, one in _services(name).items()}
    if service is not None:
        if service not in described:
            there = ", ".join(sorted(described)) or "none"
            raise ContractError(f"no contract of service {service!r} is there; there are: {there}", name=service)
        _print(described[service])
        return
    definitions = [definition_of(contract) for name in contracts for contract in _contracts(name, described)]
    check_distinct(definitions)
    if stub:
        if not definitions:
            raise click.UsageError(_NO_STUB)
        click.echo(export_stub(*definitions), nl=False)
    else:
        _print(export_schema(definitions) | ({"services": described} if described else {}))


def _services(name: str) -> dict[str, Any]:
    try:
        told = map(schema_of, services_named(name))
        return {one["title"]: one for one in told}
    except TypeError as error:
        raise ContractError(str(error), name=name) from error


def _contracts(name: str, services: dict[str, Any]) -> list[type[Any]]:
    try:
        return contracts_named(name)
    except ContractError:
        if services:
            return []  # what it has was found already
        raise


def _print(document: Any) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))
