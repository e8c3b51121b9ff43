from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from annexe.testing.learning import VARIABLE, LearningSession, read_facts, session, write_order


def test_no_test_learns_anything_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert session() is None


def test_a_session_is_one_for_the_process_and_follows_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_order(tmp_path, plugin="demo", rights=["kv"])
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    found = session()
    assert found is not None
    assert found is session()
    assert (found.plugin, found.rights) == ("demo", frozenset({"kv"}))
    assert (found.learning.plugin, found.learning.rights) == ("demo", frozenset({"kv"}))


def test_facts_are_kept_once_and_read_from_all_processes(tmp_path: Path) -> None:
    write_order(tmp_path, plugin="demo")
    found = LearningSession(tmp_path)
    assert found.rights is None
    found.note("read", "/srv/\udcff")
    found.note("read", "/srv/\udcff")
    (tmp_path / "0.jsonl").write_text('["right", "kv"]\n["read", "/srv/a"]\n')
    assert read_facts(tmp_path) == [("read", "/srv/a"), ("read", "/srv/\udcff"), ("right", "kv")]


def test_while_rights_are_tried_nothing_is_watched(tmp_path: Path) -> None:
    write_order(tmp_path, plugin="demo", rights=[])
    found = LearningSession(tmp_path)
    with found.watching(tmp_path):
        (tmp_path / "x").write_text("x")
    assert read_facts(tmp_path) == []


def test_what_is_done_in_the_folder_that_stands_for_the_private_one_is_no_fact(tmp_path: Path) -> None:
    write_order(tmp_path, plugin="demo")
    code = (  # in a process of its own: what watches cannot be taken back
        "import sys; from pathlib import Path; from annexe.testing.learning import LearningSession\n"
        "folder = Path(sys.argv[1]); found = LearningSession(folder); found.private.add(f'{folder}/mine')\n"
        "with found.watching(Path('/srv/plugin')): (folder / 'mine').mkdir(), (folder / 'mine/x').touch(), (folder / 'other').touch()"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert [what for kind, what in read_facts(tmp_path) if kind == "write"] == [f"{tmp_path}/other"]
