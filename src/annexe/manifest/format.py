"""Format versions of plugin.toml, and how an older one becomes the current one.

Pure. The format's version stands in the key ``manifest-version``. A host reads every version up to its own: each step below turns a
document of one version into the next. Version 1 is the only one so far, so there is no step yet.

* A step may change the document it is given; it may move, rename or add keys; it checks nothing, the reader of the current format does.
* A newer version than this host's is refused before anything else is judged.

Source: feature DI9.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from annexe.manifest.reader import Problems, describe

__all__ = ["CURRENT_FORMAT", "VERSION_KEY", "Step", "migrate"]

CURRENT_FORMAT = 1
VERSION_KEY = "manifest-version"

Step = Callable[[dict[str, object]], dict[str, object]]
_STEPS: Mapping[int, Step] = {}  # by the version that a step starts from


def migrate(
    document: dict[str, object], problems: Problems, *, current: int = CURRENT_FORMAT, steps: Mapping[int, Step] = _STEPS
) -> dict[str, object] | None:
    """Bring a parsed document to the current format.

    Args:
        document: The document, fresh from the parser; the steps may change it.
        problems: Where to note a version that cannot be read.
        current: Newest version that can be read.
        steps: One for each version from 1 up to ``current`` - 1.

    Returns:
        A document of the current format, ``VERSION_KEY`` included; None when the version cannot be read.
    """
    found = document.get(VERSION_KEY)
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        got = "nothing: the key is required" if found is None else describe(found)
        problems.add((VERSION_KEY,), f"expected a format version from 1 to {current}, got {got}")
        return None
    if found > current:
        problems.add(
            (VERSION_KEY,),
            f"expected a format version up to {current}, which is what this host reads, got {describe(found)}; the host must be upgraded",
        )
        return None
    for version in range(found, current):
        document = steps[version](document)
        document[VERSION_KEY] = version + 1
    return document
