"""What a person can do about it, as text that can be pasted where it is read."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import final

from annexe.host.state_dir import default_state_dir

__all__ = ["Advice", "command"]


def command(words: str, state_dir: Path) -> str:
    """Return a command of ``annexe`` for the host of a state directory."""
    where = state_dir.absolute()
    return f"annexe {words}" if where == default_state_dir() else f"annexe {words} --state {shlex.quote(str(where))}"


@final
class Advice:
    """How rights are granted in one host.

    Args:
        state_dir: The host's.
        policy: Its policy file; None where grants are stored.
    """

    def __init__(self, state_dir: Path, policy: Path | None) -> None:
        self._state_dir = state_dir
        self._policy = policy

    def scan(self) -> str:
        """Return what to do where something is not installed."""
        return f"put what is missing into a folder of plugins, then: {command('scan', self._state_dir)}"

    def grant_command(self, plugin: str, *, to_content: bool = False) -> str:
        """Return what grants a plugin all that it asks for."""
        if self._policy is not None:
            return f"the rights of [plugins.{plugin}] in {self._policy}"
        return command(f"grant {plugin} --content" if to_content else f"grant {plugin}", self._state_dir)

    def grant(self, plugin: str, rights: Iterable[str], *, to_content: bool = False) -> str:
        """Return what to do so that a plugin has these rights, as the end of a sentence."""
        if self._policy is not None:
            listed = json.dumps(sorted(rights), ensure_ascii=False)
            return f"add to {self._policy}, under [plugins.{plugin}]: rights = {listed}; then start the host again"
        return f"grant with: {self.grant_command(plugin, to_content=to_content)}"
