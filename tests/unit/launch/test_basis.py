"""When a fork server can serve on, and what it leaves to its forks to import."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from annexe.launch import LaunchRequest
from annexe.launch.basis import Basis, basis_of, own_modules
from annexe.launch.offer import Offer
from annexe.launch.preparation import Prepared
from annexe.launch.python_env import Interpreter, PythonChoice
from annexe.launch.runtime import Runtime
from annexe.sandbox import Profile
from annexe.sandbox.view import Access, Place


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    for name in ("plugin", "packages", "runtime"):
        (tmp_path / name).mkdir()
    (tmp_path / "plugin" / "entry.py").write_text("")
    interpreter = Interpreter(path=Path("/usr/bin/python3"), version=(3, 11, 2), cache_tag="cpython-311", suffix=".so")
    return Prepared(
        request=LaunchRequest(plugin="p", instance="p-1", kind="python", entry="entry", folder=tmp_path / "plugin"),
        folder=tmp_path / "plugin",
        python=PythonChoice(interpreter=interpreter, packages=(tmp_path / "packages",)),
        runtime=Runtime(folder=tmp_path / "runtime", stub=tmp_path / "runtime" / "stub.pyc"),
        program=(),
        uid=None,
        scratch=tmp_path,
        offer=Offer(),
        places=(Place(str(tmp_path / "plugin"), Access.READ), Place("/nonexistent/place", Access.READ)),
        granted=(),
        notes=(),
    )


def test_basis_is_the_same_for_every_instance_and_whatever_the_code_is(prepared: Prepared) -> None:
    before = basis_of(prepared)
    (prepared.folder / "entry.py").write_text("changed = True")
    assert basis_of(replace(prepared, request=replace(prepared.request, instance="p-2"))) == before
    assert before.files[1] is None


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"environment": {"A": "1"}}, id="environment"),
        pytest.param({"profile": Profile(network=True)}, id="rights"),
        pytest.param({"profile": Profile(memory_bytes=1 << 20)}, id="limits"),
        pytest.param({"entry": "other"}, id="entry"),
    ],
)
def test_basis_differs_with_the_request(prepared: Prepared, changes: dict[str, object]) -> None:
    changed = replace(prepared, request=replace(prepared.request, **changes))  # type: ignore[arg-type]
    assert basis_of(changed) != basis_of(prepared)


def test_basis_differs_with_what_was_prepared(prepared: Prepared) -> None:
    before = basis_of(prepared)
    for changed in (
        replace(prepared, uid=1),
        replace(prepared, places=prepared.places[:1]),
        replace(prepared, offer=Offer(seccomp=True)),
        replace(prepared, runtime=Runtime(folder=prepared.scratch, stub=prepared.scratch)),
    ):
        assert basis_of(changed) != before


def test_basis_differs_when_a_place_is_another_file_of_the_same_name(prepared: Prepared) -> None:
    before = basis_of(prepared)
    prepared.folder.rename(prepared.folder.with_name("old"))
    prepared.folder.mkdir()
    (prepared.folder / "entry.py").write_text("")
    after = basis_of(prepared)
    assert after != before
    assert isinstance(after, Basis) and after.own == before.own


def test_own_modules_are_all_of_the_folder_and_of_packages_only_those_of_the_runtime(prepared: Prepared) -> None:
    packages = prepared.python.packages[0]
    for name in ("enum.py", "_fast.cpython-311-x86_64-linux-gnu.so", "data.json", "README"):
        (prepared.folder / name).write_text("")
    (prepared.folder / "pack").mkdir()
    for name in ("typing.py", "six.py", "msgspec.py"):
        (packages / name).write_text("")
    (packages / "annexe_sdk").mkdir()
    assert own_modules(prepared.folder, [packages, Path("/nonexistent")]) == {
        *("entry", "enum", "_fast", "data", "README", "pack"),
        *("msgspec", "annexe_sdk"),
    }
    assert basis_of(prepared).own == own_modules(prepared.folder, [packages])
