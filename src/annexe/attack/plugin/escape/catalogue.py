"""The list of attacks, filled by the decorator ``attack``.

The host reads what stands in the decorators as text, without importing anything here; so every argument of ``attack`` is a literal.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from collections.abc import Callable

    from .outcome import Outcome
    from .targets import Targets

    Attack = Callable[[Targets], Outcome]

__all__ = ["ATTACKS", "attack"]

ATTACKS: dict[str, Attack] = {}


def attack(
    name: str,
    text: str,  # noqa: ARG001 - for the host, like all that follow
    *,
    stopped_by: tuple[str, ...] = (),  # noqa: ARG001
    capped_by: tuple[str, ...] = (),  # noqa: ARG001
    unix: bool = False,  # noqa: ARG001
    check: str = "",  # noqa: ARG001
    phases: int = 1,  # noqa: ARG001
) -> Callable[[Attack], Attack]:
    """Add an attack.

    Args:
        name: Its name, lower-case words joined by hyphens.
        text: What it tries, one sentence.
        stopped_by: Layers each of which stops it by itself.
        capped_by: Layers each of which lets it have no more than is allowed.
        unix: The permissions of plain Unix stop it for everybody but root: listed, and no merit of the sandbox.
        check: What the host looks at when the attacker cannot tell, or died of it.
        phases: How many instances of the plugin it takes, one after the other.
    """

    def register(function: Attack) -> Attack:
        if name in ATTACKS:
            raise ValueError(f"two attacks are called {name!r}")
        ATTACKS[name] = function
        return function

    return register
