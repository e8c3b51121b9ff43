"""Every error annexe raises.

AnnexeError
├── ManifestError                a plugin.toml that cannot be accepted; all problems at once
├── ContractError                a hook spec, extension point or capability defined wrongly, or a plugin that does not fit it
│   ├── RevisionMismatchError    plugin and host speak of different revisions
│   └── DependencyError          a plugin whose requirements make a ring, or too many
├── PermissionDeniedError        a right that was not asked for, or not granted
├── SandboxError                 an isolation layer failed or is missing
├── LaunchError                  a plugin did not start
│   ├── HandshakeError           versions, codec or first messages were wrong; plugin code was not loaded
│   ├── ActivationError          the plugin's own code failed to load or to initialise
│   ├── PluginBlockedError       it waits for a person: grant, requirement, contract, configuration
│   ├── QuarantinedError         too many failures in a row; a person retries
│   └── UnsupportedPlatformError this operating system cannot run it
├── ProtocolError                a peer broke the wire protocol; the connection ends
│   ├── LocalProtocolError       we did
│   └── RemoteProtocolError      the plugin did
├── CallError                    one call did not give a result
│   ├── CallTimeoutError         its deadline passed
│   ├── CallCancelledError       its caller, or the host, called it off
│   ├── PluginUnavailableError   no ready instance, or none installed
│   ├── PluginBusyError          a bounded queue is full
│   ├── PluginRaisedError        the plugin's handler raised
│   ├── InvalidParamsError       the arguments do not fit the declared types
│   ├── InvalidResultError       the result does not fit the declared type
│   ├── MethodNotFoundError      the callee has no such method
│   └── OutcomeUnknownError      the plugin went away with the call; it may or may not have happened
├── HookError                    a fail-closed plugin could not answer, so the request fails
├── RejectedError                a plugin refused on purpose; an answer, not a failure
├── StorageError                 the host's own store failed
│   ├── QuotaExceededError       a plugin's share is full
│   ├── RateLimitedError         a plugin asks too often
│   └── ConflictError            what is to be changed has changed since it was read
├── ConfigInvalidError           configuration that does not fit its schema, or a schema that is refused
└── HostError                    the host itself
    ├── HostAlreadyRunningError  another host holds this state directory
    ├── HostNotRunningError      nothing answers on the control socket
    ├── HostClosedError          used before it was opened or after it was closed
    ├── WrongContextError        used from a forked child, or a sync call inside a running loop
    └── UnknownPluginError       no plugin of that id

Each error has a stable kebab-case ``code`` and carries its facts as attributes, so that callers need not read the text.
Text says what happened, to which plugin, "expected X, got Y", and the command or line that mends it.

Source: docs/reference/errors.md is generated from this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

__all__ = [
    "ActivationError",
    "AnnexeError",
    "CallCancelledError",
    "CallError",
    "CallTimeoutError",
    "ConfigInvalidError",
    "ConflictError",
    "ContractError",
    "DependencyError",
    "HandshakeError",
    "HookError",
    "HostAlreadyRunningError",
    "HostClosedError",
    "HostError",
    "HostNotRunningError",
    "InvalidParamsError",
    "InvalidResultError",
    "LaunchError",
    "LocalProtocolError",
    "ManifestError",
    "MethodNotFoundError",
    "OutcomeUnknownError",
    "PermissionDeniedError",
    "PluginBlockedError",
    "PluginBusyError",
    "PluginRaisedError",
    "PluginUnavailableError",
    "ProtocolError",
    "QuarantinedError",
    "QuotaExceededError",
    "RateLimitedError",
    "RejectedError",
    "RemoteProtocolError",
    "RevisionMismatchError",
    "SandboxError",
    "StorageError",
    "UnknownPluginError",
    "UnsupportedPlatformError",
    "WrongContextError",
]


class AnnexeError(Exception):
    """Base of everything annexe raises.

    Args:
        message: One or more full sentences for a person.
        plugin: Id of the plugin concerned, where there is one.
        data: Further facts; each becomes an attribute and part of ``data``. Values must be JSON-able.

    Attributes:
        code: Stable kebab-case name of the kind of error, the same on the wire, in the API and in logs.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, plugin: str | None = None, **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.plugin = plugin
        self.data: Mapping[str, Any] = data
        for name, value in data.items():
            setattr(self, name, value)

    def __str__(self) -> str:
        return self.message

    def as_dict(self) -> dict[str, Any]:
        """Return it as it is told in JSON."""
        return {"code": self.code, "message": self.message, "plugin": self.plugin, "data": dict(self.data)}

    def __reduce__(self) -> tuple[Any, ...]:
        # Applications send errors between their processes (task queues, process pools); most subclasses cannot be made from the text alone.
        return type(self).restored, (self.message, self.plugin, dict(self.data))

    @classmethod
    def restored(cls, message: str, plugin: str | None, data: Mapping[str, Any]) -> Self:
        """Return an error that was made elsewhere, with the text it had there."""
        error = cls.__new__(cls, message)
        AnnexeError.__init__(error, message, plugin=plugin, **data)
        return error


class ManifestError(AnnexeError):
    """A manifest that cannot be accepted.

    Args:
        source: The manifest's path as given.
        problems: One text for each problem, all found in one pass.
    """

    code = "manifest-invalid"
    source: str
    problems: list[str]

    def __init__(self, *, source: str, problems: Sequence[str], plugin: str | None = None) -> None:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(f"{source} is not a valid manifest:\n{listed}", plugin=plugin, source=source, problems=list(problems))


class ContractError(AnnexeError):
    """A contract is defined wrongly, or a plugin does not fit it."""

    code = "contract-invalid"


class RevisionMismatchError(ContractError):
    """Plugin and host speak of different revisions of one contract."""

    code = "revision-mismatch"
    contract: str
    expected: int
    actual: int

    def __init__(self, *, plugin: str, contract: str, expected: int, actual: int) -> None:
        older = "the plugin" if actual < expected else "the host"
        super().__init__(
            f"plugin {plugin!r} implements {contract} revision {actual}, expected {expected}; {older} must be upgraded.",
            plugin=plugin,
            contract=contract,
            expected=expected,
            actual=actual,
        )


class DependencyError(ContractError):
    """What a plugin requires, or who requires it, makes a ring of requirements or more than a host keeps; it is not taken up.

    Attributes:
        path: The ring, from the plugin over what it requires back to itself; empty where there is none.
    """

    code = "dependency-refused"
    path: list[str]


class PermissionDeniedError(AnnexeError):
    """A plugin used a right it has not.

    Args:
        plugin: Who.
        permission: What, as ``kind`` or ``kind:name`` (``kv``, ``cap:orders``).
        manifest_line: The line for plugin.toml that would ask for it; empty when it is asked for already.
        command: The operator's command that would grant it.
    """

    code = "permission-denied"
    permission: str
    manifest_line: str
    command: str

    def __init__(self, *, plugin: str, permission: str, manifest_line: str, command: str) -> None:
        missing = f"add to plugin.toml under [permissions]: {manifest_line}; then " if manifest_line else ""
        super().__init__(
            f"plugin {plugin!r} has no permission {permission!r}; {missing}grant it with: {command}",
            plugin=plugin,
            permission=permission,
            manifest_line=manifest_line,
            command=command,
        )


class SandboxError(AnnexeError):
    """An isolation layer failed, or a required one is missing."""

    code = "sandbox-failed"


class LaunchError(AnnexeError):
    """A plugin did not start."""

    code = "launch-failed"


class HandshakeError(LaunchError):
    """The first exchange failed, before any plugin code was loaded."""

    code = "handshake-failed"


class ActivationError(LaunchError):
    """The plugin's own code failed to load, to initialise, or to provide what its manifest declares."""

    code = "activation-failed"


class PluginBlockedError(LaunchError):
    """A plugin may not start until a person acts: a grant, a requirement, a contract or its configuration is missing or wrong."""

    code = "blocked"


class QuarantinedError(LaunchError):
    """A plugin failed too often in a row and waits for a person."""

    code = "quarantined"


class UnsupportedPlatformError(LaunchError):
    """This operating system, processor or Python cannot run the plugin."""

    code = "platform-unsupported"


class ProtocolError(AnnexeError):
    """A peer broke the wire protocol; the connection ends.

    Args:
        rule: Stable name of the rule in docs/reference/protocol.md.
    """

    code = "protocol-error"
    rule: str

    def __init__(self, message: str, *, rule: str, plugin: str | None = None) -> None:
        super().__init__(message, plugin=plugin, rule=rule)


class LocalProtocolError(ProtocolError):
    """Our side would break the protocol; nothing was sent."""

    code = "protocol-error-local"


class RemoteProtocolError(ProtocolError):
    """The plugin broke the protocol."""

    code = "protocol-error-remote"


class CallError(AnnexeError):
    """One call did not give a result.

    Args:
        method: Name of the method on the wire.
    """

    code = "call-failed"
    method: str

    def __init__(self, message: str, *, plugin: str | None = None, method: str = "", **data: Any) -> None:
        super().__init__(message, plugin=plugin, method=method, **data)


class CallTimeoutError(CallError):
    """The deadline passed before the answer came."""

    code = "deadline-exceeded"


class CallCancelledError(CallError):
    """The caller, or the host on its behalf, called it off."""

    code = "cancelled"


class PluginUnavailableError(CallError):
    """No instance can take the call: none installed, none ready, or the breaker is open."""

    code = "unavailable"


class PluginBusyError(CallError):
    """A bounded queue on the way is full."""

    code = "busy"


class PluginRaisedError(CallError):
    """The plugin's handler raised; ``data`` holds type, message and the last frame's file and line as the plugin told them."""

    code = "plugin-raised"


class InvalidParamsError(CallError):
    """The arguments do not fit the declared types."""

    code = "invalid-params"


class InvalidResultError(CallError):
    """The result does not fit the declared type; names plugin, hook, path in the value, expected and actual."""

    code = "invalid-result"


class MethodNotFoundError(CallError):
    """The callee has no such method."""

    code = "method-not-found"


class OutcomeUnknownError(CallError):
    """The plugin went away while the call was open; it may or may not have happened."""

    code = "outcome-unknown"


class HookError(AnnexeError):
    """A fail-closed hook could not be answered, so the request fails.

    Args:
        hook: Qualified name, ``chat.on_request``.
        reason: Code of the error behind it (also ``__cause__``).
    """

    code = "hook-failed"
    hook: str
    reason: str

    def __init__(self, message: str, *, plugin: str, hook: str, reason: str) -> None:
        super().__init__(message, plugin=plugin, hook=hook, reason=reason)


class RejectedError(AnnexeError):
    """A plugin refused on purpose. An answer, not a failure: it passes through every failure policy.

    Args:
        reject_code: The plugin's own code, for example ``rate-limited``.
        status: HTTP status the plugin proposes.
        retry_after_s: When to try again, in seconds, if the plugin said so.
    """

    code = "rejected"
    hook: str
    reject_code: str
    status: int
    retry_after_s: float | None

    def __init__(self, message: str, *, plugin: str, hook: str, reject_code: str, status: int, retry_after_s: float | None = None) -> None:
        super().__init__(message, plugin=plugin, hook=hook, reject_code=reject_code, status=status, retry_after_s=retry_after_s)


class StorageError(AnnexeError):
    """The host's store failed."""

    code = "storage-failed"


class QuotaExceededError(StorageError):
    """A plugin's share of the store is full; figures in ``limit_bytes``, ``used_bytes``, ``wanted_bytes``."""

    code = "quota-exceeded"


class RateLimitedError(StorageError):
    """A plugin uses a host service more often than it may; ``retry_after_s`` says when to try again."""

    code = "rate-limited"


class ConflictError(StorageError):
    """What is to be changed has changed since it was read; ``expected_revision`` and ``actual_revision`` say how far."""

    code = "conflict"


class ConfigInvalidError(AnnexeError):
    """Configuration that does not fit its schema, or a schema that is refused."""

    code = "config-invalid"


class HostError(AnnexeError):
    """The host itself cannot do what was asked."""

    code = "host-error"


class HostAlreadyRunningError(HostError):
    """Another host holds this state directory."""

    code = "host-already-running"


class HostNotRunningError(HostError):
    """Nothing answers on the control socket of this state directory."""

    code = "host-not-running"


class HostClosedError(HostError):
    """The host is not open (yet, or any more)."""

    code = "host-closed"


class WrongContextError(HostError, RuntimeError):
    """Used from a forked child, from another loop, or synchronously inside a running loop."""

    code = "wrong-context"


class UnknownPluginError(HostError):
    """No plugin of that id is known to this host."""

    code = "unknown-plugin"
