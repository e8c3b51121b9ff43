"""The rules by which plugins are kept running, as one value.

Source: docs/reference/host.md, "Policies".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from annexe.supervision.health import HealthPolicy
from annexe.supervision.instance import StopPolicy
from annexe.supervision.monitor import MonitorPace
from annexe.supervision.restart import RestartPolicy
from annexe.supervision.violations import MonitorPolicy

__all__ = ["Policies"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """The rules of one host.

    Attributes:
        shrink_after_s: An instance beyond a plugin's least is stopped after this long without a call.
    """

    restart: RestartPolicy = field(default_factory=RestartPolicy)
    health: HealthPolicy = field(default_factory=HealthPolicy)
    stop: StopPolicy = field(default_factory=StopPolicy)
    monitor: MonitorPolicy = field(default_factory=MonitorPolicy)
    pace: MonitorPace = field(default_factory=MonitorPace)
    shrink_after_s: float = 30.0
