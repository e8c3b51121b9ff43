"""``annexe doctor``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from annexe.cli.options import as_json, state_option
from annexe.cli.terminal import print_json, print_table, print_text

__all__ = ["doctor"]


@click.command()
@state_option
@as_json
def doctor(state_dir: Path, as_json: bool) -> int:
    """Find out by trying what works on this machine: start a plugin, switch users, set limits, lock the state.

    Each wall is put up around the plugin and read back from the kernel; what is missing comes with what mends it. The exit code is 1 if
    something failed; warnings alone leave it 0.
    """
    from annexe.cli.doctor_checks import all_checks

    checks = all_checks(state_dir)
    is_well = not any(check.state == "failed" for check in checks)
    if as_json:
        print_json({"ok": is_well, "checks": [asdict(check) for check in checks]})
        return 0 if is_well else 1
    print_table(("CHECK", "STATE", "FOUND"), [(check.name, check.state, check.found) for check in checks])
    to_mend = [check for check in checks if check.mend]
    if to_mend:
        print_text("\nWhat would help:")
    for check in to_mend:
        print_text(f"  {check.name}: {check.mend}")
    return 0 if is_well else 1
