"""What the control socket tells about plugins: plain values made from what the host knows.

Nothing is asked of a plugin here, and nothing is changed. Text of plugins' authors is passed on as it is; whoever shows it on a terminal
escapes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from annexe.host.known import KnownPlugin
from annexe.host.plugin_handle import PluginView
from annexe.manifest import Manifest
from annexe.manifest.rights import kind_of
from annexe.record.entry import rfc3339
from annexe.sandbox import Walls
from annexe.sandbox.enforcement import Enforcement, enforcement
from annexe.supervision.monitor import Sample

__all__ = ["details", "summaries", "summary"]

_AT_ONCE = 100  # lines of the list: a millisecond


def summary(known: KnownPlugin) -> dict[str, Any]:
    """Return one line of the list of plugins."""
    # From the bottom, and each thing once: there may be a thousand of them.
    manifest, supervisor = known.manifest, known.supervisor
    instances = supervisor.instances if supervisor is not None else ()
    first = instances[0] if instances else None
    since = supervisor.life.since if supervisor is not None else None
    return {
        "id": known.id,
        "name": manifest.name if manifest is not None else "",
        "version": manifest.version if manifest is not None else "",
        "state": str(known.state),
        "reason": known.reason,
        "lacks": known.lacks,
        "error": known.error.code if known.error is not None else None,
        "since": None if since is None else rfc3339(since),
        "enabled": known.enabled,
        "pid": None if first is None else first.launched.pid,
        "pids": [instance.launched.pid for instance in instances if instance.launched.pid is not None],
        "level": None if first is None else str(first.launched.receipt.level),
        "start": manifest.runtime.start if manifest is not None else None,
        "attached": first is not None and first.plan.guest is not None,
    }


async def summaries(plugins: Mapping[str, KnownPlugin]) -> list[dict[str, Any]]:
    """Return the list of plugins; others have their turn in between."""
    told = []
    for number, plugin in enumerate(sorted(plugins), 1):
        if plugin in plugins:  # not let go of meanwhile
            told.append(summary(plugins[plugin]))
        if number % _AT_ONCE == 0:
            await asyncio.sleep(0)
    return told


def details(
    view: PluginView,
    known: KnownPlugin,
    *,
    strategy: str,
    expected: Walls,
    requires: Sequence[Mapping[str, Any]],
    hooks: Mapping[str, Any],
    breakers: Mapping[str, float],
    figures: Mapping[str, Any],
) -> dict[str, Any]:
    """Return everything about one plugin.

    Args:
        view: The plugin.
        known: The same, as the registry has it.
        strategy: How it is launched.
        expected: Which walls it would get if it were started now.
        requires: What it requires, and who gives it.
        hooks: Which hooks it defines, who implements them, and where it is passed over itself.
        breakers: Where it is passed over because it failed too often, and for how many seconds more.
        figures: Its part of the host's figures.
    """
    manifest, receipt, decision = view.manifest, view.receipt, known.decision
    worth = receipt.rights if receipt is not None else enforcement(expected)
    asked = sorted(manifest.permission_set()) if manifest is not None else []
    missing = decision.lacking if decision is not None else frozenset(asked) - view.granted
    return summary(known) | {
        "description": manifest.description if manifest is not None else "",
        "authors": list(manifest.authors) if manifest is not None else [],
        "license": manifest.license if manifest is not None else "",
        "folder": str(known.found.folder),
        "digest": known.loaded.digest if known.loaded is not None else None,
        "strategy": strategy,
        "requires_level": manifest.sandbox_require if manifest is not None else None,
        "instances": _instances(known),
        "starts": known.supervisor.starts if known.supervisor is not None else 0,
        "failures": known.supervisor.failures.count if known.supervisor is not None else 0,
        "breakers": dict(breakers),
        "problems": known.error.message if known.error is not None else None,
        "rights": [{"right": right, "granted": right not in missing, **_worth(worth, kind_of(right))} for right in asked],
        "limits": [{"name": name, "value": value, **_worth(worth, name)} for name, value in _limits(manifest).items()],
        "hooks": {name: impl.revision for name, impl in manifest.provides.hooks.items()} if manifest is not None else {},
        "extensions": {name: impl.revision for name, impl in manifest.provides.extensions.items()} if manifest is not None else {},
        "services": {name: offer.version for name, offer in manifest.provides.services.items()} if manifest is not None else {},
        "topics": list(manifest.provides.topics) if manifest is not None else [],
        "requires": list(requires),
        **hooks,
        "receipt": receipt.as_dict() if receipt is not None else None,
        "receipt_text": receipt.as_text() if receipt is not None else None,
        "config": dict(view.config),
        "history": [{"state": str(change.state), "reason": change.reason, "time": rfc3339(change.at)} for change in view.history],
        "figures": dict(figures),
        "usage": _usage(view.usage),
    }


def _instances(known: KnownPlugin) -> list[dict[str, Any]]:
    instances = known.supervisor.instances if known.supervisor is not None else ()
    return [
        {"name": one.plan.launch.instance, "pid": one.launched.pid, "in_flight": one.connection.in_flight, "queued": one.connection.queued}
        for one in instances
    ]


def _usage(sample: Sample | None) -> dict[str, Any] | None:
    if sample is None:
        return None
    used = {name: value for name, value in asdict(sample.usage).items() if name != "cpu_s"}
    return {"time": rfc3339(sample.at), "cpu_cores": sample.cpu_cores, **used, "over": [str(resource) for resource in sample.violated]}


def _worth(worth: Mapping[str, Enforcement], name: str) -> dict[str, str]:
    found = worth[name]
    return {"worth": str(found.state), "why": found.why}


def _limits(manifest: Manifest | None) -> dict[str, Any]:
    if manifest is None:
        return {}
    resources, runtime = manifest.resources, manifest.runtime
    return {
        "memory": resources.memory_bytes,
        "cpu": resources.cpu,
        "processes": resources.processes,
        "open-files": resources.open_files,
        "disk": resources.disk_bytes,
        "start-timeout": resources.start_timeout_s,
        "call-timeout": resources.call_timeout_s,
        "concurrency": runtime.concurrency,
        "streams": runtime.streams,
    }
