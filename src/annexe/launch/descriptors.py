"""The ends of what a plugin and its host share: one of each for the host, the other for the plugin.

Who makes them has two stacks: one unwinds when the launch fails, the other when the plugin has its ends.
"""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack, suppress

from annexe.channel.memory_files import MemoryFiles

__all__ = ["channel_ends", "let_descriptors_pass", "memory_ends", "pipe_ends"]

_IN_THE_PLUGIN = (4, 5)  # after the channel; see the stub

_SO_PASSRIGHTS = 83  # Linux 6.16


def channel_ends(ours_in: ExitStack, theirs_in: ExitStack) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a channel; the host's takes no descriptors from the other side, where the kernel can refuse them."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours_in.callback(ours.close)
    theirs_in.callback(theirs.close)
    let_descriptors_pass(ours, False)
    return ours, theirs


def let_descriptors_pass(sock: socket.socket, may_pass: bool) -> None:
    """Say whether the other side may send descriptors. No effect on older kernels; the host never looks for those of a plugin anyway."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, int(may_pass))


def memory_ends(size_bytes: int, ours_in: ExitStack, theirs_in: ExitStack) -> tuple[MemoryFiles | None, tuple[int, ...]]:
    """Return memory to be shared with a plugin, and the descriptors that it has to get; none where there can be none."""
    files = MemoryFiles.make(size_bytes)
    if files is None or files.descriptors is None:
        return None, ()
    ours_in.callback(files.close)
    theirs_in.callback(files.close_descriptors)
    files.told = _IN_THE_PLUGIN
    return files, files.descriptors


def pipe_ends(reader_in: ExitStack, writer_in: ExitStack, *, blocking: bool = False) -> tuple[int, int]:
    """Return a pipe's ends, each to be closed with one of the stacks; whether the reader blocks is said."""
    reader, writer = os.pipe()
    reader_in.callback(os.close, reader)
    writer_in.callback(os.close, writer)
    os.set_blocking(reader, blocking)
    return reader, writer
