"""What is advised can be pasted where it is read."""

from __future__ import annotations

from pathlib import Path

from annexe.host.advice import Advice, command
from annexe.host.state_dir import default_state_dir


def test_command_names_the_host_unless_it_is_the_one_that_is_meant_anyway() -> None:
    assert command("list", default_state_dir()) == "annexe list"
    assert command("logs one", Path("/srv/my host")) == "annexe logs one --state '/srv/my host'"


def test_what_is_missing_is_taken_up_by_a_scan() -> None:
    assert Advice(Path("/srv/state"), None).scan() == "put what is missing into a folder of plugins, then: annexe scan --state /srv/state"


def test_grant_is_stored_where_grants_are_stored() -> None:
    advice = Advice(Path("/srv/state"), None)
    assert advice.grant("one", {"kv"}) == "grant with: annexe grant one --state /srv/state"
    assert advice.grant("one", {"kv"}, to_content=True) == "grant with: annexe grant one --content --state /srv/state"


def test_grant_is_a_line_where_a_policy_file_grants() -> None:
    advice = Advice(Path("/srv/state"), Path("policy.toml"))
    told = 'add to policy.toml, under [plugins.one]: rights = ["cap:a", "kv"]; then start the host again'
    assert advice.grant("one", {"kv", "cap:a"}) == told
    assert advice.grant_command("one") == "the rights of [plugins.one] in policy.toml"
