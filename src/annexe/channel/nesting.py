"""Calls that serve a call of the plugin's own: the plugin runs them on the thread that waits, without a slot.

Source: docs/reference/protocol.md, "Nested calls"; ADR-0004.
"""

from __future__ import annotations

from annexe.channel.calls import HostCall
from annexe.channel.deadlock import find_waiting_holder
from annexe.channel.slots import Slots
from annexe.errors import PluginBusyError

__all__ = ["nest"]


def nest(call: HostCall, slots: Slots) -> None:
    """Have a call that is made on behalf of others run on the thread of one that waits in the same plugin, where one does.

    Args:
        call: About to be sent.
        slots: Of its connection.

    Raises:
        PluginBusyError: Too many calls are made on behalf of each other.
    """
    connection, limits, chain = call.connection, call.connection.limits, call.chain
    if len(chain) >= limits.depth:
        text = f"calls within calls are {len(chain)} deep; expected at most {limits.depth}"
        raise PluginBusyError(text, plugin=connection.plugin, method=call.method)
    if call.meta.stream is not None:
        return  # streams have threads of their own
    for outer in reversed(chain):
        if outer.connection is connection and outer.id in connection.open_calls:
            _run_on_thread_of(outer, call)
            return
    holder = find_waiting_holder(call) if slots.taken >= limits.concurrency else None
    if holder is not None:
        _run_on_thread_of(holder, call)


def _run_on_thread_of(outer: HostCall, call: HostCall) -> None:
    # Others may be run on that thread already, each while the one before waits: only the last of them can take it up.
    for inner in outer.connection.open_calls.values():  # oldest first
        if inner.nested and inner.requests and inner.meta.parent == outer.id:
            outer = inner
    call.nested = True
    call.meta.parent = outer.id
