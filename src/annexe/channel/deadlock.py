"""Two chains of calls that wait for each other's slots.

A plugin that works on a call and asks the application keeps its slot meanwhile; what the application does to answer may need a slot of
another plugin, whose holder in turn waits for the first. Then nobody would ever move: the call that closes such a ring is run on the thread
of the holder that waits, as if it served that one.

Looked for only when a call made on behalf of another finds every slot taken.

Source: docs/reference/protocol.md, "Concurrency, slots, stuck".
"""

from __future__ import annotations

from annexe.channel.calls import HostCall

__all__ = ["find_waiting_holder"]


def find_waiting_holder(call: HostCall) -> HostCall | None:
    """Return the slot holder that waits, by way of others, for the chain of ``call``; None when waiting for a slot does no harm."""
    ours, seen = {id(outer) for outer in call.chain}, set[int]()
    for holder in _holders(call):
        if _waits_for(holder, ours, seen=seen):
            return holder
    return None


def _holders(call: HostCall) -> list[HostCall]:
    return [other for other in call.connection.open_calls.values() if other.holds_slot]


def _waits_for(holder: HostCall, ours: set[int], *, seen: set[int]) -> bool:
    """Say whether a holder waits for a slot that one of ours holds, or for one whose holder does.

    Holders and connections are looked at once: a plugin that has a thousand calls wait at one place shall not cost a thousand looks at it.
    """
    if id(holder) in seen:
        return False
    seen.add(id(holder))
    for inner in holder.inner_calls or ():
        if inner.future.done():
            continue
        if inner.holds_slot or inner.nested:
            if _waits_for(inner, ours, seen=seen):
                return True
        elif id(inner.connection) not in seen:
            seen.add(id(inner.connection))
            if any(id(other) in ours or _waits_for(other, ours, seen=seen) for other in _holders(inner)):
                return True
    return False
