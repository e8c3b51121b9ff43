"""Text of a plugin.toml to a ``Manifest``.

Pure: no file is opened here. Every key that the format has is read and checked, whatever enforces it later.

* All problems are found in one pass; syntax, encoding, size and an unreadable format version alone stop it early.
* Text above ``MAX_MANIFEST_BYTES`` is refused before it is parsed.

Source: docs/reference/manifest.md; ADR-0015.
"""

from __future__ import annotations

from typing import Literal, cast

from annexe.errors import ManifestError
from annexe.manifest import model, names, values
from annexe.manifest.format import VERSION_KEY, migrate
from annexe.manifest.model import Manifest
from annexe.manifest.reader import Problems, Section
from annexe.manifest.toml import UnreadableTomlError, parse_toml
from annexe_sdk import wire

__all__ = ["MAX_MANIFEST_BYTES", "parse_manifest", "read_document"]

MAX_MANIFEST_BYTES = 64 * 1024

_KINDS_WITHOUT_ENTRY = ("skill", "composite")  # they may have one
_DEFAULT_KV_BYTES = 1024 * 1024
_DEFAULT_DATA_BYTES = 50 * 1024 * 1024
_MAX_HOOK_SPECS = 32
_REVISION = values.integer(1, 1_000_000)
_PRIORITY = values.integer(-1_000_000, 1_000_000)
_HTTP_METHOD = values.choice("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def parse_manifest(text: bytes, *, source: str) -> Manifest:
    """Parse and check a manifest.

    Args:
        text: Content of plugin.toml, UTF-8.
        source: Its path, for the error.

    Raises:
        ManifestError: With every problem.
    """
    manifest, problems = read_document(text, source=source)
    if problems:
        raise ManifestError(source=source, problems=problems.texts(), plugin=manifest.id or None)
    return manifest


def read_document(text: bytes, *, source: str) -> tuple[Manifest, Problems]:
    """Parse a manifest and return it with what is wrong with it, for callers who have more to check.

    Args:
        text: Content of plugin.toml, UTF-8.
        source: Its path, for the error.

    Returns:
        The manifest, in which a harmless stand-in (empty for texts) takes the place of each value that does not fit; and the problems.

    Raises:
        ManifestError: When the text is too long, not UTF-8, not TOML or of an unreadable format version.
    """
    try:
        document, problems = parse_toml(text, max_bytes=MAX_MANIFEST_BYTES)
    except UnreadableTomlError as error:
        raise ManifestError(source=source, problems=[error.problem]) from error
    current = migrate(document, problems)
    if current is None:
        raise ManifestError(source=source, problems=problems.texts())
    with Section(current, (), problems) as root:
        return _manifest(root), problems


def _manifest(root: Section) -> Manifest:
    root.take(VERSION_KEY, lambda _: None, None)  # judged by migrate
    with root.section("plugin") as plugin, root.section("sandbox") as sandbox, root.section("config") as config:
        provides = _provides(root)
        return Manifest(
            id=plugin.need("id", values.plugin_id, ""),
            version=plugin.need("version", values.version, ""),
            name=plugin.take("name", values.text, ""),
            description=plugin.take("description", values.text, ""),
            authors=plugin.items("authors", values.text),
            license=plugin.take("license", values.text, ""),
            homepage=plugin.take("homepage", values.homepage, ""),
            keywords=plugin.items("keywords", values.text),
            runtime=_runtime(root),
            provides=provides,
            requires=_requires(root),
            permissions=_permissions(root, topics=provides.topics),
            resources=_resources(root),
            sandbox_require=sandbox.take("require", values.choice(*model.SANDBOX_LEVELS), "none"),
            config_schema=config.take("schema", names.relative_path, None),
        )


def _runtime(root: Section) -> model.Runtime:
    with root.section("runtime") as runtime:
        kind = runtime.need("kind", values.choice(*model.RUNTIME_KINDS), "")
        entry, by_target = _entry(runtime, kind)
        start = runtime.take("start", values.choice("eager", "lazy"), "eager")
        return model.Runtime(
            kind=kind,
            entry=entry,
            entry_by_target=by_target,
            requires_host=runtime.take("requires-host", values.version_range, ""),
            requires_python=runtime.take("requires-python", values.version_range, ""),
            requires_os=runtime.items("requires-os", values.choice(*model.OPERATING_SYSTEMS)),
            requires_arch=runtime.items("requires-arch", values.choice(*model.ARCHITECTURES)),
            requires_libs=runtime.items("requires-libs", names.library_name),
            concurrency=runtime.take("concurrency", values.integer(1, 256), 1),
            streams=runtime.take("streams", values.integer(1, wire.MAX_STREAMS), 8),
            calls_per_s=runtime.take("calls-per-s", values.number(0, 1_000_000), None),
            start=cast(Literal["eager", "lazy"], start),
            idle_stop_s=runtime.take("idle-stop", values.duration_s, None),
            stream_drain_s=runtime.take("stream-drain", values.drain_s, None),
            instances=_instances(runtime),
        )


def _entry(runtime: Section, kind: str) -> tuple[str, dict[str, str]]:
    """Return the entry, or one for each target triple."""
    if kind == "python":
        return runtime.need("entry", names.module_name, ""), {}
    if runtime.holds_table("entry"):
        with runtime.section("entry") as table:
            by_target = {target: table.need(target, names.relative_path, "") for target in table.names(names.target_triple)}
        if not by_target:
            runtime.problem("entry", "expected a path for at least one target triple, got an empty table")
        return "", by_target
    if kind in _KINDS_WITHOUT_ENTRY:
        return runtime.take("entry", names.relative_path, ""), {}
    return runtime.need("entry", names.relative_path, ""), {}


def _instances(runtime: Section) -> model.Instances:
    with runtime.section("instances", like="{ min = 1, max = 4 }") as section:
        least = section.take("min", values.integer(1, 64), 1)
        most = section.take("max", values.integer(1, 64), least)
        if least > most:
            section.problem("max", f"expected at least {least}, which is min, got {most}")
        return model.Instances(min=least, max=most)


def _provides(root: Section) -> model.Provides:
    with (
        root.section("provides") as provides,
        provides.section("hooks") as hooks,
        provides.section("extensions") as extensions,
        provides.section("services") as services,
        provides.section("routes") as routes,
        provides.section("topics") as topics,
        provides.section("hook-specs") as hook_specs,
    ):
        return model.Provides(
            hooks={name: _hook(section) for name, section in hooks.sections(names.dotted_name)},
            extensions={
                name: model.ExtensionImpl(
                    revision=section.need("revision", _REVISION, 0), priority=section.take("priority", _PRIORITY, 100)
                )
                for name, section in extensions.sections(names.word)
            },
            services={
                name: model.ServiceOffer(
                    version=section.need("version", values.version, ""),
                    idempotent=section.items("idempotent", names.method_name),
                    schema=section.take("schema", names.relative_path, ""),
                )
                for name, section in services.sections(names.word, like='{ version = "1.0.0" }')
            },
            routes={
                path: model.Route(methods=section.items("methods", _HTTP_METHOD) or ("GET",), roles=section.items("roles", names.word))
                for path, section in routes.sections(names.route_path)
            },
            topics=tuple(name for name, _ in topics.sections(names.dotted_name)),
            hook_specs=_hook_specs(hook_specs, hooks),
        )


def _hook_specs(specs: Section, hooks: Section) -> dict[str, model.HookSpecOffer]:
    found: dict[str, model.HookSpecOffer] = {}
    for name, section in specs.sections(names.dotted_name, like='{ schema = "schemas/value.json", kind = "filter" }'):
        if len(found) == _MAX_HOOK_SPECS:
            specs.problem(name, f"expected at most {_MAX_HOOK_SPECS} hooks of one plugin, got more")
        if name in hooks:
            specs.problem(name, "expected a hook that others implement, got one under [provides.hooks], too: a plugin does not call itself")
        found[name] = _hook_spec(section)
    return found


def _hook_spec(section: Section) -> model.HookSpecOffer:
    kind = section.need("kind", values.choice(*model.HOOK_SPEC_KINDS), "")
    gives = kind == "first_result"
    result = section.need("result", names.relative_path, "") if gives else section.take("result", names.relative_path, "")
    if result and not gives:
        section.problem("result", f"expected no schema of a result, which is for first_result alone, got one for {kind}")
    on_failure = section.take("on-failure", values.choice("open", "closed"), "open")
    return model.HookSpecOffer(
        schema=section.need("schema", names.relative_path, ""),
        kind=kind,
        revision=section.take("revision", _REVISION, 1),
        result=result,
        on_failure=cast(Literal["open", "closed"], on_failure),
        budget_s=section.take("budget", values.duration_s, None),
    )


def _hook(section: Section) -> model.HookImpl:
    on_failure = section.take("on-failure", values.choice("open", "closed"), None)
    return model.HookImpl(
        revision=section.need("revision", _REVISION, 0),
        priority=section.take("priority", _PRIORITY, 100),
        before=section.items("before", values.plugin_id),
        after=section.items("after", values.plugin_id),
        on_failure=cast(Literal["open", "closed"] | None, on_failure),
    )


def _requires(root: Section) -> model.Requires:
    with root.section("requires") as requires, requires.section("plugins") as plugins, requires.section("services") as services:
        return model.Requires(
            plugins={name: plugins.need(name, values.version_range, "") for name in plugins.names(values.plugin_id)},
            services={
                name: model.ServiceNeed(
                    version=section.need("version", values.version_range, ""), optional=section.take("optional", values.boolean, False)
                )
                for name, section in services.sections(names.word, like='{ version = ">=1,<2" }')
            },
        )


def _permissions(root: Section, *, topics: tuple[str, ...]) -> model.Permissions:
    with (
        root.section("permissions") as permissions,
        permissions.section("data") as data,
        permissions.section("filesystem") as filesystem,
        permissions.section("events") as events,
    ):
        publish = events.items("publish", names.dotted_name)
        for topic in publish:
            if topic not in topics:
                text = f'expected only events that are declared, got {topic!r}; add under [provides.topics]: "{topic}" = {{}}'
                events.problem("publish", text)
        return model.Permissions(
            kv_quota_bytes=_quota(permissions, "kv", _DEFAULT_KV_BYTES),
            data_quota_bytes=data.take("quota", values.size_bytes, _DEFAULT_DATA_BYTES) if "data" in permissions else None,
            data_kept=data.take("kept", values.choice(*model.DATA_KEPT), "disk"),
            network=permissions.items("network", names.network_target),
            filesystem_read=filesystem.items("read", names.absolute_path),
            filesystem_write=filesystem.items("write", names.absolute_path),
            env=permissions.items("env", names.env_name),
            secrets=permissions.items("secrets", names.word),
            services=permissions.items("services", names.word),
            events_publish=publish,
            events_subscribe=events.items("subscribe", names.dotted_name),
            capabilities=permissions.items("capabilities", names.word),
            devices=permissions.items("devices", values.choice(*model.DEVICES)),
            subprocess=permissions.take("subprocess", values.boolean, False),
        )


def _quota(permissions: Section, key: str, default_bytes: int) -> int | None:
    """Return the quota of a right that is asked for by being there, None when it is not."""
    if key not in permissions:
        return None
    with permissions.section(key) as section:
        return section.take("quota", values.size_bytes, default_bytes)


def _resources(root: Section) -> model.Resources:
    default = model.Resources()
    with root.section("resources") as resources:
        return model.Resources(
            memory_bytes=resources.take("memory", values.size_bytes, default.memory_bytes),
            cpu=resources.take("cpu", values.number(0, 1024), default.cpu),
            processes=resources.take("processes", values.integer(1, 65_536), default.processes),
            open_files=resources.take("open-files", values.integer(16, 4096), default.open_files),
            disk_bytes=resources.take("disk", values.size_bytes, default.disk_bytes),
            start_timeout_s=resources.take("start-timeout", values.start_timeout_s, default.start_timeout_s),
            call_timeout_s=resources.take("call-timeout", values.duration_s, default.call_timeout_s),
        )
