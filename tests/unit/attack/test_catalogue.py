"""The list of attacks: read from their source, whole, and in order."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest

from annexe.attack.catalogue import LAYERS, PLUGIN_FOLDER, Attack, attacks
from annexe.attack.contract import Targets
from annexe.attack.judges import AFTER_END, CHECKS, PATIENT
from annexe.manifest.load import read_manifest

THEMES = sorted((PLUGIN_FOLDER / "escape").glob("*.py"))
every_attack = pytest.mark.parametrize("attack", attacks(), ids=lambda attack: attack.name)


def test_attacks_are_many_and_have_names_of_their_own() -> None:
    names = [attack.name for attack in attacks()]
    assert len(names) == len(set(names)) >= 90


def test_attacks_are_counted_without_those_that_unix_stops() -> None:
    assert sum(not attack.unix for attack in attacks()) >= 90


@every_attack
def test_attack_says_what_it_is_and_what_stops_it(attack: Attack) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", attack.name)
    assert attack.text.endswith(".") and len(attack.text) <= 130
    assert attack.stopped_by or attack.capped_by
    assert set(attack.stopped_by) | set(attack.capped_by) <= set(LAYERS)
    assert attack.check in ("", *CHECKS)
    assert attack.phases in (1, 2)


def test_every_check_is_used() -> None:
    assert {attack.check for attack in attacks() if attack.check} == CHECKS.keys()
    assert CHECKS.keys() >= AFTER_END | PATIENT


def test_plugin_has_the_attacks_that_the_host_reads() -> None:
    code = "import escape.plugin, escape.catalogue; print(*escape.catalogue.ATTACKS, sep='\\n')"
    path = [str(PLUGIN_FOLDER), *sys.path]
    command = [sys.executable, "-I", "-c", f"import sys; sys.path[:] = {path!r}; {code}"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONDONTWRITEBYTECODE": "1"}).stdout
    assert sorted(printed.split()) == sorted(attack.name for attack in attacks())


def test_plugin_knows_the_targets_that_the_host_makes() -> None:
    tree = ast.parse((PLUGIN_FOLDER / "escape" / "targets.py").read_text())
    declared = {node.target.id for node in ast.walk(tree) if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    assert declared == set(Targets.__slots__)


def test_host_imports_nothing_of_the_attacker() -> None:
    code = "import sys, annexe.attack.suite; print([name for name in sys.modules if 'attack.plugin' in name or name.startswith('escape')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_attacker_needs_the_standard_library_alone() -> None:
    allowed = set(sys.stdlib_module_names) | {"annexe_sdk"}
    for path in THEMES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names.append(node.module or "")
            assert {name.split(".")[0] for name in names} <= allowed, path.name


def test_attackers_manifest_is_one() -> None:
    manifest = read_manifest(PLUGIN_FOLDER)
    assert (manifest.id, manifest.permission_set()) == ("annexe-escape", frozenset({"kv"}))


@pytest.mark.parametrize(
    ("on", "capped", "layer"),
    [
        pytest.param({"seccomp", "uid"}, False, "uid", id="the-first-that-is-on"),
        pytest.param({"rlimits", "uid"}, True, "rlimits", id="what-caps-comes-first-when-it-was-capped"),
        pytest.param({"seccomp"}, True, "seccomp", id="what-stops-when-nothing-caps"),
        pytest.param({"landlock"}, False, "", id="none-of-its-own"),
    ],
)
def test_first_layer(on: set[str], capped: bool, layer: str) -> None:
    attack = Attack(name="a", theme="t", text="A.", stopped_by=("uid", "seccomp"), capped_by=("rlimits",))
    assert attack.first_layer(frozenset(on), capped=capped) == layer
