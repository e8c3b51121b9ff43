"""``annexe attack``: what it prints, and its exit code."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import click
import pytest

from annexe.cli.attack import attack
from annexe.launch import ProcessStrategy
from annexe.launch.offer import OfferFinder
from annexe.sandbox.cgroup import NoControlGroups

WITHOUT = ("namespaces", "landlock", "seccomp", "rlimits")


def run(*arguments: str) -> int:
    code: int = attack.main(list(arguments), standalone_mode=False)
    return code


@pytest.fixture
def no_walls(monkeypatch: pytest.MonkeyPatch) -> None:
    offers = OfferFinder(unsafe_without=WITHOUT)
    monkeypatch.setattr("annexe.host.host.ProcessStrategy", partial(ProcessStrategy, offers=offers, groups=NoControlGroups()))


@pytest.mark.usefixtures("no_walls")
def test_attack_that_gets_through_makes_the_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--only", "home-file", "--only", "huge-frame", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert told.keys() == {"level", "attacks"}
    assert [(row["name"], row["outcome"], row["layer"]) for row in told["attacks"]] == [
        ("huge-frame", "stopped", "host"),
        ("home-file", "through", ""),
    ]


def test_nothing_through_makes_the_exit_code_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--only", "etc-shadow", "--only", "empty-frame") == 0
    printed = capsys.readouterr()
    assert "unix" in printed.out and "   0 got through" in printed.out
    assert "Made with the permissions and resources of its own" in printed.out
    assert printed.err == ""  # no progress but on a terminal


@pytest.mark.usefixtures("no_walls")
def test_plugin_in_a_folder_lends_the_attacker_its_resources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plugin.toml").write_text(
        'manifest-version = 1\n[plugin]\nid = "other"\nversion = "1.0.0"\nname = "Other"\n'
        '[runtime]\nkind = "python"\nentry = "main"\n[resources]\ndisk = "4MiB"\n'
    )
    (tmp_path / "main.py").write_text("")
    assert run(str(tmp_path), "--only", "disk-one-file", "--json") == 1
    assert json.loads(capsys.readouterr().out)["attacks"][0]["detail"] == "wrote 10 MiB of 4"
    assert run(str(tmp_path), "--only", "empty-frame") == 0
    assert "permissions and resources that other asks for" in capsys.readouterr().out


def test_file_that_only_the_attacker_sees_is_no_contradiction(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--only", "shm-write", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    row = told["attacks"][0]
    assert row["outcome"] == "stopped" and row["layer"]
    assert ("wrote it; outside nothing came of it" in row["detail"]) is (told["level"] == "full")


def test_list_makes_no_attack(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--list", "--only", "tracing", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["attacks"]
    assert {row["theme"] for row in rows} == {"tracing"}
    assert all(row["stopped_by"] or row["capped_by"] for row in rows)


def test_unknown_attack_is_refused() -> None:
    with pytest.raises(click.BadParameter, match="no attack or theme 'nonsense'"):
        run("--only", "nonsense")
