"""What a host is made with: values, checked once.

Values; nothing is opened or read here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, final

from annexe.contract import ExtensionPoint, HookSpec
from annexe.dispatch.dispatcher import DispatchPolicy
from annexe.supervision.supervisor import Policies

__all__ = ["Grants", "HostSettings", "StrategyName"]

Grants = Literal["stored", "manifest"] | Path
StrategyName = Literal["process", "in-process"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """Settings of one host; ``Host`` documents them."""

    folders: Sequence[Path]
    contracts: Sequence[type[HookSpec] | type[ExtensionPoint]]
    capabilities: Sequence[Any]
    state_dir: Path
    grants: Grants
    config: Mapping[str, Mapping[str, Any]]
    strategy: StrategyName | Mapping[str, StrategyName]
    production: bool
    pythons: Sequence[Path]
    name: str
    version: str
    default_deadline_s: float
    codecs: Sequence[Literal["msgpack", "json"]]
    control: bool
    explain_values: bool
    dispatch: DispatchPolicy = field(default_factory=DispatchPolicy)
    policies: Policies = field(default_factory=Policies)

    def strategy_of(self, plugin: str) -> StrategyName:
        """Return how a plugin is launched."""
        if isinstance(self.strategy, str):
            return self.strategy
        return self.strategy.get(plugin, "process")
