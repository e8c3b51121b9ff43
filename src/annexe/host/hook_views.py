"""What the control socket tells about hooks that plugins define: plain values."""

from __future__ import annotations

from typing import Any

from annexe.dispatch.dispatcher import Dispatcher
from annexe.manifest import Manifest

__all__ = ["hooks_view"]


def hooks_view(manifest: Manifest | None, dispatcher: Dispatcher) -> dict[str, Any]:
    """Return which hooks a plugin defines, and who implements them; and where it is not called though it implements one.

    Args:
        manifest: The plugin's; None when it was refused.
        dispatcher: Knows who takes part.
    """
    if manifest is None:
        return {"defines": [], "passed_over": {}}
    defines = []
    for name, offer in manifest.provides.hook_specs.items():
        holder = dispatcher.plugin_hooks.opened.get(name)
        is_open = holder is not None and holder.plugin == manifest.id
        called, not_called = dispatcher.implementers(name) if is_open else ([], {})
        facts = {"hook": name, "kind": offer.kind, "revision": offer.revision, "on_failure": offer.on_failure, "open": is_open}
        defines.append(facts | {"implemented_by": called, "passed_over": not_called})
    return {"defines": defines, "passed_over": dispatcher.plugin_hooks.passed_over(manifest)}
