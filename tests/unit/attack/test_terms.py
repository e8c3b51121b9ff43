"""Another plugin's permissions and resources, put into the attacker's manifest."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from annexe.attack.catalogue import PLUGIN_FOLDER
from annexe.attack.terms import Terms, read_terms, write_terms
from annexe.errors import ManifestError
from annexe.manifest.load import read_manifest

OTHER = """
manifest-version = 1
[plugin]
id = "other"
version = "1.0.0"
name = "Other"
[runtime]
kind = "python"
entry = "main"
[permissions]
kv = { quota = "2MiB" }
network = ["api.example.org:443"]
subprocess = true
[resources]
memory = "64MiB"
processes = 3
call-timeout = "2s"
[sandbox]
require = "limits"
"""


def attacker(tmp_path: Path) -> Path:
    folder = tmp_path / "attacker"
    shutil.copytree(PLUGIN_FOLDER, folder)
    return folder


def other(tmp_path: Path) -> Terms:
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "plugin.toml").write_text(OTHER)
    (folder / "main.py").write_text("")
    return read_terms(folder)


def test_attacker_gets_rights_and_resources_of_the_other(tmp_path: Path) -> None:
    folder, terms = attacker(tmp_path), other(tmp_path)
    write_terms(folder / "plugin.toml", terms)
    manifest = read_manifest(folder)
    assert terms.plugin == "other"
    assert manifest.permission_set() >= {"kv", "subprocess"}
    assert (manifest.resources.memory_bytes, manifest.resources.processes) == (64 * 1024**2, 3)
    assert str(manifest.sandbox_require) == "limits"


def test_attacker_keeps_its_name_its_code_and_its_time(tmp_path: Path) -> None:
    folder = attacker(tmp_path)
    before = read_manifest(folder)
    write_terms(folder / "plugin.toml", other(tmp_path))
    after = read_manifest(folder)
    assert (after.id, after.runtime) == (before.id, before.runtime)
    assert after.resources.call_timeout_s == before.resources.call_timeout_s
    assert after.provides == before.provides


def test_plugin_that_asks_for_nothing_leaves_the_attacker_its_store(tmp_path: Path) -> None:
    folder = attacker(tmp_path)
    write_terms(folder / "plugin.toml", Terms("bare"))
    assert read_manifest(folder).permission_set() == {"kv"}


def test_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises((ManifestError, OSError)):
        read_terms(tmp_path)
