"""``annexe learn``: from a plugin's tests to what it should ask for.

Runs the tests twice: without walls, to see what the plugin uses, and behind all walls with that alone, to see whether it is enough.

Source: feature PE5; docs/how-to/learn-permissions.md; ADR-0078.
"""

from __future__ import annotations

import difflib
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

import annexe
from annexe.cli.options import as_json
from annexe.cli.terminal import print_json, print_text, safe
from annexe.errors import HostError, PluginBlockedError
from annexe.manifest import MANIFEST_NAME, Manifest, read_manifest
from annexe.manifest.permission_edit import asking_for, permission_lines, with_permissions

__all__ = ["learn"]

_NOTHING_RAN = (
    "the tests passed, but did not run plugin {plugin!r} where it can be watched: use the fixtures annexe_host and annexe_plugin, or "
    "host_for and PluginRunner of annexe.testing"
)


@click.command()
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
@click.option("--write", is_flag=True, help="Change plugin.toml, if the tests pass with what was learned.")
@click.option("--no-check", is_flag=True, help="Do not run the tests again behind the walls.")
@as_json
def learn(path: Path, command: tuple[str, ...], write: bool, no_check: bool, as_json: bool) -> int:
    """Run a plugin's tests and say what it should ask for: the smallest [permissions] with which they pass.

    PATH is the plugin's folder, COMMAND what runs its tests, by default pytest there. While it learns no sandbox stands around the plugin:
    only for code that you trust. Then the tests are run again, behind all walls, with what was learned alone.

    The exit code is 1 if the tests fail.
    """
    manifest = read_manifest(path)
    words = list(command) or [sys.executable, "-m", "pytest", str(path)]
    _say(f"running {' '.join(words)}", "to see what it uses; NO SANDBOX stands around the plugin meanwhile")
    with tempfile.TemporaryDirectory(prefix="annexe-learn-") as folder:
        status, facts = _run(Path(folder), words, manifest, rights=None, quiet=as_json)
    if status:
        _say(f"the tests fail without any walls (status {status}): mend them first; nothing was learned")
        return 1
    learned = _learned(path.resolve(), manifest, facts)
    text = (path / MANIFEST_NAME).read_text(encoding="utf-8")
    permissions = asking_for(learned.rights, was=manifest.permissions)
    told: dict[str, Any] = {
        "plugin": manifest.id,
        "rights": sorted(learned.rights),
        "lines": list(permission_lines(permissions).values()),
        "notes": list(learned.notes),
        "checked": None,
        "levels": [],
        "written": False,
    }
    if not no_check:
        _say("running them again, behind the walls, with what was learned alone")
        with tempfile.TemporaryDirectory(prefix="annexe-learn-") as folder:
            status, facts = _run(Path(folder), words, manifest, rights=learned.rights, quiet=as_json)
        told |= {"checked": status == 0, "levels": sorted(what for kind, what in facts if kind == "ran")}
    edited, why_not = _edited(text, manifest, permissions)
    if write and told["checked"] is not False and edited is not None:
        (path / MANIFEST_NAME).write_text(edited, encoding="utf-8")
        told["written"] = True
    if as_json:
        print_json(told)
    else:
        _show(told, text, edited, why_not)
    return 1 if told["checked"] is False or (write and not told["written"]) else 0


def _run(
    folder: Path, words: Sequence[str], manifest: Manifest, *, rights: frozenset[str] | None, quiet: bool
) -> tuple[int, list[tuple[str, str]]]:
    """Run the tests; return their exit status and what was noted.

    Raises:
        HostError: The command cannot be started.
    """
    from annexe.testing.learning import VARIABLE, read_facts, write_order

    write_order(folder, plugin=manifest.id, rights=rights)
    try:
        done = subprocess.run(words, env={**os.environ, VARIABLE: str(folder)}, stdout=sys.stderr if quiet else None, check=False)  # noqa: S603
    except OSError as error:
        raise HostError(f"cannot run {words[0]!r}: {error.strerror}", reason="command") from error
    return done.returncode, read_facts(folder)


def _learned(folder: Path, manifest: Manifest, facts: Sequence[tuple[str, str]]) -> Any:
    """Return what was learned.

    Raises:
        HostError: Nothing was watched.
    """
    import annexe_sdk
    from annexe.launch.granted_paths import granted_paths
    from annexe.sandbox.view import CERTIFICATES, SYSTEM
    from annexe.testing.learned import learn as learned

    if not any(kind == "ran" for kind, _ in facts):
        raise HostError(_NOTHING_RAN.format(plugin=manifest.id), plugin=manifest.id, reason="not-watched")

    def why_not(path: str, for_writing: bool) -> str:
        try:
            granted_paths(manifest.id, [path], for_writing=for_writing, uid=None)
        except PluginBlockedError as error:
            return error.message.partition(", and it ")[2]
        return ""

    installed = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    ours = [str(Path(str(module.__file__)).parent) for module in (annexe, annexe_sdk)]
    seen = [*SYSTEM, *CERTIFICATES, f"{sys.base_prefix}/lib", sys.prefix, *installed, *ours]
    return learned(facts, asked=manifest.permission_set(), own=str(folder), seen=seen, why_not=why_not)


def _edited(text: str, manifest: Manifest, permissions: Any) -> tuple[str | None, str]:
    try:
        return with_permissions(text, permissions, was=manifest.permissions), ""
    except ValueError as error:
        return None, str(error)


def _show(told: dict[str, Any], text: str, edited: str | None, why_not: str) -> None:
    print_text(f"\n{told['plugin']} should ask for:\n\n[permissions]")
    for line in told["lines"]:
        print_text(line)
    if not told["lines"]:
        print_text("# nothing")
    if edited is not None and edited != text:
        print_text("\nIn its plugin.toml:")
        for line in difflib.unified_diff(text.splitlines(), edited.splitlines(), "before", "after", lineterm="", n=1):
            print_text(f"  {line}")
    elif edited == text:
        print_text("\nThat is what it asks for.")
    for note in told["notes"]:
        print_text(f"\nNote: {note}.")
    print_text()
    if told["checked"] is not None:
        where = ", ".join(told["levels"])
        print_text(f"The tests {'pass' if told['checked'] else 'FAIL'} with this alone (ran at: {where}).")
        if told["levels"] == ["memory"]:
            print_text("They run the plugin in memory, where no wall stands: a test with the fixture annexe_host would try the walls, too.")
    if why_not:
        print_text(f"plugin.toml cannot be changed by a program: {why_not}. Write the lines above into it.")
    elif told["written"]:
        print_text("plugin.toml is written.")
    elif edited != text and told["checked"] is not False:
        print_text("Nothing was written; --write does that.")


def _say(*parts: str) -> None:
    click.echo(click.style(f"annexe learn: {safe('; '.join(parts))}", bold=True), err=True)
