"""Reading a plugin's folder."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from annexe.errors import ManifestError
from annexe.manifest import folder_digest, load_manifest, read_manifest
from annexe.manifest.digest import LEFT_OUT
from annexe.manifest.files import open_file

MINIMAL = """manifest-version = 1
[plugin]
id = "demo"
version = "1.0.0"
[runtime]
kind = "python"
entry = "demo.plugin"
"""


def make_plugin(folder: Path, manifest: str = MINIMAL) -> Path:
    (folder / "demo").mkdir(parents=True)
    (folder / "demo" / "plugin.py").write_text("raise SystemExit('never imported')\n")
    (folder / "plugin.toml").write_text(manifest)
    return folder


def problems_of(folder: Path) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        load_manifest(folder)
    problems = caught.value.data["problems"]
    assert isinstance(problems, list)
    return problems


def test_load_gives_manifest_resolved_folder_and_digest(tmp_path: Path) -> None:
    folder = make_plugin(tmp_path / "one")
    (tmp_path / "link").symlink_to(folder)
    loaded = load_manifest(tmp_path / "link")
    assert loaded.manifest.id == "demo"
    assert loaded.folder == folder
    assert loaded.digest == folder_digest(folder)


def test_load_package_entry_is_found(tmp_path: Path) -> None:
    folder = make_plugin(tmp_path, MINIMAL.replace("demo.plugin", "demo"))
    assert "inside the plugin's folder, got no such file" in problems_of(folder)[0]
    (folder / "demo" / "__init__.py").touch()
    assert load_manifest(folder).manifest.runtime.entry == "demo"


def test_load_missing_entry_is_reported_with_all_else(tmp_path: Path) -> None:
    folder = make_plugin(tmp_path, MINIMAL.replace("demo.plugin", "demo.plugni") + "streams = 0\n[config]\nschema = 'none.json'\n")
    assert problems_of(folder) == [
        "line 7: runtime.entry: expected the file 'demo/plugni.py' or 'demo/plugni/__init__.py' inside the plugin's folder, "
        "got no such file",
        "line 8: runtime.streams: expected a whole number from 1 to 64, got 0",
        "line 10: config.schema: expected the file 'none.json' inside the plugin's folder, got no such file",
    ]


def test_load_reads_the_schemas_of_services(tmp_path: Path) -> None:
    services = '[provides.services]\n"a" = { version = "1.0.0", schema = "a.json" }\n"b" = { version = "1.0.0" }\n'
    folder = make_plugin(tmp_path, MINIMAL + services)
    assert problems_of(folder) == [
        "line 9: provides.services.a.schema: expected the file 'a.json' inside the plugin's folder, got no such file"
    ]
    (folder / "a.json").write_text("{}")
    read = load_manifest(folder).manifest.provides.services
    assert (read["a"].schema_text, read["b"].schema_text) == (b"{}", b"")
    (folder / "a.json").write_bytes(b" " * 65_537)
    assert problems_of(folder) == ["line 9: provides.services.a.schema: expected a schema of at most 65536 bytes, got more"]
    rows = "".join(f'"s{number}" = {{ version = "1.0.0", schema = "a.json" }}\n' for number in range(33))
    (folder / "plugin.toml").write_text(f"{MINIMAL}[provides.services]\n{rows}")
    assert problems_of(folder) == ["line 8: provides.services: expected at most 32 services with a schema, got more"]


def test_load_bad_entry_is_reported_once(tmp_path: Path) -> None:
    assert len(problems_of(make_plugin(tmp_path, MINIMAL.replace("demo.plugin", "../demo")))) == 1


def test_load_entry_by_target_and_schemas_are_held_against_the_folder(tmp_path: Path) -> None:
    text = MINIMAL.replace("python", "binary").replace('"demo.plugin"', '{ x86_64-linux = "bin/a", aarch64-linux = "bin/b" }')
    folder = make_plugin(tmp_path, text + '[provides.hook-specs]\n"a.b" = { schema = "s.json", kind = "filter" }\n')
    (folder / "bin").mkdir()
    (folder / "bin" / "a").touch()
    problems = problems_of(folder)
    assert [problem.split(": expected")[0] for problem in problems] == [
        "line 7: runtime.entry.aarch64-linux",
        "line 9: provides.hook-specs.'a.b'.schema",
    ]


@pytest.mark.parametrize("target", ["outside.py", "missing.py", "plugin.py"])
def test_load_entry_that_links_elsewhere_is_refused(tmp_path: Path, target: str) -> None:
    folder = make_plugin(tmp_path / "one")
    (tmp_path / "outside.py").touch()
    (folder / "demo" / "plugin.py").unlink()
    # The last one is a link to itself.
    (folder / "demo" / "plugin.py").symlink_to(folder / "demo" / target if target == "plugin.py" else tmp_path / target)
    assert problems_of(folder) == [
        "line 7: runtime.entry: expected the file 'demo/plugin.py' or 'demo/plugin/__init__.py' inside the plugin's folder, "
        "got a link that leads elsewhere"
    ]


@pytest.mark.parametrize("target", ["real", "../DEMO/real"])
def test_load_entry_by_a_link_to_something_of_its_own_is_fine(tmp_path: Path, target: str) -> None:
    folder = make_plugin(tmp_path / "one")
    (folder / "demo").rename(folder / "real")
    (folder / "demo").symlink_to(target.replace("DEMO", folder.name))
    assert load_manifest(folder).manifest.runtime.entry == "demo.plugin"


def test_load_entry_folder_that_links_outside_is_refused(tmp_path: Path) -> None:
    folder = make_plugin(tmp_path / "one")
    (folder / "demo").rename(tmp_path / "demo")
    (folder / "demo").symlink_to(tmp_path / "demo")
    assert "got a link that leads elsewhere" in problems_of(folder)[0]


def test_load_manifest_that_is_a_link_is_refused(tmp_path: Path) -> None:
    folder = make_plugin(tmp_path)
    (folder / "plugin.toml").rename(folder / "other.toml")
    (folder / "plugin.toml").symlink_to(folder / "other.toml")
    assert problems_of(folder) == ["expected a file that can be read, got: a link"]


def test_load_manifest_that_is_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "plugin.toml")
    assert problems_of(tmp_path) == ["expected a file that can be read, got: expected a regular file, got something else"]


def test_load_manifest_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        read_manifest(tmp_path)
    assert caught.value.data == {
        "source": str(tmp_path / "plugin.toml"),
        "problems": ["expected a file that can be read, got: No such file or directory"],
    }


def test_load_manifest_of_1_mb_is_refused_without_reading_it_all(tmp_path: Path) -> None:
    folder = make_plugin(tmp_path, MINIMAL + "#" * 1024 * 1024)
    assert problems_of(folder) == ["expected at most 65536 bytes, got more"]


def add_file(folder: Path) -> None:
    (folder / "new.py").touch()


def change_content(folder: Path) -> None:
    (folder / "demo" / "plugin.py").write_text("raise SystemExit('never imported')!")


def make_executable(folder: Path) -> None:
    (folder / "demo" / "plugin.py").chmod(0o755)


def rename_file(folder: Path) -> None:
    (folder / "demo" / "plugin.py").rename(folder / "demo" / "plugin2.py")


def make_link(folder: Path) -> None:
    (folder / "demo" / "plugin.py").rename(folder / "demo" / "real.py")
    (folder / "demo" / "plugin.py").symlink_to("real.py")


def retarget_link(folder: Path) -> None:
    (folder / "link").unlink()
    (folder / "link").symlink_to("demo/plugin.py")


@pytest.mark.parametrize("change", [add_file, change_content, make_executable, rename_file, make_link, retarget_link])
def test_digest_changes_with_what_is_in_the_folder(tmp_path: Path, change: Callable[[Path], None]) -> None:
    folder = make_plugin(tmp_path)
    (folder / "link").symlink_to("plugin.toml")
    before = folder_digest(folder)
    change(folder)
    assert folder_digest(folder) != before


def test_digest_does_not_depend_on_place_time_or_what_is_left_out(tmp_path: Path) -> None:
    one, two = make_plugin(tmp_path / "one"), make_plugin(tmp_path / "two")
    os.utime(two / "plugin.toml", (1, 1))
    (two / "empty").mkdir()
    for name in LEFT_OUT:
        (two / "demo" / name).mkdir()
        (two / "demo" / name / "x").write_text("anything")
    assert folder_digest(one) == folder_digest(two)


def test_digest_has_a_fixed_form(tmp_path: Path) -> None:
    # Pins the format: grants made by an earlier version must still hold.
    (tmp_path / "b").write_bytes(b"two")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"one")
    (tmp_path / "a" / "x").chmod(0o700)
    (tmp_path / "c").symlink_to("b")
    records = ((b"x", b"a/x", b"one"), (b"f", b"b", b"two"), (b"l", b"c", b"b"))
    expected = hashlib.sha3_512(b"annexe folder digest 1\n")
    for letter, path, content in records:
        expected.update(letter + struct.pack(">I", len(path)) + path + hashlib.sha3_512(content).digest())
    assert folder_digest(tmp_path) == f"sha3-512:{expected.hexdigest()}"


def test_digest_reads_files_longer_than_a_piece(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"x" * 600_000)
    before = folder_digest(tmp_path)
    (tmp_path / "long").write_bytes(b"x" * 599_999 + b"y")
    assert folder_digest(tmp_path) != before


def link_outside(folder: Path) -> None:
    (folder / "bad").symlink_to("/etc/hostname")


def link_nowhere(folder: Path) -> None:
    (folder / "bad").symlink_to("nowhere")


def link_to_folder_outside(folder: Path) -> None:
    (folder / "bad").symlink_to(folder.parent)


def link_into_what_is_left_out(folder: Path) -> None:
    (folder / ".venv").mkdir()
    (folder / ".venv" / "x.py").touch()
    (folder / "bad").symlink_to(".venv/x.py")


@pytest.mark.parametrize("change", [link_outside, link_nowhere, link_to_folder_outside, link_into_what_is_left_out])
def test_digest_of_a_link_that_leads_elsewhere_is_refused(tmp_path: Path, change: Callable[[Path], None]) -> None:
    folder = make_plugin(tmp_path / "one")
    change(folder)
    assert problems_of(folder) == [f"'{folder}/bad': expected a link to something of the plugin's own, got one that leads elsewhere"]


def test_digest_of_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    folder = make_plugin(tmp_path)
    os.mkfifo(folder / "bad")
    assert problems_of(folder) == [f"'{folder}/bad': cannot be read: expected a regular file, got something else"]


def test_load_folder_that_is_deep_is_refused_before_anything_walks_it(tmp_path: Path) -> None:
    folder = deep = make_plugin(tmp_path)
    for _ in range(102):
        deep = deep / "d"
    deep.mkdir(parents=True)
    assert problems_of(folder)[0].endswith("expected folders at most 100 deep, got more")


def test_digest_of_too_many_entries_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annexe.manifest.digest._MAX_ENTRIES", 3)
    folder = make_plugin(tmp_path)
    assert folder_digest(folder)
    (folder / "one more").touch()
    assert problems_of(folder) == [f"'{folder}': expected at most 3 entries, got more"]


def test_digest_of_a_file_that_is_too_large_is_refused_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_plugin(tmp_path)
    with (folder / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    monkeypatch.setattr("annexe.manifest.digest._file", None)
    expected = "expected at most 512 MiB in the plugin's folder, got more; this file is large and could be kept elsewhere"
    assert problems_of(folder) == [f"'{folder}/sparse': {expected}"]


def test_digest_of_a_file_that_grows_meanwhile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_plugin(tmp_path)
    real = open_file

    def growing(path: str) -> BinaryIO:
        with Path(path).open("ab") as file:
            file.truncate(2 << 20)
        return real(path)

    monkeypatch.setattr("annexe.manifest.digest._MAX_BYTES", 1 << 20)
    monkeypatch.setattr("annexe.manifest.digest.open_file", growing)
    [problem] = problems_of(folder)
    assert "expected at most 1 MiB" in problem


def test_digest_of_a_file_that_becomes_a_link_meanwhile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_plugin(tmp_path)
    real = open_file

    def linking(path: str) -> BinaryIO:
        Path(path).unlink()
        Path(path).symlink_to("/etc/hostname")
        return real(path)

    monkeypatch.setattr("annexe.manifest.digest.open_file", linking)
    [problem] = problems_of(folder)
    assert "cannot be read: Too many levels of symbolic links" in problem


def test_digest_of_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        folder_digest(tmp_path / "gone")
    assert caught.value.data["problems"] == [f"'{tmp_path}/gone': cannot be read: No such file or directory"]
