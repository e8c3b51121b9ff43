from __future__ import annotations

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
