"""``annexe schema``: contracts as JSON Schema, or as a Python stub."""

from __future__ import annotations

import json

import click

from annexe.contract import check_distinct, definition_of, export_schema, export_stub
from annexe.contract.named import contracts_named

__all__ = ["schema"]


@click.command()
@click.argument("contracts", nargs=-1, required=True, metavar="MODULE:SPEC…")
@click.option("--stub", is_flag=True, help="Print Python types and signatures for plugin authors instead of JSON Schema.")
def schema(contracts: tuple[str, ...], stub: bool) -> None:
    """Print what contracts open to plugins.

    MODULE:SPEC names a HookSpec or an ExtensionPoint, for example shop.contracts:Orders; a module alone, or the path of a Python file,
    stands for all it has.
    """
    definitions = [definition_of(contract) for name in contracts for contract in contracts_named(name)]
    check_distinct(definitions)
    if stub:
        click.echo(export_stub(*definitions), nl=False)
    else:
        click.echo(json.dumps(export_schema(definitions), indent=2, ensure_ascii=False))
