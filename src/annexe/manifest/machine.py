"""The machine this runs on, as a ``Machine``.

Reads the platform's names and looks library files up by name; loads none of them, for loading a library runs its code.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from pathlib import Path

from annexe.manifest.requirements import Machine

__all__ = ["this_machine"]

_OS_NAMES = {"darwin": "macos", "win32": "windows"}
_ARCH_NAMES = {"amd64": "x86_64", "arm64": "aarch64"}
_TRIPLE_ENDS = {
    "linux": ("unknown-linux-gnu", "unknown-linux-musl", "linux-gnu", "linux-musl", "linux"),
    "macos": ("apple-darwin", "macos"),
    "windows": ("pc-windows-msvc", "windows"),
}
_LOADER_CONFIG = Path("/etc/ld.so.conf.d")
_LIB_FOLDERS = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")


def this_machine(*, host: str, python: str = "", libs: Iterable[str] = ()) -> Machine:
    """Describe this machine.

    Args:
        host: Version of annexe.
        python: Version of the interpreter that the plugin gets; empty where that is chosen at its launch.
        libs: File names of the native libraries to look for.
    """
    os_name = _OS_NAMES.get(sys.platform, sys.platform)
    arch = _ARCH_NAMES.get(platform.machine().lower(), platform.machine().lower())
    return Machine(
        os=os_name,
        arch=arch,
        python=python,
        host=host,
        libs=_found(frozenset(libs)),
        targets=tuple(f"{arch}-{end}" for end in _TRIPLE_ENDS.get(os_name, ())),
    )


def _found(names: frozenset[str]) -> frozenset[str]:
    if not names:
        return names
    folders = [Path(folder) for folder in _LIB_FOLDERS]
    for config in sorted(_LOADER_CONFIG.glob("*.conf")):
        folders += [Path(line) for line in config.read_text(errors="replace").splitlines() if line.startswith("/")]
    return frozenset(name for name in names if any((folder / name).exists() for folder in folders))
