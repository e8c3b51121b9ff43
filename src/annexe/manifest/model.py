"""What a manifest says, as values.

Pure. Made by ``parse_manifest`` alone, which is where everything is checked; times in seconds, sizes in bytes.

* A permission here is *asked for*; what is granted is the business of ``annexe.trust``.
* Version ranges are kept as text and judged by ``annexe.manifest.versions``.

Source: docs/reference/manifest.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, final

__all__ = [
    "ARCHITECTURES",
    "DATA_KEPT",
    "DEVICES",
    "HOOK_SPEC_KINDS",
    "OPERATING_SYSTEMS",
    "RUNTIME_KINDS",
    "SANDBOX_LEVELS",
    "ExtensionImpl",
    "HookImpl",
    "HookSpecOffer",
    "Instances",
    "Manifest",
    "Permissions",
    "Provides",
    "Requires",
    "Resources",
    "Route",
    "Runtime",
    "ServiceNeed",
    "ServiceOffer",
]

RUNTIME_KINDS = ("python", "binary", "node", "wasm", "mcp", "skill", "composite")
OPERATING_SYSTEMS = ("linux", "macos", "windows")
ARCHITECTURES = ("x86_64", "aarch64", "armv7l", "riscv64", "ppc64le", "s390x")
HOOK_SPEC_KINDS = ("filter", "action", "first_result", "observer")
DATA_KEPT = ("disk", "memory")
DEVICES = ("gpu",)
SANDBOX_LEVELS = ("none", "limits", "landlock-partial", "landlock", "namespaces", "full")  # weakest first

_MIB = 1024 * 1024


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Instances:
    """How many instances of the plugin run."""

    min: int = 1
    max: int = 1


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """How the plugin is started and what it must find there.

    Attributes:
        entry: For ``python`` a dotted module, else a path relative to the plugin's folder; empty when there is one for each target.
        entry_by_target: Relative path by target triple.
        calls_per_s: Calls that the plugin is sent at most, on average over a second; None: as many as there are.
        idle_stop_s: A lazy plugin is stopped after this long without a call; None: never.
        stream_drain_s: How long streams may go on at an instance that another one has taken over from; 0: they end at once, None: they
            have as long as other calls.
    """

    kind: str
    entry: str = ""
    entry_by_target: Mapping[str, str] = field(default_factory=dict)
    requires_host: str = ""
    requires_python: str = ""
    requires_os: tuple[str, ...] = ()
    requires_arch: tuple[str, ...] = ()
    requires_libs: tuple[str, ...] = ()
    concurrency: int = 1
    streams: int = 8
    calls_per_s: float | None = None
    start: Literal["eager", "lazy"] = "eager"
    idle_stop_s: float | None = None
    stream_drain_s: float | None = None
    instances: Instances = field(default_factory=Instances)

    def entry_for(self, targets: tuple[str, ...]) -> str:
        """Return the entry for the first of these target triples that has one, empty when none has."""
        return self.entry or next((self.entry_by_target[target] for target in targets if target in self.entry_by_target), "")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HookImpl:
    """A hook that the plugin implements. ``on_failure`` None leaves it to the hook's own policy."""

    revision: int
    priority: int = 100
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    on_failure: Literal["open", "closed"] | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ExtensionImpl:
    """An extension that the plugin provides."""

    revision: int
    priority: int = 100


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOffer:
    """A service for other plugins. Calls of an idempotent method may be retried on another instance.

    Attributes:
        schema: Path, inside the folder, of the JSON Schema of its methods; empty where there is none.
        schema_text: What is in the file, once it was read.
    """

    version: str
    idempotent: tuple[str, ...] = ()
    schema: str = ""
    schema_text: bytes = b""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """An HTTP route that the plugin answers, for these roles (none named: nobody)."""

    methods: tuple[str, ...] = ("GET",)
    roles: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HookSpecOffer:
    """A hook that the plugin opens to others.

    Attributes:
        schema: Path, inside its folder, of the JSON Schema of the value that goes from plugin to plugin.
        kind: Of ``HOOK_SPEC_KINDS``.
        result: Path of that of what a ``first_result`` hook gives; empty for other kinds.
        on_failure: The hook's own policy; who implements it, and the operator, can only make it stricter.
        budget_s: The most one plugin may take; None: no budget of its own.
        schema_text: What is in the file, once it was read.
        result_text: As ``schema_text``.
    """

    schema: str
    kind: str
    revision: int = 1
    result: str = ""
    on_failure: Literal["open", "closed"] = "open"
    budget_s: float | None = None
    schema_text: bytes = b""
    result_text: bytes = b""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Provides:
    """All that the plugin may answer: what is not here is refused at activation."""

    hooks: Mapping[str, HookImpl] = field(default_factory=dict)
    extensions: Mapping[str, ExtensionImpl] = field(default_factory=dict)
    services: Mapping[str, ServiceOffer] = field(default_factory=dict)
    routes: Mapping[str, Route] = field(default_factory=dict)
    topics: tuple[str, ...] = ()
    hook_specs: Mapping[str, HookSpecOffer] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceNeed:
    """A service of another plugin that this one uses."""

    version: str
    optional: bool = False


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Requires:
    """Other plugins (version range by id) and services that must be there."""

    plugins: Mapping[str, str] = field(default_factory=dict)
    services: Mapping[str, ServiceNeed] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Permissions:
    """What the plugin asks for. A quota of None: the right is not asked for.

    Attributes:
        data_kept: Of ``DATA_KEPT``, where the private folder is.
    """

    kv_quota_bytes: int | None = None
    data_quota_bytes: int | None = None
    data_kept: str = "disk"
    network: tuple[str, ...] = ()
    filesystem_read: tuple[str, ...] = ()
    filesystem_write: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    events_publish: tuple[str, ...] = ()
    events_subscribe: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    subprocess: bool = False

    def as_set(self) -> frozenset[str]:
        """Return the rights asked for, one text each: ``kv``, ``cap:orders``, ``network:api.example.org:443``."""
        named = {
            "network": self.network,
            "filesystem.read": self.filesystem_read,
            "filesystem.write": self.filesystem_write,
            "env": self.env,
            "secrets": self.secrets,
            "services": self.services,
            "events.publish": self.events_publish,
            "events.subscribe": self.events_subscribe,
            "cap": self.capabilities,
            "devices": self.devices,
        }
        plain = {"kv": self.kv_quota_bytes is not None, "data": self.data_quota_bytes is not None, "subprocess": self.subprocess}
        return frozenset(f"{kind}:{name}" for kind, names in named.items() for name in names) | {
            kind for kind, asked in plain.items() if asked
        }


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What the plugin needs; the operator's caps win."""

    memory_bytes: int = 256 * _MIB
    cpu: float = 1.0
    processes: int = 16
    open_files: int = 64
    disk_bytes: int = 50 * _MIB
    start_timeout_s: float = 10.0
    call_timeout_s: float = 1.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One valid plugin.toml.

    Attributes:
        sandbox_require: Lowest sandbox level that the author accepts, one of ``SANDBOX_LEVELS``.
        config_schema: Path inside the plugin's folder; None when the plugin takes no configuration.
    """

    id: str
    version: str
    runtime: Runtime
    name: str = ""
    description: str = ""
    authors: tuple[str, ...] = ()
    license: str = ""
    homepage: str = ""
    keywords: tuple[str, ...] = ()
    provides: Provides = field(default_factory=Provides)
    requires: Requires = field(default_factory=Requires)
    permissions: Permissions = field(default_factory=Permissions)
    resources: Resources = field(default_factory=Resources)
    sandbox_require: str = "none"
    config_schema: str | None = None

    def permission_set(self) -> frozenset[str]:
        """Return the rights asked for, as ``Permissions.as_set`` does, and those for names that it claims.

        ``provide:tokenizer`` for each service that it offers, ``define:redactor.pattern`` for each hook that it defines.
        """
        claims = {f"provide:{service}" for service in self.provides.services} | {f"define:{hook}" for hook in self.provides.hook_specs}
        return self.permissions.as_set() | claims
