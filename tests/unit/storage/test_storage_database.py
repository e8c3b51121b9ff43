"""The database file: its mode, its discipline, and what happens when it cannot be used."""

from __future__ import annotations

import os
import shlex
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from annexe.errors import StorageError
from annexe.storage import migrate
from annexe.storage.database import Database
from annexe.storage.failures import sealing
from annexe.storage.kv import KvStore
from annexe.storage.mend import main, mend
from annexe.storage.migrate import Schema
from annexe.storage.store import Store
from annexe.storage.tables import HOST_SCHEMA, KV_SCHEMA

SCHEMAS = [pytest.param(HOST_SCHEMA, id="host"), pytest.param(KV_SCHEMA, id="kv")]


def pragma(database: Database, name: str) -> object:
    return database.driver.execute(f"PRAGMA {name}").fetchone()[0]


def test_database_new_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    old_umask = os.umask(0)
    try:
        store = Store.open(tmp_path / "state")
    finally:
        os.umask(old_umask)
    store.plugin_state.set_enabled("a", False)

    files = list((tmp_path / "state").iterdir())
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in files}
    store.close()

    assert modes == {"annexe.sqlite3": 0o600, "annexe.sqlite3-wal": 0o600, "annexe.sqlite3-shm": 0o600}
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_database_open_to_others_is_closed_to_them(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    (tmp_path / "annexe.sqlite3").chmod(0o644)

    Store.open(tmp_path).close()

    assert stat.S_IMODE((tmp_path / "annexe.sqlite3").stat().st_mode) == 0o600


def test_database_behind_a_link_is_refused(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    victim.chmod(0o644)
    (tmp_path / "kv.sqlite3").symlink_to(victim)

    with pytest.raises(StorageError) as caught:
        KvStore.open(tmp_path / "kv.sqlite3")

    assert caught.value.data["file"] == str(tmp_path / "kv.sqlite3")
    assert victim.read_text() == "precious"
    assert stat.S_IMODE(victim.stat().st_mode) == 0o644


@pytest.mark.parametrize("schema", SCHEMAS)
def test_database_open_keeps_its_promises_in_pragmas(tmp_path: Path, schema: Schema) -> None:
    database = Database.open(tmp_path / "x.sqlite3", schema=schema)

    found = {name: pragma(database, name) for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")}
    database.close()

    assert found == {"journal_mode": "wal", "synchronous": 1, "foreign_keys": 1, "busy_timeout": 10000}


def test_database_transaction_holds_the_write_lock_from_its_start(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    database = Database.open(tmp_path / "annexe.sqlite3", schema=HOST_SCHEMA)
    other = sqlite3.connect(tmp_path / "annexe.sqlite3", timeout=0, isolation_level=None)

    with database.begin(), pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")

    other.close()
    database.close()
    store.close()


def test_database_block_that_raises_is_rolled_back(store: Store) -> None:
    database = store._database
    with pytest.raises(KeyError), database.begin() as connection:
        connection.exec_driver_sql("INSERT INTO plugin_state (plugin, enabled, failures) VALUES ('a', 1, 0)")
        raise KeyError

    assert store.plugin_state.all() == []


@pytest.mark.parametrize("schema", SCHEMAS)
def test_database_migrated_equals_the_declared_tables(tmp_path: Path, schema: Schema) -> None:
    database = Database.open(tmp_path / "x.sqlite3", schema=schema)
    with database.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, schema.metadata)
        indexes = {row[0]: row[1] for row in connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'index'")}
    database.close()

    assert differences == []
    if schema is KV_SCHEMA:
        assert "WHERE expires_at IS NOT NULL" in indexes["ix_kv_expires_at_plugin"]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_migrations_lead_to_the_revision_the_code_knows(schema: Schema) -> None:
    script = ScriptDirectory(str(migrate._MIGRATIONS), version_locations=[str(migrate._MIGRATIONS / schema.name)])

    assert script.get_heads() == [schema.revision]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_migrations_can_be_undone_and_done_again(tmp_path: Path, schema: Schema) -> None:
    database = Database.open(tmp_path / "x.sqlite3", schema=schema)
    with database.begin() as connection:
        config = Config(attributes={"connection": connection, "metadata": schema.metadata})
        config.set_main_option("path_separator", "newline")
        config.set_main_option("script_location", str(migrate._MIGRATIONS))
        config.set_main_option("version_locations", str(migrate._MIGRATIONS / schema.name))
        command.downgrade(config, "base")
        left = [
            row[0] for row in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
        ]
        command.upgrade(config, "head")
        differences = compare_metadata(MigrationContext.configure(connection), schema.metadata)
    database.close()

    assert left == ["alembic_version"]
    assert differences == []


def test_database_up_to_date_is_opened_without_alembic(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    code = f"""
import sys, pathlib
from annexe.storage.store import Store
Store.open(pathlib.Path({str(tmp_path)!r})).close()
print(sorted(name for name in sys.modules if name.split(".")[0] in ("alembic", "mako")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("found", ["0003", "9999", "1a2b3c4d5e6f"])
def test_database_newer_than_the_code_is_refused(tmp_path: Path, found: str) -> None:
    Store.open(tmp_path).close()
    with sqlite3.connect(tmp_path / "annexe.sqlite3") as driver:
        driver.execute("UPDATE alembic_version SET version_num = ?", (found,))
    driver.close()

    with pytest.raises(StorageError) as caught:
        Store.open(tmp_path)

    assert caught.value.data["found_revision"] == found
    assert caught.value.data["known_revision"] == HOST_SCHEMA.revision
    assert caught.value.data["file"] == str(tmp_path / "annexe.sqlite3")
    assert found in str(caught.value)
    assert HOST_SCHEMA.revision in str(caught.value)


def test_database_in_a_folder_with_odd_name_is_opened(tmp_path: Path) -> None:
    folder = tmp_path / "a b%20;c:d?mode=memory#x"

    Store.open(folder).close()
    store = Store.open(folder)
    store.close()

    assert (folder / "annexe.sqlite3").is_file()


def test_database_of_garbage_is_refused_with_the_mending_command(tmp_path: Path) -> None:
    path = tmp_path / "annexe.sqlite3"
    path.write_bytes(b"this is no database at all" * 1000)

    with pytest.raises(StorageError) as caught:
        Store.open(tmp_path)

    assert caught.value.data["reason"] == "damaged"
    assert caught.value.data["file"] == str(path)
    assert str(path) in str(caught.value)
    assert caught.value.data["command"] in str(caught.value)
    assert caught.value.data["command"] == f"{sys.executable} -m annexe.storage.mend {path}"


def overwrite_page(path: Path, number: int) -> None:
    with path.open("r+b") as file:
        file.seek((number - 1) * 4096)
        file.write(b"\xff" * 4096)


def test_database_damaged_within_is_mended_by_the_command(tmp_path: Path) -> None:
    path = tmp_path / "annexe.sqlite3"
    store = Store.open(tmp_path)
    for index in range(500):
        store.plugin_state.quarantine(f"plugin-{index}", reason="x" * 200, now_s=1.0)
    store.close()
    overwrite_page(path, path.stat().st_size // 4096 // 2)

    store = Store.open(tmp_path)
    with pytest.raises(StorageError) as caught:
        store.plugin_state.all()
    store.close()
    assert caught.value.data["reason"] == "damaged"

    done = subprocess.run(shlex.split(caught.value.data["command"]), capture_output=True, text=True, check=True)
    mended = Store.open(tmp_path)
    left = mended.plugin_state.all()
    mended.close()
    assert 400 < len(left) < 500
    assert f"{len(left)} of plugin_state" in done.stdout
    assert Path(f"{path}.damaged").is_file()


def test_key_value_database_mended_counts_what_is_left(kv_path: Path) -> None:
    store = KvStore.open(kv_path)
    with store.begin(now_s=0.0) as transaction:
        space = transaction.space("a", quota_bytes=10**9)
        for index in range(500):
            space.set(f"key-{index}", b"v" * 500)
    store.close()
    overwrite_page(kv_path, kv_path.stat().st_size // 4096 // 2)

    left = mend(kv_path, schema=KV_SCHEMA)["kv"]

    store = KvStore.open(kv_path)
    with store.begin(now_s=0.0) as transaction:
        usage = transaction.usage("a")
        keys = transaction.space("a", quota_bytes=0).list(prefix="", limit=1000, after=None).keys
    store.close()
    assert 400 < left < 500
    assert usage.keys == len(keys) == left
    assert usage.bytes == sum(len(key) + 500 for key in keys)


def test_mending_garbage_makes_an_empty_database_and_keeps_the_garbage(tmp_path: Path) -> None:
    path = tmp_path / "annexe.sqlite3"
    path.write_bytes(b"this is no database at all" * 1000)

    told = main([str(path)])

    assert "0 of grants" in told
    assert Path(f"{path}.damaged").read_bytes() == b"this is no database at all" * 1000
    with pytest.raises(StorageError) as caught:
        mend(path, schema=HOST_SCHEMA)
    assert "in the way" in str(caught.value)
    store = Store.open(tmp_path)
    assert store.grants.of("a") == []
    store.close()


@pytest.mark.parametrize("name", ["annexe.sqlite3", "other.sqlite3"])
def test_mending_what_is_not_there_or_not_ours_says_how_to_use_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "other.sqlite3").write_bytes(b"")

    assert main([str(tmp_path / name)]).startswith("usage: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.sqlite3"]


def test_database_full_refuses_and_keeps_what_it_had(tmp_path: Path) -> None:
    store = Store.open(tmp_path, max_bytes=150_000)
    written = 0
    with pytest.raises(StorageError) as caught:
        for written in range(10_000):
            store.plugin_state.quarantine(f"plugin-{written}", reason="x" * 1000, now_s=1.0)

    assert caught.value.data == {"file": str(tmp_path / "annexe.sqlite3"), "reason": "full"}
    assert len(store.plugin_state.all()) == written > 50
    store.close()


def test_database_held_by_another_names_the_lock(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    store._database.driver.execute("PRAGMA busy_timeout = 0")
    other = sqlite3.connect(tmp_path / "annexe.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(StorageError) as caught:
        store.plugin_state.set_enabled("a", True)

    other.close()
    store.close()
    assert caught.value.data["reason"] == "locked"
    assert "fuser -v" in str(caught.value)


def test_database_without_write_ahead_log_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A database in memory stands for a file system that cannot have one.
    monkeypatch.chdir(tmp_path)

    with pytest.raises(StorageError) as caught:
        Database.open(Path(":memory:"), schema=HOST_SCHEMA)

    assert caught.value.data == {"file": ":memory:", "reason": "failed"}
    assert "write-ahead log" in str(caught.value)


def test_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageError) as caught:
        Store.open(tmp_path / "file" / "state")

    assert caught.value.data == {"file": str(tmp_path / "file" / "state" / "annexe.sqlite3"), "reason": "failed"}


def test_sealing_lets_errors_of_others_through(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), sealing(tmp_path):
        raise ZeroDivisionError
