"""Hooks that a plugin defines, as its manifest says so and its folder has them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from annexe.errors import ManifestError, RevisionMismatchError
from annexe.manifest import Discovery, read_manifest
from annexe.manifest.load import MAX_HOOK_SCHEMA_BYTES
from annexe.manifest.model import HookImpl, HookSpecOffer, Manifest, Provides, Runtime
from annexe.manifest.parse import parse_manifest
from annexe.manifest.requirements import contract_problems

HEAD = 'manifest-version = 1\n[plugin]\nid = "demo"\nversion = "1.0.0"\n[runtime]\nkind = "python"\nentry = "demo"\n'


def problems_of(text: str) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        parse_manifest((HEAD + text).encode(), source="x")
    return caught.value.problems


def written(folder: Path, spec: str = 'schema = "a.json", kind = "filter"') -> Path:
    (folder / "demo.py").touch()
    (folder / "plugin.toml").write_text(f'{HEAD}[provides.hook-specs]\n"a.b" = {{ {spec} }}\n')
    (folder / "a.json").write_text("{}")
    (folder / "found.json").write_text("[]")
    return folder


def test_hook_spec_has_defaults() -> None:
    manifest = parse_manifest((HEAD + '[provides.hook-specs]\n"a.b" = { schema = "a.json", kind = "action" }\n').encode(), source="x")
    assert manifest.provides.hook_specs == {"a.b": HookSpecOffer(schema="a.json", kind="action")}
    assert manifest.permission_set() == {"define:a.b"}


def test_hook_spec_that_makes_no_sense_is_refused_with_what_does() -> None:
    edit = [
        "result: expected no schema of a result, which is for first_result alone, got one for filter",
        "on-failure: expected one of 'open', 'closed', got 'shut'",
        "revision: expected a whole number from 1 to 1000000, got 0",
        "budget: expected a duration such as '500ms', '10s', '10m' or '1h', at most seven days, got 'soon'",
    ]
    assert problems_of(
        '[provides.hooks]\n"a.own" = { revision = 1 }\n[provides.hook-specs]\n"a.own" = { schema = "a.json", kind = "filter" }\n'
        '"a.stream" = { schema = "a.json", kind = "stream_filter" }\n"a.find" = { schema = "a.json", kind = "first_result" }\n'
        '"a.edit" = { schema = "a.json", kind = "filter", result = "b.json", revision = 0, on-failure = "shut", budget = "soon" }\n'
    ) == [
        "line 11: provides.hook-specs.'a.own': expected a hook that others implement, got one under [provides.hooks], too: "
        "a plugin does not call itself",
        "line 12: provides.hook-specs.'a.stream'.kind: expected one of 'filter', 'action', 'first_result', 'observer', got 'stream_filter'",
        "line 13: provides.hook-specs.'a.find'.result: expected a path inside the plugin's folder, relative and without '.' or '..', "
        "got nothing: the key is required",
        *(f"line 14: provides.hook-specs.'a.edit'.{problem}" for problem in edit),
    ]


def test_hook_specs_beyond_the_limit_are_refused() -> None:
    lines = "\n".join(f'"a.n{number}" = {{ schema = "a.json", kind = "filter" }}' for number in range(33))
    (problem,) = problems_of(f"[provides.hook-specs]\n{lines}\n")
    assert problem.endswith("expected at most 32 hooks of one plugin, got more")


def test_schemas_are_read_with_the_manifest(tmp_path: Path) -> None:
    manifest = read_manifest(written(tmp_path, 'schema = "a.json", kind = "first_result", result = "found.json"'))
    offer = manifest.provides.hook_specs["a.b"]
    assert (offer.schema_text, offer.result_text) == (b"{}", b"[]")


def test_schema_that_is_too_long_missing_or_outside_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path)
    (folder / "a.json").write_bytes(b" " * (MAX_HOOK_SCHEMA_BYTES + 1))
    with pytest.raises(ManifestError, match=rf"hook-specs\.'a\.b'\.schema: expected .* at most {MAX_HOOK_SCHEMA_BYTES} bytes"):
        read_manifest(folder)
    (folder / "a.json").unlink()
    with pytest.raises(ManifestError, match="got no such file"):
        read_manifest(folder)
    (folder / "a.json").symlink_to("/etc/hostname")
    with pytest.raises(ManifestError, match="got a link that leads elsewhere"):
        read_manifest(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_schema_that_is_a_pipe_keeps_nobody_waiting(tmp_path: Path) -> None:
    folder = written(tmp_path)
    (folder / "a.json").unlink()
    os.mkfifo(folder / "a.json")
    with pytest.raises(ManifestError, match="got no such file"):
        read_manifest(folder)


def test_scan_sees_a_schema_that_changed_alone(tmp_path: Path) -> None:
    folder = written(tmp_path)
    discovery = Discovery([tmp_path])
    (before,) = discovery.scan()
    assert discovery.scan() == (before,)
    (folder / "a.json").write_text('{"type": "object"}')
    (after,) = discovery.scan()
    assert before != after and after.manifest is not None
    assert after.manifest.provides.hook_specs["a.b"].schema_text == b'{"type": "object"}'


def implementing(name: str) -> Manifest:
    provides = Provides(hooks={name: HookImpl(revision=7)})
    return Manifest(id="demo", version="1.0.0", runtime=Runtime(kind="python"), provides=provides)


def test_hook_of_another_plugin_fits_in_whatever_revision() -> None:
    assert contract_problems(implementing("sums.add"), hooks={"chat.a": 1}, extensions={}, by_plugins={"sums.add"}) == []
    (problem,) = contract_problems(implementing("chat.a"), hooks={"chat.a": 1}, extensions={}, by_plugins={"chat.a"})
    assert isinstance(problem, RevisionMismatchError)


def test_unknown_hook_names_the_nearest_of_another_plugin_or_what_would_mend_it() -> None:
    (problem,) = contract_problems(implementing("sums.ad"), hooks={"chat.a": 1}, extensions={}, by_plugins={"sums.add"})
    assert problem.message.endswith("which the host does not open; expected 'sums.add'")
    (problem,) = contract_problems(implementing("x.y"), hooks={"chat.a": 1}, extensions={}, by_plugins={"sums.add"})
    assert problem.message.endswith(
        "expected one of 'chat.a'; plugins define 'sums.add'; or install the plugin that has it under [provides.hook-specs]: "
        "this one starts once that is there"
    )
    (problem,) = contract_problems(replace(implementing("x.y"), id="other"), hooks={"chat.a": 1}, extensions={})
    assert "plugins define" not in problem.message
