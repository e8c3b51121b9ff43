"""Which device nodes a granted device means on this machine.

Source: feature IS12; docs/reference/permissions.md.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path

__all__ = ["gpu_nodes"]

_NODES = {
    "": re.compile(r"nvidia[0-9]{1,3}|nvidiactl|nvidia-uvm|nvidia-uvm-tools|nvidia-modeset|kfd"),
    "dri": re.compile(r"renderD[0-9]{1,4}"),
}


def gpu_nodes(dev: Path = Path("/dev")) -> tuple[str, ...]:
    """Return the nodes for computing on graphics processors; none without one. Nodes for screens are not among them."""
    return tuple(sorted(_found(dev)))


def _found(dev: Path) -> Iterator[str]:
    for folder, pattern in _NODES.items():
        try:
            nodes = list((dev / folder).iterdir())
        except OSError:
            continue
        yield from (str(node) for node in nodes if pattern.fullmatch(node.name) and stat.S_ISCHR(node.lstat().st_mode))
