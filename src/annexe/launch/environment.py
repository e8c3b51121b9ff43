"""What a plugin sees of the host's environment: an allow-list.

Pure: the environment is passed in. Nothing is copied because it looks harmless; secrets live in environments.

Source: feature IS6.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from annexe.manifest.names import is_env_name

__all__ = ["plugin_environment"]

_PATH = "/usr/local/bin:/usr/bin:/bin"
_PASSED = frozenset({"LANG", "TZ"})
_PASSED_PREFIX = "LC_"


def plugin_environment(host: Mapping[str, str], *, granted: Iterable[str] = ()) -> dict[str, str]:
    """Return a plugin's environment.

    Args:
        host: The host's own environment.
        granted: Names that the manifest asks for and an operator granted; those that the host lacks are left out.

    Raises:
        ValueError: A granted name that ``is_env_name`` refuses; the manifest was checked for that.
    """
    environment = {name: value for name, value in host.items() if name in _PASSED or name.startswith(_PASSED_PREFIX)}
    environment.setdefault("LANG", "C.UTF-8")
    environment["PATH"] = _PATH
    environment["HOME"] = "/nonexistent"
    for name in granted:
        if not is_env_name(name):
            raise ValueError(f"expected a grantable environment variable, got {name!r}")
        if name in host:
            environment[name] = host[name]
    return environment
