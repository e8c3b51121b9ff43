"""What one instance of a plugin hands over to the next: the plugin's own state, as its code saves and loads it.

* Only a plugin that answers both ``state.save`` and ``state.load`` hands anything over.
* The host passes the value on and looks at nothing but its size.

Source: feature LC10; docs/how-to/reload-a-plugin.md; ADR-0092.
"""

from __future__ import annotations

from time import monotonic

import msgspec

from annexe.channel import RequestMeta, passed_on
from annexe.contract.blobs import BlobPayload
from annexe.errors import AnnexeError, LaunchError
from annexe.supervision.instance import Instance

__all__ = ["HAND_OVER_S", "MAX_STATE_BYTES", "hand_over", "hands_over"]

MAX_STATE_BYTES = 1024 * 1024
HAND_OVER_S = 5.0
"""How long calls under way may take to end, the old instance to save, and the new one to load: for each."""


def hands_over(old: Instance, new: Instance) -> bool:
    """Say whether an instance has state to hand over, and the next one takes some."""
    if old.plan.guest is not None or new.plan.guest is not None:
        return False  # it may be held in a debugger, and whoever hands over waits
    return "save" in old.provided.state and "load" in new.provided.state


async def hand_over(old: Instance, new: Instance) -> None:
    """Let the calls of an instance end, and bring its state to the next one. Nobody may send it calls meanwhile.

    Raises:
        LaunchError: That could not be; the old one has all that it had.
    """
    plugin = old.plan.launch.plugin
    old.end_streams(at_once=True)
    if not await old.connection.wait_idle(monotonic() + HAND_OVER_S):
        raise LaunchError(f"plugin {plugin!r} did not hand its state over: its calls did not end within {HAND_OVER_S:g} s", plugin=plugin)
    try:
        saved = await old.connection.call("state.save", [], RequestMeta(), deadline=monotonic() + HAND_OVER_S)
        _check_size(saved.result)
        value = passed_on(saved.result, saved.codec, to=new.connection.codec.name)
        await new.connection.call("state.load", [value], RequestMeta(), deadline=monotonic() + HAND_OVER_S)
    except (AnnexeError, ValueError) as error:
        raise LaunchError(f"plugin {plugin!r} did not hand its state over: {error}", plugin=plugin) from error


def _check_size(payload: msgspec.Raw | BlobPayload) -> None:
    size = sum(map(len, payload.blobs)) if isinstance(payload, BlobPayload) else len(memoryview(payload))
    if size > MAX_STATE_BYTES:
        raise ValueError(f"it saved {size} bytes; expected at most {MAX_STATE_BYTES}")
