"""How plugins are brought to life and taken down: strategies, and all that is particular to operating systems."""

from __future__ import annotations

from annexe.launch.environment import plugin_environment
from annexe.launch.in_process import InProcessStrategy
from annexe.launch.process import ProcessStrategy
from annexe.launch.python_env import PythonFinder
from annexe.launch.strategy import ExitStatus, LaunchedPlugin, LaunchRequest, LaunchStrategy, TreeReport
from annexe.launch.sweep import Swept
from annexe.launch.uids import UidAllocator

__all__ = [
    "ExitStatus",
    "InProcessStrategy",
    "LaunchRequest",
    "LaunchStrategy",
    "LaunchedPlugin",
    "ProcessStrategy",
    "PythonFinder",
    "Swept",
    "TreeReport",
    "UidAllocator",
    "plugin_environment",
]
