"""How a command is made to run as a plugin's user."""

from pathlib import Path

from annexe.launch.become import as_user


def test_host_user_needs_nothing() -> None:
    assert as_user(None) == ([], {})


def test_setpriv_changes_user_and_groups_outside_the_host(tmp_path: Path) -> None:
    setpriv = tmp_path / "setpriv"
    setpriv.touch()
    assert as_user(64100, setpriv=setpriv) == ([str(setpriv), "--reuid=64100", "--regid=64100", "--clear-groups", "--"], {})


def test_without_setpriv_the_host_is_forked(tmp_path: Path) -> None:
    assert as_user(64100, setpriv=tmp_path / "setpriv") == ([], {"user": 64100, "group": 64100, "extra_groups": []})


def test_setpriv_of_busybox_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "busybox").touch()
    (tmp_path / "setpriv").symlink_to(tmp_path / "busybox")
    assert as_user(64100, setpriv=tmp_path / "setpriv")[0] == []
