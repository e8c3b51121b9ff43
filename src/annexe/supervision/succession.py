"""Some instances taking over from others.

Source: feature LC10; docs/how-to/reload-a-plugin.md; ADR-0092.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from annexe.supervision.instance import Instance

__all__ = ["Succession"]


@final
@dataclass(frozen=True, slots=True)
class Succession:
    """What is to take over, and what came of it.

    Attributes:
        instances: Ready; none: the next one is started once those before have ended.
        commit: Called at the moment of the switch; what it raises calls it off.
        decided: Done once it was carried through or called off.
        versions: Of the old ones and of these.
    """

    instances: Sequence[Instance]
    commit: Callable[[], None]
    decided: asyncio.Future[None]
    versions: tuple[str, str]

    def carry_through(self) -> bool:
        """Commit; say whether it is to be."""
        if self.decided.cancelled():  # whoever asked for it has gone
            return False
        try:
            self.commit()
        except Exception as error:  # noqa: BLE001 - whatever it is, whoever asked is told and what runs goes on
            self.call_off(error)
            return False
        self.decided.set_result(None)
        return True

    @property
    def told(self) -> str:
        """What takes over from what, for people."""
        old, new = self.versions
        return f"version {new} takes over from {old}" if new != old else "another instance takes over"

    def call_off(self, error: Exception) -> None:
        """Tell whoever asked that nothing comes of it."""
        if not self.decided.done():
            self.decided.set_exception(error)
