"""What a fork server was made from: whether it can still serve is a comparison.

Blocking: it looks at the files that are mounted, for a mount stays with the file that it was made of.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from annexe.launch.preparation import Prepared

__all__ = ["Basis", "basis_of", "own_modules"]

_RUNTIME_PACKAGES = frozenset({"annexe_sdk", "msgspec"})


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """All that a fork server was made from; it is of use as long as that is the same.

    Attributes:
        prepared: As for a launch, without what differs between instances.
        files: Device and inode of each place, in order; None where there is none. A mount stays with the file that it was made of.
        own: Names of modules that the plugin may have versions of its own of.
    """

    prepared: Prepared
    files: tuple[tuple[int, int] | None, ...]
    own: frozenset[str]


def basis_of(prepared: Prepared) -> Basis:
    """Return what a fork server for this launch would be made from. Blocking."""
    request = replace(prepared.request, instance="")
    return Basis(
        prepared=replace(prepared, request=request),
        files=tuple(_file_at(place.path) for place in prepared.places),
        own=own_modules(prepared.folder, prepared.python.packages),
    )


def own_modules(folder: Path, packages: Iterable[Path]) -> frozenset[str]:
    """Return the modules that a plugin may have versions of its own of: what lies in its folder, and those of the runtime in its packages.

    Its folder comes before the standard library on ``sys.path``, its packages come after that and before the runtime folder.
    """
    in_packages = {name for place in packages for name in _modules_in(place)}
    return frozenset(_modules_in(folder)) | (in_packages & _RUNTIME_PACKAGES)


def _modules_in(folder: Path) -> set[str]:
    try:
        return {name.partition(".")[0] for name in os.listdir(folder)}  # noqa: PTH208 - names only
    except OSError:
        return set()


def _file_at(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - for every place at each start
    except OSError:
        return None
    return found.st_dev, found.st_ino
