"""Finding plugins."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from annexe.errors import ManifestError
from annexe.manifest import Discovered, Discovery


def make_plugin(folder: Path, plugin: str, *, version: str = "1.0.0", provides: str = "") -> Path:
    folder.mkdir(parents=True)
    (folder / "main.py").write_text("raise SystemExit('never imported')\n")
    (folder / "plugin.toml").write_text(
        f'manifest-version = 1\n[plugin]\nid = "{plugin}"\nversion = "{version}"\n[runtime]\nkind = "python"\nentry = "main"\n{provides}'
    )
    return folder


def discover(folders: list[Path]) -> tuple[Discovered, ...]:
    return Discovery(folders).scan()


def problems_of(plugin: Discovered) -> list[str]:
    assert isinstance(plugin.error, ManifestError)
    problems = plugin.error.data["problems"]
    assert isinstance(problems, list)
    return problems


def test_discover_lists_plugins_of_all_folders_in_order(tmp_path: Path) -> None:
    make_plugin(tmp_path / "b" / "two", "two")
    make_plugin(tmp_path / "b" / "one", "one")
    single = make_plugin(tmp_path / "single", "single")
    make_plugin(tmp_path / "b" / ".hidden", "hidden")
    (tmp_path / "b" / "no-plugin").mkdir()
    (tmp_path / "b" / "file.txt").touch()
    found = discover([single, tmp_path / "b"])
    assert [(plugin.id, plugin.folder.name, plugin.error) for plugin in found] == [
        ("single", "single", None),
        ("one", "one", None),
        ("two", "two", None),
    ]


def test_discover_broken_plugin_is_listed_and_stops_no_other(tmp_path: Path) -> None:
    make_plugin(tmp_path / "a", "good")
    make_plugin(tmp_path / "b", "Bad")
    make_plugin(tmp_path / "c", "no-entry")
    (tmp_path / "c" / "main.py").unlink()
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "plugin.toml").mkdir()
    good, bad_id, no_entry, no_file = discover([tmp_path])
    assert good.error is None
    assert bad_id.id == "b"
    assert problems_of(bad_id)[0].startswith("line 3: plugin.id: expected a plugin id")
    assert no_entry.id == "no-entry"
    assert no_entry.manifest is None
    assert problems_of(no_entry)[0].startswith("line 7: runtime.entry: expected the file 'main.py'")
    assert problems_of(no_file) == ["expected a file that can be read, got: Is a directory"]


def test_discover_missing_folder_is_listed_with_its_error(tmp_path: Path) -> None:
    make_plugin(tmp_path / "x" / "a", "good")
    missing, good = discover([tmp_path / "gone", tmp_path / "x"])
    assert problems_of(missing) == ["expected a plugin or a folder of plugins, which cannot be read: No such file or directory"]
    assert good.id == "good"


def test_discover_duplicate_ids_are_both_refused_naming_both_folders(tmp_path: Path) -> None:
    one = make_plugin(tmp_path / "x" / "one", "same")
    two = make_plugin(tmp_path / "y" / "two", "same", version="2.0.0")
    make_plugin(tmp_path / "y" / "zzz", "other")
    first, second, other = discover([tmp_path / "x", tmp_path / "y"])
    for plugin in (first, second):
        assert problems_of(plugin) == [f"expected the id 'same' in one folder, got it in {one} and {two}"]
        assert plugin.error is not None
        assert plugin.error.plugin == "same"
    assert other.error is None


def test_discover_one_folder_reached_twice_is_listed_once(tmp_path: Path) -> None:
    folder = make_plugin(tmp_path / "x" / "one", "one")
    (tmp_path / "x" / "zlink").symlink_to(folder)
    found = discover([tmp_path / "x", folder])
    assert [(plugin.folder, plugin.error) for plugin in found] == [(folder, None)]


def test_discovery_reads_again_only_what_changed(tmp_path: Path) -> None:
    one, two = make_plugin(tmp_path / "one", "one"), make_plugin(tmp_path / "two", "two")
    discovery = Discovery([tmp_path])
    before = discovery.scan()
    (two / "plugin.toml").write_text((two / "plugin.toml").read_text().replace("1.0.0", "1.0.1"))
    os.utime(two / "plugin.toml", ns=(1, 1))
    after = discovery.scan()
    assert after[0].manifest is before[0].manifest
    assert after[1].manifest is not None
    assert after[1].manifest.version == "1.0.1"
    shutil.rmtree(one)
    assert [plugin.id for plugin in discovery.scan()] == ["two"]


@pytest.mark.parametrize(
    "provides",
    [
        pytest.param('[provides.hook-specs]\n"one.hook" = { schema = "a.json", kind = "filter" }\n', id="hook"),
        pytest.param(
            '[provides.services]\n"plain" = { version = "1.0.0" }\n"words" = { version = "1.0.0", schema = "a.json" }\n', id="service"
        ),
    ],
)
def test_discovery_reads_schemas_again_that_plugin_toml_names(tmp_path: Path, provides: str) -> None:
    schema = make_plugin(tmp_path / "one", "one", provides=provides) / "a.json"
    schema.write_text("{}")
    discovery = Discovery([tmp_path])
    [before] = discovery.scan()
    assert discovery.scan() == (before,)
    schema.write_text('{"title": "another"}')
    [after] = discovery.scan()
    assert (after.error, after == before) == (None, False)


def test_discovery_reads_a_broken_plugin_again(tmp_path: Path) -> None:
    folder = make_plugin(tmp_path / "one", "one")
    (folder / "main.py").rename(folder / "other.py")
    discovery = Discovery([tmp_path])
    assert discovery.scan()[0].error is not None
    (folder / "other.py").rename(folder / "main.py")
    assert discovery.scan()[0].error is None


def test_discovery_duplicate_that_goes_away_frees_the_other(tmp_path: Path) -> None:
    make_plugin(tmp_path / "one", "same")
    two = make_plugin(tmp_path / "two", "same")
    discovery = Discovery([tmp_path])
    assert all(plugin.error for plugin in discovery.scan())
    shutil.rmtree(two)
    assert [plugin.error for plugin in discovery.scan()] == [None]


@pytest.mark.timeout(60)
def test_discovery_scans_1000_unchanged_plugins_far_faster_than_new_ones(tmp_path: Path) -> None:
    hooks = "".join(f'"chat.hook_{number}" = {{ revision = 1, priority = {number} }}\n' for number in range(10))
    for number in range(1000):
        make_plugin(tmp_path / f"p{number}", f"p{number}", provides=f"[provides.hooks]\n{hooks}")
    discovery = Discovery([tmp_path])

    started_s = time.process_time()
    assert len(discovery.scan()) == 1000
    cold_s = time.process_time() - started_s
    started_s = time.process_time()
    assert len(discovery.scan()) == 1000
    again_s = time.process_time() - started_s
    assert again_s < cold_s / 2


def test_discover_folder_whose_name_is_not_utf8_is_listed_by_an_escaped_one(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(folder)
    (Path(os.fsdecode(folder)) / "plugin.toml").write_text("x")
    (found,) = discover([tmp_path])
    assert found.id == "\\udcff"
    assert isinstance(found.error, ManifestError)
    assert found.error.message.encode() and problems_of(found)
