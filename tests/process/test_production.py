"""What a host in production refuses, with real plugins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.process.hosts import open_host, run, write_plugin

POLICY = 'policy-version = 1\n[plugins."*"]\nrights = []\n'


def states(tmp_path: Path, **settings: Any) -> dict[str, tuple[str, str]]:
    for plugin in ("inside", "outside"):
        write_plugin(tmp_path / "plugins", plugin, "")
    (tmp_path / "policy.toml").write_text(POLICY)

    async def scenario() -> dict[str, tuple[str, str]]:
        async with open_host(tmp_path, grants=tmp_path / "policy.toml", production=True, **settings) as host:
            return {plugin.id: (str(plugin.state), plugin.reason) for plugin in host.plugins}

    return run(scenario)


def test_production_runs_no_plugin_inside_the_host_that_nobody_named(tmp_path: Path) -> None:
    found = states(tmp_path, strategy="in-process")
    assert {state for state, _ in found.values()} == {"blocked"}
    assert 'name it: strategy={"inside": "in-process"}' in found["inside"][1]


def test_production_runs_inside_the_host_what_the_operator_named(tmp_path: Path) -> None:
    found = states(tmp_path, strategy={"inside": "in-process"})
    assert {state for state, _ in found.values()} == {"ready"}
