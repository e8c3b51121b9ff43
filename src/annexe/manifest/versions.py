"""Versions and version ranges.

Pure. Versions are semantic versions (semver.org, strict); ranges are comma-separated comparisons (``>=1,<2``).

* A pre-release satisfies no range: whoever wants one names it exactly (``==1.2.0-beta.1``). The empty range admits everything.
* Build metadata (``+...``) never decides.
"""

from __future__ import annotations

import re

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

__all__ = ["is_in_range", "is_range", "is_version"]

_MAX_CHARS = 128
_NUMBER = r"(?:0|[1-9][0-9]*)"
_PRE_RELEASE_PART = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_VERSION = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}"
    rf"(?:-{_PRE_RELEASE_PART}(?:\.{_PRE_RELEASE_PART})*)?"
    r"(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
)


def is_version(text: str) -> bool:
    """Say whether this is a semantic version of at most 128 characters."""
    return len(text) <= _MAX_CHARS and _VERSION.fullmatch(text) is not None


def is_range(text: str) -> bool:
    """Say whether this is a version range: one or more comparisons joined by commas, at most 128 characters."""
    # "===" compares texts, not versions: nothing that orders versions may depend on it.
    if not text.strip() or len(text) > _MAX_CHARS or "===" in text:
        return False
    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        return False
    return True


def is_in_range(version: str, allowed: str) -> bool:
    """Say whether a version satisfies a range.

    Args:
        version: A semantic version, or a Python version as ``platform.python_version`` gives it.
        allowed: A range as ``is_range`` accepts, or empty for "any version".
    """
    if not allowed or allowed == f"=={version}":
        return True
    release = version.partition("+")[0]
    # A hyphen means pre-release in semver but may mean post-release to `packaging`, so it is judged here.
    if "-" in release:
        return False
    try:
        return SpecifierSet(allowed, prereleases=False).contains(Version(release))
    except InvalidVersion:
        return False
