"""Open stores that are closed again, whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from annexe.storage.kv import KvStore
from annexe.storage.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def kv_path(tmp_path: Path) -> Path:
    return tmp_path / "kv.sqlite3"


@pytest.fixture
def kv(kv_path: Path) -> Iterator[KvStore]:
    opened = KvStore.open(kv_path)
    yield opened
    opened.close()
