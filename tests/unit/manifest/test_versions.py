"""Versions and ranges."""

from __future__ import annotations

import pytest

from annexe.manifest.versions import is_in_range, is_range, is_version


@pytest.mark.parametrize("text", ["0.0.0", "1.2.0", "1.2.0-beta.1", "1.0.0-alpha.beta", "1.0.0-0a.x-y", "1.2.3+build.5", "1.0.0-rc.1+x-y"])
def test_version_that_is_semantic_is_accepted(text: str) -> None:
    assert is_version(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1.2",
        "1.2.3.4",
        "01.2.3",
        "v1.2.3",
        "1.2.3-",
        "1.2.3-01",
        "1.2.3-a..b",
        "1.2.3+",
        "1.2.3\n",
        "\uff11.2.3",
        "1.2." + "9" * 130,
    ],
)
def test_version_that_is_not_semantic_is_refused(text: str) -> None:
    assert not is_version(text)


@pytest.mark.parametrize("text", [">=1,<2", "~=1.2", "==1.2.0", "!=1.3", " >= 1 "])
def test_range_of_comparisons_is_accepted(text: str) -> None:
    assert is_range(text)


@pytest.mark.parametrize("text", ["", " ", "1.2", "^1.2", ">=x", "===1.0", ">1 <2", ">=" + "1" * 200])
def test_range_of_anything_else_is_refused(text: str) -> None:
    assert not is_range(text)


@pytest.mark.parametrize(
    ("version", "allowed", "expected"),
    [
        ("1.2.0", "", True),
        ("1.2.0-beta.1", "", True),
        ("1.2.0", ">=1,<2", True),
        ("2.0.0", ">=1,<2", False),
        ("1.2.0+build.7", "==1.2.0", True),
        ("1.2.0-beta.1", ">=1", False),
        ("1.2.0-beta.1", "==1.2.0-beta.1", True),
        ("1.2.0-3", ">=1", False),
        ("1.0.0-alpha.beta", ">=0.1", False),
        ("0.2.0rc1", ">=0.1", False),
        ("3.11.7", ">=3.11", True),
        ("unknown", ">=1", False),
    ],
)
def test_version_in_range(version: str, allowed: str, expected: bool) -> None:
    assert is_in_range(version, allowed) is expected
