"""Run attacks in a real host and say what came of each.

Every attack gets a fresh process of the attacker, as any plugin is started, and targets that were made for it. Beside the attacker runs a
second plugin, which must not notice anything.

Outcomes: ``stopped`` and ``capped``, with the first layer that does so by itself and is on; ``through``; ``unix``, what the permissions of
plain Unix stop at any rate, with the first layer that does so besides; ``not run``, with the reason.

Source: feature IS10.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

from annexe import Host
from annexe.attack.catalogue import BYSTANDER_FOLDER, PLUGIN_FOLDER, Attack
from annexe.attack.contract import Bystander, Escape, Outcome, Targets
from annexe.attack.judges import AFTER_END, CHECKS, PATIENT, Scene, measure
from annexe.attack.layers import layers_on
from annexe.attack.terms import Terms, write_terms
from annexe.attack.world import World
from annexe.errors import AnnexeError, CallTimeoutError, InvalidResultError, LaunchError, PluginRaisedError
from annexe.host.plugin_handle import PluginHandle
from annexe.host.state_dir import control_socket_of, control_token_of
from annexe.host.temporary_state import removing_data_of
from annexe.sandbox import Receipt
from annexe.supervision.health import HealthPolicy
from annexe.supervision.instance import StopPolicy
from annexe.supervision.policies import Policies
from annexe.supervision.restart import RestartPolicy
from annexe.supervision.violations import MonitorPolicy

__all__ = ["AttackResult", "Report", "ResultOutcome", "run_attacks"]

ResultOutcome = Literal["stopped", "capped", "through", "unix", "not run"]

_ATTACKER, _BYSTANDER = "annexe-escape", "annexe-bystander"
_LIMIT_S, _PATIENT_LIMIT_S = 10.0, 1.0
_NEVER_S = 3600.0
_POLICIES = Policies(
    restart=RestartPolicy(first_delay_s=_NEVER_S, max_delay_s=_NEVER_S, max_failures=10_000),
    health=HealthPolicy(),
    monitor=MonitorPolicy(rules={}),  # it looks every other second, and would end some attacks and not others
    stop=StopPolicy(drain_s=0.0, shutdown_s=0.0, exit_s=0.0, terminate_s=0.0, kill_s=5.0),
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AttackResult:
    """What came of one attack.

    Attributes:
        attack: It.
        outcome: In one word.
        layer: The first layer that stops or caps it by itself and is on, for ``unix`` too; empty where there is none.
        detail: What was seen, for people; may hold an attacker's text.
    """

    attack: Attack
    outcome: ResultOutcome
    layer: str = ""
    detail: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return {"name": self.attack.name, "outcome": self.outcome, "layer": self.layer, "detail": self.detail}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of all attacks.

    Attributes:
        level: Isolation level of the attacker; empty when it never started.
        layers: Those that were on.
        results: In the order in which they were made.
    """

    level: str
    layers: frozenset[str]
    results: tuple[AttackResult, ...]

    @property
    def through(self) -> tuple[AttackResult, ...]:
        """Those that worked."""
        return tuple(result for result in self.results if result.outcome == "through")

    def as_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return {"level": self.level, "attacks": [result.as_dict() for result in self.results]}


async def run_attacks(
    chosen: Sequence[Attack],
    *,
    progress: Callable[[AttackResult], None] | None = None,
    terms: Terms | None = None,
    host: Mapping[str, Any] | None = None,
) -> Report:
    """Make attacks, one after the other.

    Args:
        chosen: In this order.
        progress: Told of each when it is done.
        terms: Permissions and resources of another plugin, for the attacker to have; by default its own few.
        host: Further arguments of ``Host``.

    Raises:
        LaunchError: The attacker cannot be started.
        AnnexeError: The host cannot be opened.
    """
    with _world(terms) as world, removing_data_of(world.root / "state"):
        settings: dict[str, Any] = {
            "plugins": world.root / "plugins",
            "contracts": [Escape, Bystander],
            "capabilities": [_Vault()],
            "grants": "manifest",
            "state_dir": world.root / "state",
            "name": "annexe attack",
            "policies": _POLICIES,
        }
        async with Host(**settings | dict(host or {})) as opened:
            async with opened.request() as request:
                await request.extension(Bystander).keep(world.token)
            run = _Run(opened, world)
            results = []
            for attack in chosen:
                results.append(await run.make(attack))
                if progress is not None:
                    progress(results[-1])
            return Report(level=run.level, layers=run.layers, results=tuple(results))


@final
class _Vault:
    """What the application offers, and grants to no attacker."""

    name = "attack-vault"

    async def read(self, name: str) -> str:
        return f"the {name} to everything"


@contextmanager
def _world(terms: Terms | None) -> Iterator[World]:
    """Give targets, with copies of both plugins among them: an attack may change the attacker's files."""
    with World() as world:
        for source, name in ((PLUGIN_FOLDER, _ATTACKER), (BYSTANDER_FOLDER, _BYSTANDER)):
            copy = world.root / "plugins" / name
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
            for path in (copy, *copy.rglob("*")):
                path.chmod(0o755 if path.is_dir() else 0o644)
        if terms is not None:
            write_terms(world.root / "plugins" / _ATTACKER / "plugin.toml", terms)
        yield world


@final
class _Run:
    """One run: makes attacks and judges them."""

    def __init__(self, host: Host, world: World) -> None:
        self._host = host
        self._world = world
        self.level = ""
        self.layers: frozenset[str] = frozenset()

    async def make(self, attack: Attack) -> AttackResult:
        """Make one attack and judge it."""
        receipt = await self._fresh()
        self._world.renew(uid=_uid_of(receipt), python=_python_of(receipt))
        before = measure()
        outcome = await self._attempt(attack, phase=1)
        for phase in range(2, attack.phases + 1):
            if isinstance(outcome, Outcome) and outcome.verdict == "judge":
                await self._fresh()
                outcome = await self._attempt(attack, phase=phase)
        if not attack.check or (isinstance(outcome, Outcome) and outcome.verdict in ("absent", "through")):
            return self._told(attack, outcome)
        if attack.check in AFTER_END:
            await self._plugin.stop()
        facts = outcome.facts if isinstance(outcome, Outcome) else {}
        said = outcome.detail if isinstance(outcome, Outcome) else f"no answer: {outcome}"
        scene = Scene(world=self._world, host=self._host, attacker=_ATTACKER, bystander=_BYSTANDER, before=before, facts=facts)
        seen = await CHECKS[attack.check](scene)
        if attack.check in AFTER_END:
            await asyncio.to_thread(self._world.clear, self._host.state_dir.path / "cache" / "scratch", facts.get("folder"))
        if seen is not None:
            return AttackResult(attack=attack, outcome="through", detail=f"{said}; {seen}")
        if isinstance(outcome, Outcome) and outcome.verdict != "judge":  # stopped, it says, and nothing is seen that says otherwise
            return self._told(attack, outcome)
        # What worked inside, in folders or processes of its own, is no contradiction.
        return self._held(attack, f"{said}; outside nothing came of it" if isinstance(outcome, Outcome) else said)

    @property
    def _plugin(self) -> PluginHandle:
        return self._host.plugin(_ATTACKER)

    async def _fresh(self) -> Receipt:
        """Give the attacker a new process.

        Raises:
            LaunchError: It does not start.
        """
        await self._plugin.restart()
        receipt = self._plugin.receipt
        if receipt is None:
            raise LaunchError(f"the attacker does not start: {self._plugin.reason}", plugin=_ATTACKER)
        self.level, self.layers = str(receipt.level), layers_on(receipt)
        return receipt

    async def _attempt(self, attack: Attack, *, phase: int) -> Outcome | AnnexeError:
        """Return what the attacker says, or why it says nothing."""
        limit_s = _PATIENT_LIMIT_S if attack.check in PATIENT else _LIMIT_S
        try:
            async with self._host.request(deadline_s=limit_s) as request:
                return await request.extension(Escape).run(attack.name, self._targets(phase))
        except AnnexeError as error:
            return error

    def _targets(self, phase: int) -> Targets:
        manifest = self._plugin.manifest
        assert manifest is not None
        resources, state = manifest.resources, self._host.state_dir.path
        return Targets(
            phase=phase,
            other_pid=self._host.plugin(_BYSTANDER).pid or 0,
            other_plugin=_BYSTANDER,
            state_dir=str(state),
            control_socket=str(control_socket_of(state)),
            control_token=str(control_token_of(state)),
            memory_bytes=resources.memory_bytes,
            disk_bytes=resources.disk_bytes,
            tasks=resources.processes,
            open_files=resources.open_files,
            cpu=resources.cpu,
            **self._world.values(),
        )

    def _told(self, attack: Attack, outcome: Outcome | AnnexeError) -> AttackResult:
        """Return the result of an attack that the attacker can judge, if it lived to."""
        if isinstance(outcome, (PluginRaisedError, InvalidResultError, CallTimeoutError)):
            return AttackResult(attack=attack, outcome="not run", detail=f"the attack itself failed: {outcome.message}")
        if isinstance(outcome, AnnexeError):  # it ended: by a filter that kills, or by the kernel for want of memory
            if attack.first_layer(self.layers):
                return self._held(attack, f"it ended: {outcome.message}")
            return AttackResult(attack=attack, outcome="not run", detail=f"it ended, and no layer is on that ends it: {outcome.message}")
        if outcome.verdict == "absent":
            return AttackResult(attack=attack, outcome="not run", detail=outcome.detail)
        if outcome.verdict == "through":
            return AttackResult(attack=attack, outcome="through", detail=outcome.detail)
        return self._held(attack, outcome.detail, capped=outcome.verdict == "capped")

    def _held(self, attack: Attack, detail: str, *, capped: bool | None = None) -> AttackResult:
        """Return the result of an attack that did not work."""
        if attack.unix:
            return AttackResult(attack=attack, outcome="unix", layer=attack.first_layer(self.layers), detail=detail)
        if capped is None:
            capped = not any(layer in self.layers for layer in attack.stopped_by) and bool(attack.capped_by)
        layer = attack.first_layer(self.layers, capped=capped)
        return AttackResult(attack=attack, outcome="capped" if capped else "stopped", layer=layer, detail=detail)


def _uid_of(receipt: Receipt) -> int:
    return os.geteuid() if receipt.uid is None else receipt.uid


def _python_of(receipt: Receipt) -> str:
    """Return the interpreter that the attacker's user can run."""
    return next((layer.detail for layer in receipt.layers if layer.name == "python" and Path(layer.detail).is_file()), "")
