"""In which order the implementations of a hook are called.

Pure. Always the same order for the same input, whatever order it came in:

1. plugins the operator ordered come first, in the operator's order, whatever their authors wrote;
2. among the others ``before`` and ``after`` hold;
3. where these leave a choice, the lower priority goes first, then the lower plugin id.

Source: docs/reference/hooks.md, "Order"; ADR-0013.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from annexe.errors import ContractError

__all__ = ["DEFAULT_PRIORITY", "Ordered", "absent_names", "order_implementations"]

DEFAULT_PRIORITY = 100


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Ordered:
    """What one plugin's manifest says about its place.

    Attributes:
        plugin: Its id.
        priority: Lower goes first.
        before: Ids of plugins that must come later.
        after: Ids of plugins that must come earlier.
    """

    plugin: str
    priority: int = DEFAULT_PRIORITY
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


def order_implementations(implementations: Iterable[Ordered], operator_order: Sequence[str] = ()) -> list[str]:
    """Return plugin ids in the order of calling.

    Args:
        implementations: One for each plugin.
        operator_order: Ids from configuration; absent ones are ignored.

    Raises:
        ContractError: ``before`` and ``after`` contradict each other; ``cycle`` holds the ids, each before the next, back to the first.
        ValueError: A plugin is given twice.
    """
    known: dict[str, Ordered] = {}
    for implementation in implementations:
        if implementation.plugin in known:
            raise ValueError(f"expected one implementation for each plugin, got two of {implementation.plugin!r}")
        known[implementation.plugin] = implementation
    first = [plugin for plugin in dict.fromkeys(operator_order) if plugin in known]
    rest = {plugin: known[plugin] for plugin in known.keys() - set(first)}
    return first + _sorted(rest)


def absent_names(implementations: Iterable[Ordered], operator_order: Sequence[str] = ()) -> list[str]:
    """Return the names that ``order_implementations`` ignores, for explain and doctor."""
    listed = list(implementations)
    known = {implementation.plugin for implementation in listed}
    by_plugins = (name for each in listed for name in (*each.before, *each.after))
    return [name for name in (*operator_order, *by_plugins) if name not in known]


def _sorted(known: Mapping[str, Ordered]) -> list[str]:
    later = _successors(known)
    waits_for = dict.fromkeys(known, 0)
    for plugin in known:
        for successor in later[plugin]:
            waits_for[successor] += 1
    free = [(known[plugin].priority, plugin) for plugin, count in waits_for.items() if count == 0]
    heapq.heapify(free)
    ordered = []
    while free:
        _, plugin = heapq.heappop(free)
        ordered.append(plugin)
        for successor in later[plugin]:
            waits_for[successor] -= 1
            if waits_for[successor] == 0:
                heapq.heappush(free, (known[successor].priority, successor))
    if len(ordered) < len(known):
        raise _cycle_error(later, start=min(known.keys() - set(ordered)), stuck=known.keys() - set(ordered))
    return ordered


def _successors(known: Mapping[str, Ordered]) -> dict[str, set[str]]:
    later: dict[str, set[str]] = {plugin: set() for plugin in known}
    for plugin, implementation in known.items():
        later[plugin].update(name for name in implementation.before if name in known)
        for name in implementation.after:
            if name in known:
                later[name].add(plugin)
    return later


def _cycle_error(later: Mapping[str, set[str]], *, start: str, stuck: Iterable[str]) -> ContractError:
    # Every stuck plugin waits for a stuck one, so walking against the arrows must come by some plugin twice.
    earlier = {plugin: min(name for name in stuck if plugin in later[name]) for plugin in stuck}
    path = [start]
    while earlier[path[-1]] not in path:
        path.append(earlier[path[-1]])
    cycle = path[path.index(earlier[path[-1]]) :][::-1]
    turn = cycle.index(min(cycle))
    cycle = [*cycle[turn:], *cycle[: turn + 1]]
    return ContractError(
        f"before and after contradict each other: {' → '.join(cycle)}; remove one of them from a plugin.toml, "
        "or name these plugins in the operator's order.",
        cycle=cycle,
    )
