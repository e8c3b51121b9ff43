"""What a plugin's code says it provides, held against what its manifest declares and the contracts have.

Source: features HK1, EP1, SV1 and SV5; docs/reference/manifest.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from annexe.channel import Provided
from annexe.contract import ExtensionDefinition, HookDefinition
from annexe.errors import ActivationError
from annexe.manifest import Manifest, names
from annexe.manifest.rights import manifest_line
from annexe.manifest.values import MisfitError

__all__ = ["check_provided"]

_MAX_QUOTED_CHARS = 256


def check_provided(
    manifest: Manifest, provided: Provided, *, hooks: Mapping[str, HookDefinition], points: Mapping[str, ExtensionDefinition]
) -> None:
    """Hold what a plugin's code provides against its verified manifest and the contracts.

    Args:
        manifest: The plugin's.
        provided: What its code says.
        hooks: Those of its manifest that are open, by qualified name.
        points: The extension points that are open, by name.

    Raises:
        ActivationError: It answers what it does not declare, or declares what it does not answer.
    """
    plugin, declared = manifest.id, manifest.provides
    kinds: tuple[tuple[str, Mapping[str, Any], Mapping[str, Any]], ...] = (
        ("hook", provided.hooks, declared.hooks),
        ("extension", provided.extensions, declared.extensions),
        ("service", provided.services, declared.services),
    )
    for what, given, wanted in kinds:
        for name in sorted(given.keys() - wanted.keys()):
            where = f" (at {_cut(at)})" if (at := given[name].at) else ""
            text = f"plugin {plugin!r} answers {what} {_cut(name)!r}{where}, which its plugin.toml does not declare; "
            raise ActivationError(f"{text}declared are: {', '.join(sorted(wanted)) or 'none'}", plugin=plugin)
        for name in sorted(wanted.keys() - given.keys()):
            raise ActivationError(
                f"plugin {plugin!r} declares {what} {name!r} in plugin.toml, but its code does not answer it", plugin=plugin
            )
    _check_events(manifest, provided)
    for name in sorted(provided.watches.keys() - set(manifest.permissions.services)):
        line = f'services = ["{_cut(name)}"]'
        text = f"plugin {plugin!r} wants to be told of service {_cut(name)!r}, which it may not use; "
        text += f"add to plugin.toml under [permissions]: {line}"
        raise ActivationError(text, plugin=plugin)
    for name, facts in provided.hooks.items():
        hook = hooks.get(name)
        if hook is None or hook.revision != declared.hooks[name].revision:
            continue  # at a hook of another plugin, which may yet come to fit
        kind, expected = _cut(str(facts.kind)), str(hook.kind)
        if kind != expected:
            where = f" (at {_cut(facts.at)})" if facts.at else ""
            text = f"plugin {plugin!r} answers {name} as {kind}{where}, expected {expected}: write @plugin.{expected}"
            raise ActivationError(text, plugin=plugin, expected=expected, actual=kind)
    for name, extension in provided.extensions.items():
        missing = sorted(points[name].methods.keys() - extension.methods.keys())
        if missing:
            raise ActivationError(f"plugin {plugin!r} fills extension point {name!r} without method {missing[0]!r}", plugin=plugin)
    for name, service in provided.services.items():
        missing = sorted(set(declared.services[name].idempotent) - service.methods.keys())
        if missing:
            text = f"plugin {plugin!r} declares method {missing[0]!r} of service {name!r} idempotent, which its code does not have; "
            raise ActivationError(f"{text}it has: {_cut(', '.join(sorted(service.methods)) or 'none')}", plugin=plugin)


def _check_events(manifest: Manifest, provided: Provided) -> None:
    plugin, asked = manifest.id, set(manifest.permissions.events_subscribe)
    for topic in sorted(provided.events.keys() - asked):
        where = f" (at {_cut(at)})" if (at := provided.events[topic].at) else ""
        text = f"plugin {plugin!r} answers event {_cut(topic)!r}{where}, which its plugin.toml does not ask for"
        try:
            line = manifest_line(f"events.subscribe:{names.dotted_name(topic)}", manifest.permissions)
        except MisfitError as misfit:
            raise ActivationError(f"{text}; expected {misfit.expected}", plugin=plugin) from None
        raise ActivationError(f"{text}; add under [permissions]: {line}", plugin=plugin)
    for topic in sorted(asked - provided.events.keys()):
        text = f"plugin {plugin!r} asks for event {topic!r} in plugin.toml, but its code does not answer it"
        raise ActivationError(f'{text}; write @plugin.on_event("{topic}")', plugin=plugin)


def _cut(text: str) -> str:
    """Return what a plugin wrote, no longer than messages, states and the store should hold."""
    return text[:_MAX_QUOTED_CHARS]
