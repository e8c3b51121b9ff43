"""Plugin against machine, plugin against host."""

from __future__ import annotations

import platform
from dataclasses import replace

import pytest

from annexe.errors import ContractError, RevisionMismatchError
from annexe.manifest.machine import this_machine
from annexe.manifest.model import ExtensionImpl, HookImpl, Manifest, Provides, Runtime
from annexe.manifest.requirements import Machine, contract_problems, unmet_requirements

MACHINE = Machine(os="linux", arch="x86_64", python="3.12.1", host="0.3.0", libs=frozenset({"libz.so.1"}), targets=("x86_64-linux",))


def needing(runtime: Runtime) -> Manifest:
    return Manifest(id="demo", version="1.0.0", runtime=runtime)


def test_requirements_that_are_met_leave_nothing() -> None:
    runtime = Runtime(
        kind="binary",
        entry_by_target={"x86_64-linux": "bin/a"},
        requires_os=("macos", "linux"),
        requires_arch=("x86_64",),
        requires_host=">=0.1,<1",
        requires_python=">=3.11",
        requires_libs=("libz.so.1",),
    )
    assert unmet_requirements(needing(runtime), MACHINE) == []
    assert unmet_requirements(needing(Runtime(kind="python", entry="x")), MACHINE) == []


@pytest.mark.parametrize(
    ("runtime", "unmet"),
    [
        (Runtime(kind="python", requires_os=("macos", "windows")), "requires-os: expected macos or windows, got linux"),
        (Runtime(kind="python", requires_arch=("aarch64",)), "requires-arch: expected aarch64, got x86_64"),
        (Runtime(kind="python", requires_host=">=1"), "requires-host: expected annexe >=1, got 0.3.0"),
        (Runtime(kind="python", requires_python=">=3.13"), "requires-python: expected Python >=3.13, got 3.12.1"),
        (Runtime(kind="python", requires_libs=("libgomp.so.1",)), "requires-libs: expected libgomp.so.1, got no library of that name"),
        (Runtime(kind="binary", entry_by_target={"a-b": "x", "c-d": "y"}), "entry: expected to run on a-b or c-d, got x86_64-linux"),
    ],
)
def test_requirement_that_is_not_met_is_named(runtime: Runtime, unmet: str) -> None:
    assert unmet_requirements(needing(runtime), MACHINE) == [unmet]


def test_python_that_is_chosen_at_the_launch_is_not_judged_before() -> None:
    assert unmet_requirements(needing(Runtime(kind="python", entry="x", requires_python=">=99")), replace(MACHINE, python="")) == []


def test_requirements_all_unmet_are_all_named() -> None:
    runtime = Runtime(kind="binary", entry_by_target={"a-b": "x"}, requires_os=("macos",), requires_host=">=9")
    bare = Machine(os="linux", arch="x86_64", python="3.12.1", host="0.3.0")
    assert unmet_requirements(needing(runtime), bare) == [
        "requires-os: expected macos, got linux",
        "requires-host: expected annexe >=9, got 0.3.0",
        "entry: expected to run on a-b, got x86_64",
    ]


def test_this_machine_is_described() -> None:
    machine = this_machine(host="0.1.0", python="3.12.1", libs=["libc.so.6", "libnothing-of-that-name.so.9"])
    assert machine.python == "3.12.1"
    assert machine.host == "0.1.0"
    assert machine.os in ("linux", "macos", "windows")
    assert all(target.startswith(machine.arch) for target in machine.targets)
    assert "libnothing-of-that-name.so.9" not in machine.libs
    assert this_machine(host="1.0.0", python="3.13.0").python == "3.13.0"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="libc.so.6 is glibc's")
def test_this_machine_finds_a_library_that_is_there() -> None:
    assert "libc.so.6" in this_machine(host="0.1.0", libs=["libc.so.6"]).libs


def providing(hooks: dict[str, int], extensions: dict[str, int]) -> Manifest:
    provides = Provides(
        hooks={name: HookImpl(revision=revision) for name, revision in hooks.items()},
        extensions={name: ExtensionImpl(revision=revision) for name, revision in extensions.items()},
    )
    return Manifest(id="demo", version="1.0.0", runtime=Runtime(kind="python"), provides=provides)


def test_contract_that_fits_has_no_problems() -> None:
    assert contract_problems(providing({"chat.a": 1}, {"speech": 2}), hooks={"chat.a": 1, "chat.b": 1}, extensions={"speech": 2}) == []


def test_contract_unknown_hook_names_the_nearest() -> None:
    (problem,) = contract_problems(providing({"chat.on_requst": 1}, {}), hooks={"chat.on_request": 1}, extensions={})
    assert type(problem) is ContractError
    assert problem.plugin == "demo"
    assert problem.data == {"name": "chat.on_requst"}
    assert "which the host does not open; expected 'chat.on_request'" in str(problem)


def test_contract_unknown_names_like_nothing_list_what_is_there() -> None:
    hook, extension = contract_problems(providing({"x.y": 1}, {"zzz": 1}), hooks={"chat.a": 1, "chat.b": 1}, extensions={})
    assert "expected one of 'chat.a', 'chat.b'" in str(hook)
    assert "extension point 'zzz', which the host does not open; it opens none; name what the application opens" in str(extension)
    assert "--contracts MODULE:SPEC or Host(contracts=[…])" in str(extension)


def test_contract_names_that_are_all_unknown_are_one_problem() -> None:
    (problem,) = contract_problems(providing({"x.y": 1, "x.z": 1}, {}), hooks={}, extensions={})
    assert "provides hooks 'x.y', 'x.z', which the host does not open; it opens none" in str(problem)
    assert problem.data == {"name": "x.y"}


@pytest.mark.parametrize(("revision", "older"), [(1, "the plugin must be upgraded"), (3, "the host must be upgraded")])
def test_contract_wrong_revision_says_who_must_upgrade(revision: int, older: str) -> None:
    (problem,) = contract_problems(providing({}, {"speech": revision}), hooks={}, extensions={"speech": 2})
    assert isinstance(problem, RevisionMismatchError)
    assert problem.plugin == "demo"
    assert problem.data == {"contract": "extension point speech", "expected": 2, "actual": revision}
    assert older in str(problem)
