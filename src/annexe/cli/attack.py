"""``annexe attack``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from annexe.cli.options import as_json, connect, state_option
from annexe.cli.terminal import print_json, print_table, print_text, safe

if TYPE_CHECKING:
    from annexe.attack.catalogue import Attack
    from annexe.attack.suite import AttackResult, Report
    from annexe.attack.terms import Terms

__all__ = ["attack"]

_WORDS = {
    "through": "got through",
    "stopped": "stopped",
    "capped": "capped",
    "unix": "stopped by the permissions of plain Unix at any rate, which is no merit of the sandbox; LAYER is what stops it besides",
    "not run": "not run",
}


@click.command()
@click.argument("plugin", metavar="[ID]", required=False)
@click.option("--only", "names", multiple=True, metavar="NAME", help="This attack alone, or this theme; may be given several times.")
@click.option("--list", "only_list", is_flag=True, help="List the attacks and what stops each; make none.")
@state_option
@as_json
def attack(plugin: str | None, names: tuple[str, ...], only_list: bool, state_dir: Path, as_json: bool) -> int:
    """Attack this machine from inside a sandbox, as a hostile plugin would, and report what stopped each attack.

    The attacks are a plugin of ours. It runs in a host of its own, at the level that this machine gives; what it attacks is made for it and
    removed afterwards. With ID it gets the permissions and resources of that plugin: of a running host, or of the plugin in that folder.

    The exit code is 1 if something got through.
    """
    chosen = _chosen(names)
    if only_list:
        _print_list(chosen, as_json=as_json)
        return 0
    terms = _terms_of(plugin, state_dir) if plugin is not None else None
    report = _run(chosen, terms, shows_progress=not as_json and sys.stderr.isatty())
    if as_json:
        print_json(report.as_dict())
    else:
        _print_report(report, terms)
    return 1 if report.through else 0


def _chosen(names: tuple[str, ...]) -> list[Attack]:
    from annexe.attack.catalogue import attacks

    known = {name for one in attacks() for name in (one.name, one.theme)}
    for name in names:
        if name not in known:
            raise click.BadParameter(f"there is no attack or theme {name!r}; see: annexe attack --list", param_hint="--only")
    return [one for one in attacks() if not names or one.name in names or one.theme in names]


def _terms_of(plugin: str, state_dir: Path) -> Terms:
    """Return the terms of a plugin in a folder, or of one that a running host knows."""
    from annexe.attack.terms import read_terms

    if (Path(plugin) / "plugin.toml").is_file():
        return read_terms(Path(plugin))
    with connect(state_dir) as client:
        told = client.call("show", plugin=plugin)
    return read_terms(Path(told["folder"]))


def _run(chosen: list[Attack], terms: Terms | None, *, shows_progress: bool) -> Report:
    import asyncio
    import logging

    from annexe.attack.suite import run_attacks

    done = 0

    def progress(result: AttackResult) -> None:
        nonlocal done
        done += 1
        click.echo(f"\r\x1b[K{done}/{len(chosen)} {safe(result.attack.name)}: {result.outcome}", nl=False, err=True)

    # The host that is attacked has much to complain of; what came of it stands in the report.
    log = logging.getLogger("annexe")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        report = asyncio.run(run_attacks(chosen, progress=progress if shows_progress else None, terms=terms))
    finally:
        log.setLevel(before)
    if shows_progress:
        click.echo("\r\x1b[K", nl=False, err=True)
    return report


def _print_list(chosen: list[Attack], *, as_json: bool) -> None:
    if as_json:
        rows = [
            {
                "name": one.name,
                "theme": one.theme,
                "text": one.text,
                "stopped_by": list(one.stopped_by),
                "capped_by": list(one.capped_by),
                "unix": one.unix,
            }
            for one in chosen
        ]
        print_json({"attacks": rows})
        return
    print_table(
        ("THEME", "ATTACK", "TRIES TO", "STOPPED OR CAPPED BY"),
        [(one.theme, one.name, one.text, ", ".join(dict.fromkeys((*one.stopped_by, *one.capped_by)))) for one in chosen],
    )


def _print_report(report: Report, terms: Terms | None) -> None:
    print_table(
        ("THEME", "ATTACK", "OUTCOME", "LAYER", "SEEN"),
        [(one.attack.theme, one.attack.name, one.outcome, one.layer, _short(one.detail)) for one in report.results],
    )
    whose = "of its own: a small store" if terms is None else f"that {terms.plugin} asks for in its plugin.toml, all granted"
    print_text(f"\nMade with the permissions and resources {whose}.")
    print_text(f"Level {report.level}; on are: {', '.join(sorted(report.layers))}.")
    for outcome, words in _WORDS.items():
        count = sum(result.outcome == outcome for result in report.results)
        if count or outcome == "through":
            print_text(f"{count:4} {words}")


def _short(text: str) -> str:
    return text if len(text) <= 100 else text[:99] + "…"
