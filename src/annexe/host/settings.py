"""What a host is made with: values, checked once.

Values; nothing is opened or read here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, final, get_args

from annexe.channel import CodecName
from annexe.contract import ExtensionPoint, HookSpec
from annexe.dispatch.policy import DispatchPolicy
from annexe.dispatch.service_offers import SELECTIONS
from annexe.host.learning import Learning
from annexe.sandbox import IsolationLevel
from annexe.supervision.policies import Policies

__all__ = ["Grants", "HostSettings", "StrategyName"]

Grants = Literal["stored", "manifest"] | Path
StrategyName = Literal["process", "zygote", "in-process"]
_Policy = Literal["open", "closed"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """Settings of one host; ``Host`` documents them.

    Raises:
        ValueError: Something is written wrongly; the text has all of it.
    """

    folders: Sequence[Path]
    contracts: Sequence[type[HookSpec] | type[ExtensionPoint]]
    capabilities: Sequence[Any]
    state_dir: Path
    data_dir: Path
    grants: Grants
    config: Mapping[str, Mapping[str, Any]]
    isolation: str
    strategy: StrategyName | Mapping[str, StrategyName]
    production: bool
    pythons: Sequence[Path]
    name: str
    version: str
    default_deadline_s: float
    codecs: Sequence[CodecName]
    control: bool
    attach: bool
    explain_values: bool
    unsafe_learning: Learning | None = None
    dispatch: DispatchPolicy = field(default_factory=DispatchPolicy)
    policies: Policies = field(default_factory=Policies)

    def __post_init__(self) -> None:
        strategies = {"strategy": self.strategy} if isinstance(self.strategy, str) else _by_name("strategy", self.strategy)
        wrong = _not_among(get_args(StrategyName), strategies)
        wrong += _not_among(get_args(_Policy), _by_name("on_failure", self.dispatch.on_failure))
        wrong += _not_among(SELECTIONS, {f"services[{name!r}].select": one.select for name, one in self.dispatch.services.items()})
        wrong += _not_among(get_args(CodecName), {f"codecs[{number}]": codec for number, codec in enumerate(self.codecs)})
        wrong += _not_among(tuple(IsolationLevel), {"isolation": self.isolation})
        if not self.codecs:
            wrong.append("codecs: expected at least one")
        if not 0 < self.default_deadline_s < float("inf"):
            wrong.append(f"default_deadline_s: expected seconds above 0, got {self.default_deadline_s!r}")
        if self.production and self.unsafe_learning is not None:
            wrong.append("unsafe_learning: it takes the walls away, which is for `annexe learn` alone; leave it out in production")
        if self.production and self.grants == "manifest":
            wrong.append('grants: "manifest" is for development; in production give a policy file, or grant with `annexe grant ID`')
        if wrong:
            raise ValueError("Host: " + "; ".join(wrong))

    @property
    def plugins_named(self) -> dict[str, str]:
        """Return every plugin id that the application named, with the argument that names it."""
        by_plugin = {name: "on_failure" for name in self.dispatch.on_failure if "." not in name}
        by_plugin |= {name: "order" for names in self.dispatch.order.values() for name in names}
        by_plugin |= {name: "services" for policy in self.dispatch.services.values() for name in policy.order}
        by_plugin |= dict.fromkeys(self.config, "config")
        return by_plugin | ({} if isinstance(self.strategy, str) else dict.fromkeys(self.strategy, "strategy"))

    @property
    def may_attach(self) -> bool:
        """Whether processes may attach in the place of plugins: in development, or where the operator says so."""
        return self.attach or self.grants == "manifest"

    def strategy_of(self, plugin: str) -> StrategyName:
        """Return how a plugin is launched."""
        if isinstance(self.strategy, str):
            return self.strategy
        return self.strategy.get(plugin, "process")

    def is_warm(self, plugin: str, *, lazy: bool) -> bool:
        """Return whether a plugin is to be forked from a fork server of its own: where that was asked for, or it comes and goes."""
        strategy = self.strategy_of(plugin)
        return strategy == "zygote" or (strategy == "process" and lazy)


def _by_name(argument: str, values: Mapping[str, str]) -> dict[str, str]:
    return {f"{argument}[{name!r}]": value for name, value in values.items()}


def _not_among(known: Sequence[str], values: Mapping[str, str]) -> list[str]:
    expected = " or ".join(map(repr, known))
    return [f"{place}: expected {expected}, got {value!r}" for place, value in values.items() if value not in known]
