"""``annexe new``: make a plugin that passes its own tests at once.

Source: feature DX1; docs/reference/cli.md; ADR-0057.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

import click

from annexe.cli.scaffold import Scaffold, scaffold_for, scaffold_of
from annexe.contract import HookKind
from annexe.contract.named import contracts_named, importable_as
from annexe.ids import is_plugin_id

__all__ = ["new"]

_HOOK = re.compile(r"(?P<spec>[a-z][a-z0-9]*(-[a-z0-9]+)*)\.(?P<name>[a-z][a-z0-9_]*)(:(?P<kind>[a-z_]+))?")
_DEFAULT_HOOK = "example.on_text"
_DEV = "run it in a host that starts it again whenever you save"


@click.command()
@click.argument("path", metavar="[FOLDER/]NAME")
@click.option("--hook", "hooks", multiple=True, metavar="SPEC.HOOK[:KIND]", help="Answer this hook; may be given several times.")
@click.option("--contracts", multiple=True, metavar="MODULE:SPEC", help="What the application opens; gives handlers their types.")
def new(path: str, hooks: tuple[str, ...], contracts: tuple[str, ...]) -> None:
    """Make a plugin called NAME in a folder of that name, for example plugins/my-plugin.

    With --contracts it answers what those open (or the hooks named by --hook alone); without, it brings an example of what an application
    might open, so that it can be run and tested by itself.
    """
    folder = Path(path)
    name = folder.name
    if not is_plugin_id(name):
        raise click.BadParameter(f"expected lower-case words joined by hyphens, for example my-plugin; got {name!r}", param_hint="NAME")
    if folder.exists() or folder.is_symlink():
        raise click.ClickException(f"{folder} is there already; choose another name, or move it away. Nothing was changed.")
    made = _with_contracts(folder, hooks, contracts) if contracts else _with_example(name, hooks or (_DEFAULT_HOOK,))
    _write(folder, made)
    _tell(folder, made)


def _with_contracts(folder: Path, hooks: tuple[str, ...], contracts: tuple[str, ...]) -> Scaffold:
    found: dict[type[Any], str] = {}
    folders: list[Path] = []
    for given in contracts:
        contained = contracts_named(given)
        module, root = importable_as(given.partition(":")[0])
        found |= dict.fromkeys(contained, module)
        folders += [root] if root is not None and root not in folders else []
    made = scaffold_of(
        folder.name, found, only=frozenset(hook.partition(":")[0] for hook in hooks), python_path=[_seen_from(folder, at) for at in folders]
    )
    unknown = sorted({hook.partition(":")[0] for hook in hooks} - made.known)
    if unknown:
        raise click.BadParameter(
            f"{unknown[0]!r} is not in these contracts; they open: {', '.join(sorted(made.known))}", param_hint="--hook"
        )
    return made


def _seen_from(folder: Path, other: Path) -> str:
    # Resolved: a relative path goes up through what a link leads to.
    return os.path.relpath(other, folder.resolve())


def _with_example(name: str, hooks: tuple[str, ...]) -> Scaffold:
    kinds: dict[str, HookKind] = {}
    for hook in hooks:
        parts = _HOOK.fullmatch(hook)
        kind = (parts["kind"] or "filter") if parts is not None else ""
        if parts is None or kind not in set(HookKind):
            text = (
                f"expected SPEC.HOOK or SPEC.HOOK:KIND with one of {', '.join(HookKind)}, for example chat.on_request:filter; got {hook!r}"
            )
            raise click.BadParameter(text, param_hint="--hook")
        kinds[f"{parts['spec']}.{parts['name']}"] = HookKind(kind)
    return scaffold_for(name, kinds)


def _write(folder: Path, made: Scaffold) -> None:
    folder.mkdir(parents=True)
    for name, text in made.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _tell(folder: Path, made: Scaffold) -> None:
    click.echo(f"Made {folder}/:")
    width = max(map(len, made.purposes))
    for name, purpose in made.purposes.items():
        click.echo(f"  {name:<{width}}  {purpose}")
    named = shlex.quote(str(folder))
    steps = [(f"pytest {named}", "run its tests; they pass"), (f"annexe dev {named}", _DEV)]
    click.echo("\nNext, from here:")
    width = max(len(command) for command, _ in steps)
    for command, purpose in steps:
        click.echo(f"  {command:<{width}}  # {purpose}")
