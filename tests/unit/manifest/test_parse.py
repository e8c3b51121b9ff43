"""What a manifest may say, and what is said of one that may not."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest

from annexe.errors import ManifestError
from annexe.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest
from annexe.manifest.model import HookImpl, Instances, Resources, Route

FULL = (Path(__file__).parent / "full.toml").read_bytes()
MINIMAL = b"""manifest-version = 1
[plugin]
id = "demo"
version = "1.0.0"
[runtime]
kind = "python"
entry = "demo"
"""


def problems_of(text: bytes) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(text, source="x/plugin.toml")
    assert caught.value.source == "x/plugin.toml"
    assert str(caught.value).startswith("x/plugin.toml is not a valid manifest:\n  - ")
    problems = caught.value.data["problems"]
    assert isinstance(problems, list)
    return problems


def with_line(line: str, *, section: str = "") -> bytes:
    """The minimal manifest with one more line: at the end, or as the first of a section (line 8 or its header's next)."""
    return MINIMAL + (f"[{section}]\n{line}\n" if section else f"{line}\n").encode()


def values_at_default(value: object) -> list[str]:
    """Names of all fields below a value that have their default."""
    found: list[str] = []
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            inner = getattr(value, field.name)
            default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
            found += [field.name] if inner == default else values_at_default(inner)
    elif isinstance(value, dict):
        found = [name for inner in value.values() for name in values_at_default(inner)]
    return found


def test_parse_minimal_manifest_gives_defaults() -> None:
    manifest = parse_manifest(MINIMAL, source="x")
    assert (manifest.id, manifest.version, manifest.runtime.kind, manifest.runtime.entry) == ("demo", "1.0.0", "python", "demo")
    assert manifest.permission_set() == frozenset()
    assert manifest.resources == Resources()
    assert manifest.runtime.instances == Instances(min=1, max=1)
    assert manifest.sandbox_require == "none"
    assert manifest.config_schema is None


def test_parse_full_manifest_fills_every_field() -> None:
    # The one field that cannot be there beside the other entry.
    # Nor are the schemas of services and hooks in it: they are files of their own.
    assert values_at_default(parse_manifest(FULL, source="x")) == ["entry_by_target", "schema_text", "schema_text", "result_text"]


def test_parse_full_manifest_converts_values() -> None:
    manifest = parse_manifest(FULL, source="x")
    assert manifest.provides.hooks == {
        "chat.on_request": HookImpl(revision=1, priority=10, before=("answer-cache",), after=("rate-limiter",), on_failure="closed")
    }
    assert manifest.provides.routes == {"/redactions": Route(methods=("GET", "POST"), roles=("operator",))}
    assert manifest.provides.topics == ("redaction.done",)
    assert manifest.requires.plugins == {"base-patterns": ">=1"}
    assert manifest.runtime.idle_stop_s == 600.0
    assert manifest.runtime.stream_drain_s == 600.0
    assert manifest.resources == Resources(
        memory_bytes=128 * 1024**2, cpu=2.0, processes=8, open_files=32, disk_bytes=60 * 1024**2, start_timeout_s=540.0, call_timeout_s=0.5
    )
    assert manifest.permissions.kv_quota_bytes == 2 * 1024**2


def test_permission_set_is_normalised() -> None:
    assert parse_manifest(FULL, source="x").permission_set() == {
        "kv",
        "data",
        "network:api.example.org:443",
        "network:[2001:db8::1]:8080",
        "filesystem.read:/srv/models",
        "filesystem.write:/srv/out",
        "env:HTTP_TIMEOUT",
        "secrets:api-key",
        "services:tokenizer",
        "provide:tokenizer",
        "define:redactor.pattern",
        "events.publish:redaction.done",
        "events.subscribe:chat.done",
        "cap:orders",
        "devices:gpu",
        "subprocess",
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(MINIMAL.replace(b'id = "demo"\n', b""), "line 2: plugin.id: expected a plugin id", id="missing field"),
        pytest.param(
            b"manifest-version = 1\n[plugin]\nid='a'\nversion='1.0.0'\n",
            "line 1: runtime.kind: expected one of 'python', 'binary', 'node', 'wasm', 'mcp', 'skill', 'composite', got nothing: "
            "the key is required",
            id="missing table",
        ),
        pytest.param(
            with_line("licence = 1", section="resources"), "line 9: resources.licence: expected one of 'memory'", id="unknown field"
        ),
        pytest.param(
            with_line("open_files = 64", section="resources"),
            "line 9: resources.open_files: expected 'open-files', got an unknown key",
            id="misspelt field",
        ),
        pytest.param(
            with_line("open-files = 4097", section="resources"),
            "line 9: resources.open-files: expected a whole number from 16 to 4096, got 4097",
            id="more open files than a user may have on their way",
        ),
        pytest.param(with_line("[permission]"), "line 8: permission: expected 'permissions', got an unknown key", id="misspelt table"),
        pytest.param(
            with_line("concurrency = '1'"),
            "line 8: runtime.concurrency: expected a whole number from 1 to 256, got '1'",
            id="mistyped field",
        ),
        pytest.param(
            with_line("requires-os = 'linux'"), "line 8: runtime.requires-os: expected an array of at most 256", id="text for array"
        ),
        pytest.param(
            with_line("requires-os = [\n'linux',\n'linuks']"),
            "line 10: runtime.requires-os[1]: expected one of 'linux', 'macos', 'windows', got 'linuks'",
            id="element",
        ),
        pytest.param(with_line("requires-os = ['linux', 'linux']"), "expected every element once, got 'linux' twice", id="element twice"),
        pytest.param(with_line("hooks = 5", section="provides"), "line 9: provides.hooks: expected a table, got 5", id="value for table"),
        pytest.param(
            with_line("instances = [1]"),
            "line 8: runtime.instances: expected a table such as { min = 1, max = 4 }, got an array of 1",
            id="array for table",
        ),
        pytest.param(
            with_line('services = { words = "1.0.0" }', section="provides"),
            "line 9: provides.services.words: expected a table such as { version = \"1.0.0\" }, got '1.0.0'",
            id="text for a service",
        ),
        pytest.param(
            with_line('services = { words = ">=1" }', section="requires"),
            "line 9: requires.services.words: expected a table such as { version = \">=1,<2\" }, got '>=1'",
            id="text for a required service",
        ),
        pytest.param(
            with_line("instances = { min = 3, max = 2 }"),
            "line 8: runtime.instances.max: expected at least 3, which is min, got 2",
            id="max below min",
        ),
        pytest.param(MINIMAL.replace(b'"demo"\nv', b'"Demo_1"\nv'), "line 3: plugin.id: expected a plugin id", id="bad id"),
        pytest.param(
            MINIMAL.replace(b"1.0.0", b"1.0"),
            "line 4: plugin.version: expected a semantic version such as '1.2.0', got '1.0'",
            id="bad version",
        ),
        pytest.param(
            with_line("requires-host = '^1'"),
            "line 8: runtime.requires-host: expected a version range such as '>=1,<2', got '^1'",
            id="bad range",
        ),
        pytest.param(
            with_line("base = 1", section="requires.plugins"),
            "line 9: requires.plugins.base: expected a version range",
            id="mistyped range",
        ),
        pytest.param(
            MINIMAL.replace(b'"demo"\n', b'"../evil"\n').replace(b'id = "../evil"', b'id = "demo"'),
            "line 7: runtime.entry: expected a module inside the plugin's folder such as 'my_plugin.main', got '../evil'",
            id="python entry leaves the folder",
        ),
        pytest.param(
            MINIMAL.replace(b"python", b"binary").replace(b'entry = "demo"', b'entry = "../bin/x"'),
            "line 7: runtime.entry: expected a path inside the plugin's folder, relative and without '.' or '..', got '../bin/x'",
            id="binary entry leaves the folder",
        ),
        pytest.param(
            MINIMAL.replace(b"python", b"node").replace(b'entry = "demo"', b'entry = "/bin/sh"'),
            "line 7: runtime.entry: expected a path inside the plugin's folder",
            id="absolute entry",
        ),
        pytest.param(
            MINIMAL.replace(b"python", b"binary").replace(b'entry = "demo"', b'entry = { Linux = "a", x-y = "/b" }'),
            "line 7: runtime.entry.x-y: expected a path inside the plugin's folder",
            id="entry by target",
        ),
        pytest.param(
            MINIMAL.replace(b"python", b"binary").replace(b'entry = "demo"', b"entry = {}"),
            "line 7: runtime.entry: expected a path for at least one target triple, got an empty table",
            id="no target",
        ),
        pytest.param(MINIMAL.replace(b"python", b"pyton"), "line 6: runtime.kind: expected one of 'python'", id="unknown kind"),
        pytest.param(
            with_line('"on_request" = { revision = 1 }', section="provides.hooks"),
            "line 9: provides.hooks.on_request: expected lower-case names joined by dots",
            id="bad hook name",
        ),
        pytest.param(
            with_line('"chat.x" = { revision = 0 }', section="provides.hooks"),
            "line 9: provides.hooks.'chat.x'.revision: expected a whole number from 1 to 1000000, got 0",
            id="bad revision",
        ),
        pytest.param(
            with_line("kv = true", section="permissions"), "line 9: permissions.kv: expected a table, got true", id="kv without table"
        ),
        pytest.param(
            with_line("network = ['*:443']", section="permissions"),
            "line 9: permissions.network[0]: expected an address as host:port",
            id="target",
        ),
        pytest.param(
            with_line("events = { publish = ['a.done'] }", section="permissions"),
            "line 9: permissions.events.publish: expected only events that are declared, got 'a.done'; "
            'add under [provides.topics]: "a.done" = {}',
            id="event that is not declared",
        ),
        pytest.param(with_line("start = {}"), "line 8: runtime.start: expected one of 'eager', 'lazy', got a table", id="table for text"),
        pytest.param(with_line("cpu = nan", section="resources"), "got nan", id="nan"),
        pytest.param(with_line("cpu = 1979-05-27", section="resources"), "got a date or time", id="date"),
        pytest.param(with_line(f"cpu = 0x{'f' * 9000}", section="resources"), "got a very large number", id="large number"),
        pytest.param(
            with_line("require = 'strong'", section="sandbox"), "line 9: sandbox.require: expected one of 'none', 'limits'", id="level"
        ),
        pytest.param(
            with_line('"\\u001b[31m" = 1', section="sandbox"), "line 9: sandbox.'\\x1b[31m': expected one of 'require'", id="escape in key"
        ),
        pytest.param(with_line("x = 1", section='provides.topics."a.b"'), "expected no keys here, got an unknown key", id="no keys"),
        pytest.param(MINIMAL.replace(b"= 1\n", b"= 2\n", 1), "got 2; the host must be upgraded", id="newer format"),
        pytest.param(
            MINIMAL.replace(b"manifest-version = 1\n", b""), "manifest-version: expected a format version from 1 to 1", id="no format"
        ),
        pytest.param(b"\xff" + MINIMAL, "line 1: expected UTF-8, got byte 0xff", id="not utf-8"),
        pytest.param(MINIMAL + b"name = '\xe9'", "line 8: expected UTF-8, got byte 0xe9", id="not utf-8 further down"),
        pytest.param(MINIMAL + b"# " + b"x" * 1024 * 1024, f"expected at most {MAX_MANIFEST_BYTES} bytes, got more", id="1 MB"),
        pytest.param(MINIMAL + b"x = [", "expected TOML: ", id="not toml"),
        pytest.param(b"x = " + b"9" * 5000, "expected TOML: ", id="endless number"),
        pytest.param(b"x = " + b"[" * 50_000, "expected TOML, got arrays or tables nested too deeply", id="deeply nested"),
        pytest.param(b"a." * 30_000 + b"a = 1", "line 1: expected keys of at most 16 parts, got a longer one", id="endless key"),
    ],
)
def test_parse_of_what_does_not_fit_says_where_and_what(text: bytes, problem: str) -> None:
    problems = problems_of(text)
    assert any(problem in found for found in problems), problems


def test_parse_reports_every_problem_at_once_in_order_of_lines() -> None:
    text = b"manifest-version = 1\n[plugin]\nid = 'A'\nversion = '1'\n[resources]\nmemory = '1'\ncpu = 0\n[runtime]\nkind = 'python'\n"
    problems = problems_of(text)
    assert [problem.split(":")[1].strip() for problem in problems] == [
        "plugin.id",
        "plugin.version",
        "resources.memory",
        "resources.cpu",
        "runtime.entry",
    ]


def test_parse_error_names_the_plugin_when_its_id_is_readable() -> None:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(with_line("streams = 0"), source="x")
    assert caught.value.plugin == "demo"
    with pytest.raises(ManifestError) as caught:
        parse_manifest(b"manifest-version = 1", source="x")
    assert caught.value.plugin is None


def test_parse_of_many_problems_is_bounded_and_quick() -> None:
    text = MINIMAL + b"".join(b"concurency%d = 1\n" % number for number in range(3000))
    started_s = time.process_time()
    problems = problems_of(text)
    assert time.process_time() - started_s < 5
    assert len(problems) == 101
    assert problems[-1] == "and 2900 more"


def test_parse_shows_long_values_cut() -> None:
    (problem,) = problems_of(with_line(f"start = '{'x' * 5000}'"))
    assert len(problem) < 200
    assert problem.endswith("... (5000 characters)")
    (problem,) = problems_of(with_line(f"{'y' * 5000} = 1"))
    assert "(5000 characters)" in problem


@pytest.mark.parametrize("kind", ["skill", "composite"])
def test_parse_kind_without_code_needs_no_entry(kind: str) -> None:
    manifest = parse_manifest(MINIMAL.replace(b"python", kind.encode()).replace(b'entry = "demo"\n', b""), source="x")
    assert manifest.runtime.entry == ""


def test_parse_max_instances_default_to_min() -> None:
    assert parse_manifest(with_line("instances = { min = 4 }"), source="x").runtime.instances == Instances(min=4, max=4)


def test_entry_for_takes_the_first_target_that_has_one() -> None:
    text = (
        MINIMAL.replace(b"python", b"binary")
        .replace(b'"demo"\n', b'{ a-b = "one", c-d = "two" }\n')
        .replace(b'id = { a-b = "one", c-d = "two" }', b'id = "demo"')
    )
    runtime = parse_manifest(text, source="x").runtime
    assert runtime.entry_for(("x-y", "c-d", "a-b")) == "two"
    assert runtime.entry_for(("x-y",)) == ""
    assert parse_manifest(MINIMAL, source="x").runtime.entry_for(()) == "demo"


def test_manifest_cannot_be_changed() -> None:
    manifest: Manifest = parse_manifest(MINIMAL, source="x")
    with pytest.raises(dataclasses.FrozenInstanceError):
        manifest.id = "other"  # type: ignore[misc]
