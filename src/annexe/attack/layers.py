"""Which layers of isolation are on, as a receipt tells it. Pure.

Source: feature IS9.
"""

from __future__ import annotations

from collections.abc import Mapping

from annexe.sandbox import Receipt

__all__ = ["layers_on"]

# By the name that attacks use: the layers in the receipt that say so, and in which of their states.
_SAID_BY: Mapping[str, tuple[tuple[str, str], ...]] = {
    "environment": (("environment", "on"),),
    "descriptors": (("descriptors", "on"),),
    "uid": (("own user", "on"),),
    "no-new-privileges": (("no new privileges", "on"),),
    "namespaces": (("namespaces", "on"),),
    "seccomp": (("system calls", "on"),),
    "landlock": (("landlock", "on"),),
    "rlimits": (("file size", "on"),),
    "cgroup": (("memory", "on"), ("cpu", "on")),  # memory is soft where only limits of each process hold it
}


def layers_on(receipt: Receipt) -> frozenset[str]:
    """Return the layers that are on for one plugin, by the names that attacks use; the host's own code always is."""
    said = {(layer.name, str(layer.state)) for layer in receipt.layers}
    return frozenset({"host"} | {name for name, signs in _SAID_BY.items() if said & set(signs)})
