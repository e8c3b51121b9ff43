"""What set-up decides without a network: which index, which file, which requirements, and whether there is anything to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import setup

PAGE = """<a href="../../packages/07/pip-26.3.tar.gz#sha256=0">pip-26.3.tar.gz</a>
<a data-requires-python="&gt;=3.10" href='../../packages/07/pip-26.3-py3-none-any.whl#sha256=1'>pip-26.3-py3-none-any.whl</a>
<a href="https://files.example.org/a&amp;b/pip-9.0-py3-none-any.whl">pip-9.0-py3-none-any.whl</a>"""


@pytest.mark.parametrize(
    ("filename", "address"),
    [
        pytest.param("pip-26.3-py3-none-any.whl", "https://index.example.org/packages/07/pip-26.3-py3-none-any.whl", id="relative"),
        pytest.param("pip-9.0-py3-none-any.whl", "https://files.example.org/a&b/pip-9.0-py3-none-any.whl", id="absolute"),
    ],
)
def test_link_on_an_index_page_is_found(filename: str, address: str) -> None:
    assert setup.find_link(PAGE, "https://index.example.org/simple/pip/", filename) == address


def test_link_that_the_index_lacks_is_refused_by_name() -> None:
    with pytest.raises(setup.SetupError, match=r"https://index\.example\.org/simple/pip/ does not list pip-1-py3-none-any\.whl\."):
        setup.find_link(PAGE, "https://index.example.org/simple/pip/", "pip-1-py3-none-any.whl")


@pytest.mark.parametrize("address", ["http://index.example.org/simple/pip/", "file:///etc/passwd", "ftp://example.org"])
def test_address_without_https_is_not_fetched(address: str) -> None:
    with pytest.raises(setup.SetupError, match="expected an https address"):
        setup.fetch(address)


def test_index_is_taken_from_the_environment_then_from_pip_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nindex-url = https://mirror.example.org/100%/simple\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    assert setup.index_url() == "https://mirror.example.org/100%/simple"
    monkeypatch.setenv("PIP_INDEX_URL", "https://other.example.org/simple")
    assert setup.index_url() == "https://other.example.org/simple"


def test_pip_that_is_not_the_pinned_one_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([f'<a href="{setup.PIP_WHEEL}">'.encode(), b"another pip"])
    monkeypatch.setattr(setup, "fetch", lambda _address: next(answers))
    monkeypatch.setattr(setup, "logged", lambda *_: pytest.fail("it was run"))
    with pytest.raises(setup.SetupError, match=f"expected sha256 {setup.PIP_SHA256}, got [0-9a-f]{{64}}"):
        setup.install_pip_wheel(tmp_path / "python")


def test_profiles_hold_one_another() -> None:
    assert set(setup.requirements_of(setup.GROUPS["demo"])) < set(setup.requirements_of(setup.GROUPS["dev"]))


@pytest.mark.parametrize(("present", "asked", "current"), [("dev", "demo", True), ("demo", "dev", False), ("demo", "demo", True)])
def test_larger_profile_serves_for_the_smaller(
    present: str, asked: str, current: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "VENV", tmp_path)
    monkeypatch.setattr(setup, "VENV_PYTHON", tmp_path)
    setup.stamp(present).write_text(setup.key())
    assert setup.is_current(asked) is current


def test_stamp_of_other_requirements_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "VENV", tmp_path)
    monkeypatch.setattr(setup, "VENV_PYTHON", tmp_path)
    setup.stamp("dev").write_text(setup.key())
    changed = tmp_path / "lock.txt"
    changed.write_text(setup.LOCK.read_text() + "\nmore==1\n")
    monkeypatch.setattr(setup, "LOCK", changed)
    assert not setup.is_current("dev")


def test_what_is_missing_is_installed_for_the_profiles_that_want_it_and_said_with_its_cost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda _command: None)
    monkeypatch.setattr(setup, "apt_install", lambda *_packages: False)
    said = {}
    for profile in setup.GROUPS:
        setup.ensure_tools(profile)
        said[profile] = capsys.readouterr().err
    for text in said.values():
        assert "bwrap is missing and was not installed: plugins run at level landlock. To have it: apt-get install bubblewrap" in text
    assert ("node is missing" in said["dev"], "node is missing" in said["demo"]) == (True, False)
