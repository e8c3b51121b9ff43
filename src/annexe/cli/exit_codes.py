"""What the command's exit codes mean: one table.

Pure. Every class of ``annexe.errors`` stands here, by a test, so that a script can tell failures apart without reading text.

Source: docs/reference/cli.md is generated from here.
"""

from __future__ import annotations

from collections.abc import Mapping

from annexe import errors

__all__ = ["EXIT_CODES", "INTERRUPTED", "OK", "OTHER_CODES", "USAGE", "exit_code_named", "exit_code_of"]

OK = 0
USAGE = 2
INTERRUPTED = 130

OTHER_CODES: Mapping[int, str] = {
    OK: "It was done.",
    1: "It failed in a way that has no code of its own, `annexe doctor` found something amiss, `annexe attack` got something through, or "
    "the tests of `annexe learn` fail.",
    USAGE: "The command was written wrongly; nothing was done.",
    INTERRUPTED: "It was interrupted (Ctrl-C), or a question was answered with no.",
}

EXIT_CODES: Mapping[type[errors.AnnexeError], int] = {
    errors.AnnexeError: 1,
    errors.HostNotRunningError: 3,
    errors.HostAlreadyRunningError: 4,
    errors.UnknownPluginError: 5,
    errors.HostError: 6,
    errors.HostClosedError: 6,
    errors.WrongContextError: 6,
    errors.ManifestError: 10,
    errors.ContractError: 11,
    errors.RevisionMismatchError: 11,
    errors.DependencyError: 19,
    errors.PermissionDeniedError: 12,
    errors.SandboxError: 13,
    errors.LaunchError: 14,
    errors.HandshakeError: 14,
    errors.ActivationError: 14,
    errors.QuarantinedError: 15,
    errors.UnsupportedPlatformError: 16,
    errors.PluginBlockedError: 18,
    errors.ProtocolError: 17,
    errors.LocalProtocolError: 17,
    errors.RemoteProtocolError: 17,
    errors.CallError: 20,
    errors.CallTimeoutError: 21,
    errors.CallCancelledError: 22,
    errors.PluginUnavailableError: 23,
    errors.PluginBusyError: 24,
    errors.PluginRaisedError: 25,
    errors.InvalidParamsError: 26,
    errors.InvalidResultError: 27,
    errors.MethodNotFoundError: 28,
    errors.OutcomeUnknownError: 29,
    errors.HookError: 30,
    errors.RejectedError: 31,
    errors.StorageError: 40,
    errors.QuotaExceededError: 41,
    errors.RateLimitedError: 42,
    errors.ConflictError: 43,
    errors.ConfigInvalidError: 44,
}


def exit_code_of(error: errors.AnnexeError) -> int:
    """Return the exit code for an error; that of the nearest class above it for one that came later."""
    return next(EXIT_CODES[cls] for cls in type(error).__mro__ if cls in EXIT_CODES)


def exit_code_named(code: str) -> int:
    """Return the exit code for an error of which only its name was told; 1 for one that came later."""
    return next((number for cls, number in EXIT_CODES.items() if cls.code == code), 1)
