"""What the monitor asks of a running plugin.

Source: docs/adr/0075-one-task-monitors-all.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from annexe.launch.data_folders import DataUsage
from annexe.sandbox.cgroup import GroupUsage
from annexe.supervision.violations import Limits

__all__ = ["Watched"]


class Watched(Protocol):
    """One running plugin."""

    @property
    def id(self) -> str:
        """The plugin's id."""

    @property
    def instance(self) -> str | int:
        """Which instance of it: another one begins with a clean slate."""

    @property
    def limits(self) -> Limits:
        """What it may use."""

    @property
    def may_fork(self) -> bool:
        """Whether it may start processes of its own."""

    def pids(self) -> Sequence[int]:
        """Return its processes as they are now; none when it has gone. In a worker thread."""

    def group_usage(self) -> GroupUsage | None:
        """Return what its control group tells; None without one. In a worker thread."""

    def data_usage(self) -> DataUsage | None:
        """Count what it keeps in its data folder; None when it has none. In a worker thread; may take long."""
