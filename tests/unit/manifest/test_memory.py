"""What manifests said is remembered from one start of a host to the next, and nothing of it is believed that is not whole and ours."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from annexe.errors import ManifestError
from annexe.manifest import Discovered, Discovery, Manifest, load, memory
from annexe.manifest.memory import ManifestMemory
from annexe.manifest.parse import read_document
from annexe.manifest.reader import Problems

ROOT = Path(__file__).parents[3]
REAL = [*ROOT.glob("plugins/*/plugin.toml"), *ROOT.glob("benchmarks/plugins/*/plugin.toml"), Path(__file__).with_name("full.toml")]
TEXT = 'manifest-version = 1\n[plugin]\nid = "{id}"\nversion = "1.0.0"\nname = "p"\n[runtime]\nkind = "python"\nentry = "main"\n'


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Give the sources of all manifests that are parsed, as they come."""
    sources: list[str] = []

    def read(text: bytes, *, source: str) -> tuple[Manifest, Problems]:
        sources.append(Path(source).parent.name)
        return read_document(text, source=source)

    monkeypatch.setattr(load, "read_document", read)
    yield sources


def write(root: Path, plugin: str, *, more: str = "", text: str | None = None) -> Path:
    folder = root / "plugins" / plugin
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plugin.toml").write_text((TEXT.replace("{id}", plugin) if text is None else text) + more)
    (folder / "main.py").write_text("")
    return folder


def scan(root: Path) -> tuple[Discovered, ...]:
    """Look as a host that starts does."""
    return Discovery([root / "plugins"], memory_file=root / "memory").scan()


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.parent.name)
def test_what_is_remembered_is_what_was_parsed(path: Path, tmp_path: Path) -> None:
    text = path.read_bytes()
    manifest, problems = read_document(text, source="x")
    assert not problems
    first = ManifestMemory(tmp_path / "memory")
    first.keep(text, manifest)
    first.save()
    again = ManifestMemory(tmp_path / "memory").recall(text)
    assert again == manifest and repr(again) == repr(manifest)
    assert again is not None and again.permission_set() == manifest.permission_set()


def test_next_start_parses_what_is_new_alone(tmp_path: Path, parsed: list[str]) -> None:
    for plugin in ("a", "b"):
        write(tmp_path, plugin)
    first = scan(tmp_path)
    assert parsed == ["a", "b"] and (tmp_path / "memory").stat().st_mode & 0o777 == 0o600
    assert scan(tmp_path) == first and parsed == ["a", "b"]
    write(
        tmp_path,
        "b",
        more='description = "changed"\n',
        text=TEXT.replace("{id}", "b").replace("[runtime]", '[sandbox]\nrequire = "full"\n[runtime]'),
    )
    write(tmp_path, "c")
    assert {plugin.id: plugin.error is None for plugin in scan(tmp_path)} == {"a": True, "b": False, "c": True}
    assert parsed == ["a", "b", "b", "c"]


def test_what_is_gone_is_forgotten_and_an_unchanged_file_is_not_written(tmp_path: Path) -> None:
    write(tmp_path, "a")
    write(tmp_path, "b", more="# a comment of some length\n")
    scan(tmp_path)
    whole, before = (tmp_path / "memory").read_bytes(), (tmp_path / "memory").stat().st_ino
    scan(tmp_path)
    assert (tmp_path / "memory").stat().st_ino == before
    (tmp_path / "plugins" / "b" / "plugin.toml").unlink()
    scan(tmp_path)
    assert len((tmp_path / "memory").read_bytes()) < len(whole)


def test_files_that_a_remembered_manifest_names_are_looked_at_each_time(tmp_path: Path, parsed: list[str]) -> None:
    folder = write(tmp_path, "a")
    scan(tmp_path)
    (folder / "main.py").unlink()
    (found,) = scan(tmp_path)
    assert found.error is not None and "line 8: runtime.entry: expected the file 'main.py'" in found.error.message
    (folder / "main.py").symlink_to("/etc/passwd")
    (found,) = scan(tmp_path)
    assert found.error is not None and "a link that leads elsewhere" in found.error.message
    assert parsed == ["a"]


def test_what_is_refused_is_not_remembered(tmp_path: Path, parsed: list[str]) -> None:
    write(tmp_path, "a", more="strange = 1\n")
    for _ in range(2):
        (found,) = scan(tmp_path)
        assert isinstance(found.error, ManifestError)
    assert parsed == ["a", "a"]


def test_one_discovery_remembers_from_its_first_scan_alone(tmp_path: Path, parsed: list[str]) -> None:
    write(tmp_path, "a")
    discovery = Discovery([tmp_path / "plugins"], memory_file=tmp_path / "memory")
    discovery.scan()
    before = (tmp_path / "memory").read_bytes()
    write(tmp_path, "b")
    discovery.scan()
    assert (tmp_path / "memory").read_bytes() == before and parsed == ["a", "b"]


def test_any_byte_that_is_not_as_it_was_written_makes_all_of_it_forgotten(tmp_path: Path) -> None:
    write(tmp_path, "a")
    scan(tmp_path)
    file, chance = tmp_path / "memory", random.Random(4)
    whole, text = file.read_bytes(), (tmp_path / "plugins" / "a" / "plugin.toml").read_bytes()
    assert isinstance(ManifestMemory(file).recall(text), Manifest)
    for at in {0, 31, 32, 63, 64, len(whole) - 1, *chance.sample(range(len(whole)), 50)}:
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :])
        assert ManifestMemory(file).recall(text) is None
        file.write_bytes(whole[:at])
        assert ManifestMemory(file).recall(text) is None


def test_another_state_of_the_code_believes_nothing(tmp_path: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a")
    scan(tmp_path)
    monkeypatch.setattr(memory, "_CODE", bytes(32))
    scan(tmp_path)
    assert parsed == ["a", "a"]
    scan(tmp_path)
    assert parsed == ["a", "a"]


def test_code_that_cannot_be_read_remembers_and_believes_nothing(
    tmp_path: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_CODE", b"")
    write(tmp_path, "a")
    for _ in range(2):
        scan(tmp_path)
    assert parsed == ["a", "a"] and not (tmp_path / "memory").exists()
    monkeypatch.setattr(memory, "__file__", str(tmp_path / "in-a-zip" / "memory.py"))
    assert memory._code() == b""


def test_size_beyond_64_bits_is_parsed_each_time_and_stops_nobody(tmp_path: Path, parsed: list[str]) -> None:
    write(tmp_path, "a", more='[resources]\nmemory = "99999999TiB"\n')
    write(tmp_path, "b")
    for _ in range(2):
        assert [plugin.error for plugin in scan(tmp_path)] == [None, None]
    assert parsed == ["a", "b", "a"]


def test_whole_file_with_something_else_in_it_is_parsed_anew(tmp_path: Path, parsed: list[str]) -> None:
    write(tmp_path, "a")
    text = (tmp_path / "plugins" / "a" / "plugin.toml").read_bytes()
    other = ManifestMemory(tmp_path / "memory")
    other.keep(text, {"id": "a"})  # type: ignore[arg-type]
    other.save()
    (found,) = scan(tmp_path)
    assert found.error is None and parsed == ["a"]


@pytest.mark.parametrize("there", ["folder", "link", "pipe"])
def test_what_is_no_file_is_not_followed_and_stops_nothing(tmp_path: Path, parsed: list[str], there: str) -> None:
    write(tmp_path, "a")
    file, victim = tmp_path / "memory", tmp_path / "victim"
    victim.write_text("mine")
    if there == "folder":
        file.mkdir()
    elif there == "link":
        file.symlink_to(victim)
    else:
        os.mkfifo(file)
    assert [plugin.error for plugin in scan(tmp_path)] == [None]
    assert victim.read_text() == "mine" and parsed == ["a"]


def test_draft_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    write(tmp_path, "a")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "memory.draft").symlink_to(victim)
    scan(tmp_path)
    assert victim.read_text() == "mine" and not (tmp_path / "memory").is_symlink()


def test_folder_that_is_not_there_stops_nothing(tmp_path: Path) -> None:
    write(tmp_path, "a")
    assert [plugin.error for plugin in Discovery([tmp_path / "plugins"], memory_file=tmp_path / "none" / "memory").scan()] == [None]
