"""The ``annexe`` command. Only this room prints or exits.

Nothing is imported here: what a command needs is loaded when that command runs.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; by default with the arguments of this process."""
    from annexe.cli.app import run

    return run(arguments)
