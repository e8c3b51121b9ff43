"""The two memory files of one connection: made by the host, sealed, mapped by both sides.

Order is what makes them safe: the host maps each file first, then seals it.

* Neither can grow, shrink or get another seal: what the host has mapped stays there, so that touching it never ends the host (SIGBUS).
* The file to the plugin takes no new writable map and no write: the plugin can only read it. The host's map is older than the seal.
* The file from the plugin is mapped for reading alone.
* Neither can be executed, where the kernel knows how to forbid it (Linux 6.3), nor opened anew by another user.
* Pages exist once they are touched; a connection that uses none costs two descriptors and two entries in a table.

Source: docs/reference/protocol.md, "Shared memory"; memfd_create(2), F_ADD_SEALS in fcntl(2); ADR-0085.
"""

from __future__ import annotations

import mmap
import os
import sys
from typing import final

__all__ = ["MemoryFiles"]

_F_ADD_SEALS = 1033
_SEAL, _SHRINK, _GROW, _FUTURE_WRITE = 0x01, 0x02, 0x04, 0x10
_NOEXEC_SEAL = 0x08  # MFD_NOEXEC_SEAL


@final
class MemoryFiles:
    """Both files, from the host's side. Made by ``make``.

    Attributes:
        size_bytes: Of each.
        to_plugin: Map of the file that the host writes.
        from_plugin: Map of the file that the plugin writes.
        descriptors: Of both, in this order, for the plugin to inherit; None after ``close_descriptors``.
        told: Their numbers in the plugin.
    """

    def __init__(self, size_bytes: int, to_plugin: mmap.mmap, from_plugin: mmap.mmap, descriptors: tuple[int, int]) -> None:
        self.size_bytes = size_bytes
        self.to_plugin = to_plugin
        self.from_plugin = from_plugin
        self.descriptors: tuple[int, int] | None = descriptors
        self.told = descriptors

    @classmethod
    def make(cls, size_bytes: int, *, platform: str = sys.platform) -> MemoryFiles | None:
        """Make both; None where the system cannot make them safe, or not now, and where ``size_bytes`` is 0."""
        if platform != "linux" or size_bytes == 0:
            return None
        opened: list[int] = []
        try:
            opened.append(_make_file("annexe-to-plugin", size_bytes))
            opened.append(_make_file("annexe-from-plugin", size_bytes))
            to_plugin = _map(opened[0], size_bytes, mmap.PROT_READ | mmap.PROT_WRITE)
            _seal(opened[0], _GROW | _SHRINK | _FUTURE_WRITE | _SEAL)
            from_plugin = _map(opened[1], size_bytes, mmap.PROT_READ)
            _seal(opened[1], _GROW | _SHRINK | _SEAL)
        except (OSError, ValueError):  # no memory, no descriptors, an old kernel: everything can travel in the frames
            for descriptor in opened:
                os.close(descriptor)
            return None
        return cls(size_bytes, to_plugin, from_plugin, (opened[0], opened[1]))

    def close_descriptors(self) -> None:
        """Close the host's descriptors; the maps stay. Called when the plugin has inherited them. Idempotent."""
        descriptors, self.descriptors = self.descriptors, None
        for descriptor in descriptors or ():
            os.close(descriptor)

    def close(self) -> None:
        """Give everything back. Idempotent."""
        self.close_descriptors()
        self.to_plugin.close()
        self.from_plugin.close()


def _make_file(name: str, size_bytes: int) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        descriptor = os.memfd_create(name, flags | _NOEXEC_SEAL)
    except OSError:  # older than Linux 6.3
        descriptor = os.memfd_create(name, flags)
    try:
        os.fchmod(descriptor, 0o600)
        os.ftruncate(descriptor, size_bytes)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _map(descriptor: int, size_bytes: int, protection: int) -> mmap.mmap:
    if sys.version_info >= (3, 13):  # before, each map keeps a descriptor of its own
        return mmap.mmap(descriptor, size_bytes, prot=protection, trackfd=False)
    return mmap.mmap(descriptor, size_bytes, prot=protection)


def _seal(descriptor: int, seals: int) -> None:
    import fcntl  # not on Windows

    fcntl.fcntl(descriptor, _F_ADD_SEALS, seals)
