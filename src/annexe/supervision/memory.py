"""What is remembered of a plugin's failures beyond the host's own life."""

from __future__ import annotations

from abc import ABC, abstractmethod

__all__ = ["FailureMemory"]


class FailureMemory(ABC):
    """Where failures are remembered beyond the host's own life."""

    @abstractmethod
    def failed(self, plugin: str, *, reason: str, count: int) -> None:
        """Remember a failure, the ``count``-th in a row. Called by the supervisor; must not block."""

    @abstractmethod
    def recovered(self, plugin: str) -> None:
        """Remember that the plugin is well again."""

    @abstractmethod
    def quarantined(self, plugin: str, *, reason: str) -> None:
        """Remember a quarantine."""

    @abstractmethod
    def released(self, plugin: str) -> None:
        """Remember that a person lifted the quarantine."""
