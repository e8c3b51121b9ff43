"""How a request's time is shared among the plugins of a hook.

Pure: times are passed in, in seconds.

* What is left of the deadline is divided by the plugins still to be called, so that a slow early one cannot starve a later one.
* Waiting for a start or a slot is paid from that share alone; budget and call time-out bound the work itself.

Source: docs/reference/hooks.md, "Time and failure".
"""

from __future__ import annotations

__all__ = ["deadline_share_s", "share_s"]


def deadline_share_s(remaining_s: float, remaining_plugins: int) -> float:
    """Return one plugin's share of the deadline: how long it may take in all, waiting for a start or a slot included.

    Args:
        remaining_s: Until the request's deadline; 0 or less when it has passed.
        remaining_plugins: Still to be called, this one included; 1 or more.

    Raises:
        ValueError: Nobody is left to share with.
    """
    if remaining_plugins < 1:
        raise ValueError(f"expected at least 1 remaining plugin, got {remaining_plugins}")
    return max(0.0, remaining_s) / remaining_plugins


def share_s(
    remaining_s: float, remaining_plugins: int, budget_s: float | None, call_timeout_s: float | None, *, waited_s: float = 0.0
) -> float:
    """Return how long one plugin may work.

    Args:
        remaining_s: Until the request's deadline, as it was before any waiting for this plugin.
        remaining_plugins: Still to be called, this one included; 1 or more.
        budget_s: The hook's; None: it has none.
        call_timeout_s: The plugin's; None: it has none.
        waited_s: Spent waiting for this plugin's start or slot.

    Returns:
        Seconds, 0 when there is no time left.
    """
    share = max(0.0, deadline_share_s(remaining_s, remaining_plugins) - waited_s)
    if budget_s is not None and budget_s < share:
        share = budget_s
    if call_timeout_s is not None and call_timeout_s < share:
        share = call_timeout_s
    return share
