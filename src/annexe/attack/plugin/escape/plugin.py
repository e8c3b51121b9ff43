"""The plugin: runs the attack it is told to and says what came of it."""

from __future__ import annotations

from annexe_sdk import Context, Plugin

from . import (
    channel,
    descriptors,
    devices,
    disk,
    files,
    flows,
    host_files,
    identity,
    kernel,
    leftovers,
    memory,
    network,
    paths,
    privileges,
    processes,
    protocol,
    signals,
    syscalls_refused,
    timing,
    tracing,
    views,
)
from .catalogue import ATTACKS
from .outcome import refused, stopped
from .targets import Targets

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from typing import Any

    from .outcome import Outcome

__all__ = ["THEMES", "Escape", "plugin"]

plugin = Plugin()

THEMES = (
    *(files, paths, host_files, disk, views),
    *(processes, tracing, signals, identity, privileges, leftovers),
    *(memory, timing, descriptors, devices),
    *(network, flows, kernel, syscalls_refused),
    *(channel, protocol),
)


@plugin.extension("escape")
class Escape:
    """Runs attacks by name."""

    def run(self, name: str, targets: dict[str, Any], ctx: Context) -> Outcome:
        """Run one attack; a refusal that it lets pass is what stopped it."""
        try:
            return ATTACKS[name](Targets(targets, ctx))
        except OSError as error:
            return refused(error)
        except MemoryError:
            return stopped("MemoryError")


if __name__ == "__main__":
    plugin.run()
