"""What holds for all tests."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
# These start plugins or check rights, and both come out differently for root, where each plugin has a uid of its own, and for others.
_BOTH_USERS = (_HERE / "process", _HERE / "security")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is run as root and as an unprivileged user.

    Raises:
        pytest.UsageError: A test is marked so outside of the folders in which the gate looks for such tests.
    """
    for item in items:
        if any(folder in item.path.parents for folder in _BOTH_USERS):
            if item.get_closest_marker("any_user") is None:
                item.add_marker(pytest.mark.both_users)
        elif item.get_closest_marker("both_users") is not None:
            raise pytest.UsageError(f"{item.nodeid} is marked both_users, and would be run as one: the gate runs {_BOTH_USERS} as both")


def pytest_collection_finish() -> None:
    """Take what is there now out of the collector's rounds: all tests, all modules.

    Many tests have the collector look for what a host left, which would go through all of that each time and take longer than the test.
    Who thaws it (``gc.unfreeze``) makes all tests after it several times as long.
    """
    gc.collect()
    gc.freeze()
