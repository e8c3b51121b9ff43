"""A memory of failures that lasts as long as the test."""

from __future__ import annotations

from typing import final

from annexe.supervision.memory import FailureMemory

__all__ = ["FakeFailureMemory"]


@final
class FakeFailureMemory(FailureMemory):
    """Failures and quarantines in dictionaries.

    Attributes:
        failures: Reasons of the failures in a row, by plugin; oldest first.
        quarantines: Why a plugin is in quarantine, by plugin.
    """

    def __init__(self) -> None:
        self.failures: dict[str, list[str]] = {}
        self.quarantines: dict[str, str] = {}

    def failed(self, plugin: str, *, reason: str, count: int) -> None:
        if count == 1:
            self.failures.pop(plugin, None)
        self.failures.setdefault(plugin, []).append(reason)

    def recovered(self, plugin: str) -> None:
        self.failures.pop(plugin, None)

    def quarantined(self, plugin: str, *, reason: str) -> None:
        self.quarantines[plugin] = reason

    def released(self, plugin: str) -> None:
        self.failures.pop(plugin, None)
        self.quarantines.pop(plugin, None)
