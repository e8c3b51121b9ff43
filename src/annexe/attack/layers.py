"""Which layers of isolation are on for one plugin, by the names that attacks use. Pure.

Walls are what the receipt's walls say. Three layers are no walls; whether they are on, the receipt tells under their names.

Source: feature IS9.
"""

from __future__ import annotations

from annexe.sandbox import Receipt

__all__ = ["layers_on"]

_NO_WALLS = {"environment": "environment", "descriptors": "descriptors", "no new privileges": "no-new-privileges"}


def layers_on(receipt: Receipt) -> frozenset[str]:
    """Return the layers that are on for one plugin, by the names that attacks use; the host's own code always is."""
    walls = receipt.walls
    stands = {
        "host": True,
        "uid": walls.own_uid,
        "namespaces": walls.namespaces,
        "seccomp": walls.seccomp,
        "landlock": walls.landlock_abi > 0,
        "rlimits": walls.rlimits,
        "cgroup": bool(walls.cgroup & {"memory", "cpu"}),
    }
    on = {_NO_WALLS[layer.name] for layer in receipt.layers if layer.name in _NO_WALLS and layer.state == "on"}
    return frozenset(on | {name for name, is_on in stands.items() if is_on})
