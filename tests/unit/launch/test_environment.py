"""The allow-list."""

from __future__ import annotations

import pytest

from annexe.launch.environment import plugin_environment
from annexe.manifest.names import is_env_name

HOST = {
    "LANG": "de_DE.UTF-8",
    "LC_TIME": "C",
    "TZ": "Europe/Berlin",
    "PATH": "/root/bin",
    "HOME": "/root",
    "TMPDIR": "/root/tmp",
    "API_KEY": "hunter2",
    "PYTHONPATH": "/evil",
    "LD_PRELOAD": "/evil.so",
    "SSH_AUTH_SOCK": "/run/agent",
}


def test_environment_is_locale_time_zone_and_fixed_values_only() -> None:
    assert plugin_environment(HOST) == {
        "LANG": "de_DE.UTF-8",
        "LC_TIME": "C",
        "TZ": "Europe/Berlin",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/nonexistent",
    }


def test_environment_of_an_empty_host_still_has_utf8() -> None:
    assert plugin_environment({})["LANG"] == "C.UTF-8"


def test_environment_passes_granted_names_that_the_host_has() -> None:
    environment = plugin_environment(HOST, granted=["API_KEY", "NOT_THERE"])
    assert environment["API_KEY"] == "hunter2"
    assert "NOT_THERE" not in environment


@pytest.mark.parametrize("name", ["", "A=B", "A\0B", "HOME", "PATH", "TMPDIR", "LD_PRELOAD", "DYLD_X", "PYTHONPATH", "ANNEXE_FD"])
def test_environment_refuses_names_that_steer_the_stub_or_are_the_hosts(name: str) -> None:
    assert not is_env_name(name)
    with pytest.raises(ValueError, match="grantable"):
        plugin_environment(HOST, granted=[name])


def test_is_env_name_accepts_an_ordinary_name() -> None:
    assert is_env_name("HTTP_TIMEOUT")
