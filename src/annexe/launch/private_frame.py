"""What the stub is told before anything of a plugin runs.

Pure: one value in, bytes out.

* u32 big-endian length, then a marshalled dict, in the version that every Python understands.

Source: docs/adr/0030-stub-and-private-frame.md.
"""

from __future__ import annotations

import marshal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, final

__all__ = ["PrivateFrame"]

_MARSHAL_VERSION = 2
_MAX_BYTES = 65536


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateFrame:
    """The orders for one launch.

    Attributes:
        host_pid: Whose child it must be; 0 where it is bubblewrap's.
        limits: Kernel limits by their name in the ``resource`` module.
        nice: Added to its niceness.
        landlock: From ``sandbox.landlock.ruleset``; None: no Landlock.
        filters: Programs of ``sandbox.seccomp``, in loading order; none: no filter.
        granted: Real paths that were granted, each with the device and inode that must be found there.
        egress: From ``launch.egress``, for a plugin that was granted network; None: it gets no way out.
        thread_stack_bytes: Stack of each Python thread.
        program: What to exec; empty for a Python plugin.
        folder: The plugin's folder, first on ``sys.path``.
        libraries: Added at the end of ``sys.path``.
        runner: Module whose ``main(fd, entry)`` serves a Python plugin.
        entry: The plugin's module.
        memory: Numbers of both memory files, where it inherits any.
        is_trial: Put the walls up, then exit with status 0.
        serves: Become a fork server: ``modules`` to be imported, from the ``libraries`` after the standard library, except those of names
            that are the plugin's ``own``; ``private``: folders to be emptied when no fork is left; ``fork``: the fields of what its forks
            are told. None: run the plugin.
    """

    host_pid: int
    limits: Mapping[str, int]
    nice: int = 0
    landlock: Mapping[str, Any] | None = None
    filters: Sequence[bytes] = ()
    granted: Sequence[tuple[str, int, int]] = ()
    egress: Mapping[str, Any] | None = None
    thread_stack_bytes: int = 0
    program: Sequence[str] = ()
    folder: str = ""
    libraries: Sequence[str] = ()
    runner: str = ""
    entry: str = ""
    memory: Sequence[int] = ()
    is_trial: bool = False
    serves: Mapping[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def packed(self) -> bytes:
        """Return the frame.

        Raises:
            ValueError: It is longer than the stub would read.
        """
        body = marshal.dumps(self.as_dict(), _MARSHAL_VERSION)
        if len(body) > _MAX_BYTES:
            raise ValueError(f"expected a private frame of at most {_MAX_BYTES} bytes, got {len(body)}")
        return len(body).to_bytes(4, "big") + body
