"""What `pip install annexe` gives works without the repository."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, str(ROOT / "scripts" / "build_wheels.py"), "--out", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return out


@pytest.mark.timeout(300)  # builds four files and installs a dozen packages into a fresh environment
def test_both_packages_install_and_run_without_the_repository(dist: Path) -> None:
    assert sorted(path.name.split("-")[0] for path in dist.iterdir()) == ["annexe", "annexe", "annexe_sdk", "annexe_sdk"]


@pytest.mark.timeout(300)  # may be the one that builds
@pytest.mark.parametrize(("package", "source"), [("annexe", "src/annexe"), ("annexe_sdk", "sdk/python/src/annexe_sdk")])
def test_wheel_holds_every_file_of_its_package(dist: Path, package: str, source: str) -> None:
    tracked = subprocess.run(["git", "ls-files", "-z", source], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    wanted = {f"{package}/{Path(name).relative_to(source).as_posix()}" for name in tracked.split("\0") if name and (ROOT / name).exists()}
    wheel = next(dist.glob(f"{package}-*.whl"))
    held = set(zipfile.ZipFile(wheel).namelist())
    assert wanted - held == set()
    assert f"{package}/py.typed" in held
    assert any(name.endswith("LICENSE") for name in held)


@pytest.mark.timeout(300)  # may be the one that builds
def test_sdk_wheel_needs_nothing(dist: Path) -> None:
    wheel = zipfile.ZipFile(next(dist.glob("annexe_sdk-*.whl")))
    metadata = wheel.read(next(name for name in wheel.namelist() if name.endswith("METADATA"))).decode()
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert required == []
