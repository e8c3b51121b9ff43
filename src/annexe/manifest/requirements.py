"""What a plugin needs of the machine and of the host, held against what is there.

Pure: the machine is described by a value, which ``machine`` takes from the real one.

Source: feature DI5.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import final

from annexe.errors import ContractError, RevisionMismatchError
from annexe.manifest.model import Manifest
from annexe.manifest.reader import nearest
from annexe.manifest.versions import is_in_range

__all__ = ["Machine", "contract_problems", "unmet_requirements"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where a plugin would run.

    Attributes:
        os: ``linux``, ``macos`` or ``windows``, or what the system calls itself.
        arch: As in ``model.ARCHITECTURES``, or what the system calls it.
        python: Version of the interpreter that the plugin gets; empty where that is chosen at its launch, and refused there.
        host: Version of annexe.
        libs: File names of the native libraries that were looked for and are there.
        targets: Target triples it can run, best first.
    """

    os: str
    arch: str
    python: str
    host: str
    libs: frozenset[str] = frozenset()
    targets: tuple[str, ...] = ()


def unmet_requirements(manifest: Manifest, machine: Machine) -> list[str]:
    """Return what this machine lacks for this plugin, one text each with what was expected and what was got; empty when all is there."""
    runtime = manifest.runtime
    unmet = [
        f"{key}: expected {' or '.join(wanted)}, got {found}"
        for key, wanted, found in (("requires-os", runtime.requires_os, machine.os), ("requires-arch", runtime.requires_arch, machine.arch))
        if wanted and found not in wanted
    ]
    if not is_in_range(machine.host, runtime.requires_host):
        unmet.append(f"requires-host: expected annexe {runtime.requires_host}, got {machine.host}")
    if machine.python and not is_in_range(machine.python, runtime.requires_python):
        unmet.append(f"requires-python: expected Python {runtime.requires_python}, got {machine.python}")
    unmet += [f"requires-libs: expected {lib}, got no library of that name" for lib in runtime.requires_libs if lib not in machine.libs]
    if runtime.entry_by_target and not runtime.entry_for(machine.targets):
        offered = " or ".join(runtime.entry_by_target)
        unmet.append(f"entry: expected to run on {offered}, got {machine.targets[0] if machine.targets else machine.arch}")
    return unmet


def contract_problems(
    manifest: Manifest, *, hooks: Mapping[str, int], extensions: Mapping[str, int], by_plugins: Collection[str] = ()
) -> list[ContractError]:
    """Return what of the hooks and extensions in a manifest does not fit what the host opens.

    Args:
        manifest: The plugin's.
        hooks: Revision by qualified name (``chat.on_request``) of every hook that is open.
        extensions: Revision by name of every extension point that is open.
        by_plugins: Qualified names of hooks that other plugins define, or may come to define: of whatever revision, those fit.

    Returns:
        One error for each that is of another revision, or unknown and near to a known name; one for all others of a kind that are unknown;
        empty when all fit.
    """
    provided = [("hook", name, hook.revision, hooks) for name, hook in manifest.provides.hooks.items()]
    provided += [("extension point", name, extension.revision, extensions) for name, extension in manifest.provides.extensions.items()]
    problems: list[ContractError] = []
    strange: dict[str, list[str]] = {}
    for kind, name, revision, opened in provided:
        if kind == "hook" and name in by_plugins and name not in hooks:
            continue
        if name not in opened:
            close = nearest(name, sorted({*opened, *by_plugins} if kind == "hook" else opened))
            if close:
                problems.append(_unknown(manifest.id, kind, [name], f"expected {close!r}"))
            else:
                strange.setdefault(kind, []).append(name)
        elif revision != opened[name]:
            problems.append(RevisionMismatchError(plugin=manifest.id, contract=f"{kind} {name}", expected=opened[name], actual=revision))
    for kind, opened in (("hook", hooks), ("extension point", extensions)):
        if kind in strange:
            problems.append(_unknown(manifest.id, kind, strange[kind], _opened(opened, by_plugins if kind == "hook" else None)))
    return problems


def _opened(opened: Mapping[str, int], by_plugins: Collection[str] | None) -> str:
    ours = f"expected one of {', '.join(map(repr, sorted(opened)))}"
    if not opened:
        ours = "it opens none; name what the application opens, by --contracts MODULE:SPEC or Host(contracts=[…])"
    if by_plugins is None:
        return ours
    theirs = f"; plugins define {', '.join(map(repr, sorted(by_plugins)))}" if by_plugins else ""
    return f"{ours}{theirs}; or install the plugin that has it under [provides.hook-specs]: this one starts once that is there"


def _unknown(plugin: str, kind: str, names: list[str], what_helps: str) -> ContractError:
    what = f"{kind}{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"
    return ContractError(f"plugin {plugin!r} provides {what}, which the host does not open; {what_helps}", plugin=plugin, name=names[0])
