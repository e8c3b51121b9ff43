"""A host that learns what a plugin needs, or tries whether what was learned is enough. For ``annexe learn``, by ``annexe.testing`` alone.

* While learning no walls stand, for none of the host's plugins, and the plugin has every right that can be given; what it uses is noted.
* While trying all walls stand, and the plugin has the rights that were learned, whatever its manifest asks for.
* Never in production: ``Host`` refuses it there.

Source: feature PE5; docs/how-to/learn-permissions.md; ADR-0078.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import final

import msgspec

from annexe.capabilities.egress import EVERY_TARGET
from annexe.channel import CodecName
from annexe.launch.offer import OfferFinder
from annexe.manifest.model import DEVICES, Manifest
from annexe.manifest.names import is_env_name
from annexe.manifest.permission_edit import asking_for
from annexe.manifest.rights import kind_of
from annexe.sandbox import IsolationLevel
from annexe.supervision.instance import Instance, InstancePlan

__all__ = ["Learning"]

_WALLS = ("namespaces", "landlock", "seccomp")


class _Used(msgspec.Struct):
    facts: list[tuple[str, str]] = []


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """What one host is to learn.

    Attributes:
        plugin: Id.
        rights: Those to be tried; None: learn them.
        note: Is told each fact, a kind and what it is about; ``annexe_sdk.recording`` lists the kinds. Besides them there are ``right``,
            one that the host itself serves, and ``ran``, the level that an instance ran at.
    """

    plugin: str
    note: Callable[[str, str], None]
    rights: frozenset[str] | None = None

    def offers(self) -> OfferFinder | None:
        """Return the walls for this host; None: all there are."""
        return OfferFinder(unsafe_without=_WALLS) if self.rights is None else None

    def granted(self, plugin: str, granted: frozenset[str], *, capabilities: Iterable[str]) -> frozenset[str]:
        """Return what a plugin is to have.

        Args:
            plugin: Id.
            granted: What it would have had.
            capabilities: What the application offers.
        """
        if plugin != self.plugin:
            return granted
        if self.rights is not None:
            return self.rights
        # Paths are left out: without walls it reaches them anyway, and one that is not there would keep it from starting.
        kept = {right for right in granted if not kind_of(right).startswith("filesystem.")}
        variables = {f"env:{name}" for name in os.environ if is_env_name(name)}
        devices = {f"devices:{name}" for name in DEVICES}
        offered = {f"cap:{name}" for name in capabilities}
        return frozenset({*kept, *variables, *devices, *offered, "kv", "data", "subprocess", EVERY_TARGET})

    def asking_for(self, granted: frozenset[str], manifest: Manifest) -> Manifest:
        """Return a plugin's manifest as it would be if it asked for what the plugin has: with quotas, and lines to tell in refusals."""
        if manifest.id != self.plugin:
            return manifest
        return replace(manifest, permissions=asking_for(granted, was=manifest.permissions))

    def telling(self, plugin: str, tell: Callable[[str], None]) -> Callable[[str], None]:
        """Return what is to be called with each right that is used, in place of ``tell``."""
        if plugin != self.plugin:
            return tell

        def told(right: str) -> None:
            self.note("right", right)
            tell(right)

        return told

    def planned(self, plan: InstancePlan) -> InstancePlan:
        """Return the plan of an instance, with what learning takes."""
        if plan.launch.plugin != self.plugin:
            return plan
        on_notification, on_ready = plan.on_notification, plan.on_ready

        def notified(method: str, params: msgspec.Raw, codec: CodecName, request_id: str | None) -> None:
            if method == "used":
                self._take(params, codec, data_dir=plan.activation["data_dir"])
            else:
                on_notification(method, params, codec, request_id)

        def ready(instance: Instance) -> None:
            self.note("ran", str(instance.launched.receipt.level))
            on_ready(instance)

        if self.rights is not None:
            return replace(plan, on_ready=ready)
        return replace(
            plan,
            launch=replace(plan.launch, floor=IsolationLevel.NONE),
            activation={**plan.activation, "record": str(plan.launch.folder)},
            on_notification=notified,
            on_ready=ready,
        )

    def _take(self, params: msgspec.Raw, codec: CodecName, *, data_dir: str | None) -> None:
        try:
            used = msgspec.json.decode(params, type=_Used) if codec == "json" else msgspec.msgpack.decode(params, type=_Used)
        except (msgspec.MsgspecError, RecursionError, ValueError):
            return
        for kind, what in used.facts:
            if data_dir is not None and kind in ("read", "list", "write") and f"{what}/".startswith(f"{data_dir}/"):
                self.note("right", "data")
            else:
                self.note(kind, what)
