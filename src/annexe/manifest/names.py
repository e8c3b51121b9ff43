"""What the names, paths and addresses in a manifest may look like.

Pure. Converters as in ``values``; each returns the one normal form of what it accepts, so that two spellings of a right are one right.

* A path is never resolved here; ``load`` holds it against the file system.
* Environment variables that steer the loader, the interpreter or annexe itself cannot be asked for.

Source: docs/reference/manifest.md.
"""

from __future__ import annotations

import ipaddress
import re

from annexe.manifest.values import MisfitError, matching

__all__ = [
    "absolute_path",
    "dotted_name",
    "env_name",
    "is_dotted",
    "is_env_name",
    "is_word",
    "library_name",
    "method_name",
    "module_name",
    "network_target",
    "relative_path",
    "route_path",
    "target_triple",
    "word",
]

_MAX_NAME_CHARS = 128
_WORD = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TRIPLE = re.compile(r"[a-z0-9_]+(?:-[a-z0-9_.]+){1,3}")
_ROUTE = re.compile(r"/(?:[A-Za-z0-9._~{}-]+/?)*")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
# These steer the loader, the interpreter or the stub before any limit is on, or are set by the host itself.
_STEERING_PREFIXES = ("ANNEXE_", "DYLD_", "LD_", "PYTHON")
_HOSTS_OWN = frozenset({"HOME", "HTTP_PROXY", "HTTPS_PROXY", "PATH", "TMPDIR"})
_KERNEL_FOLDERS = ("proc", "sys", "dev")
_NETWORK_EXPECTED = "an address as host:port, such as 'api.example.org:443' or '[2001:db8::1]:443'"


def is_word(value: str) -> bool:
    """Say whether this may name a service, a capability, a secret."""
    return len(value) <= _MAX_NAME_CHARS and _WORD.fullmatch(value) is not None


def is_dotted(value: str) -> bool:
    """Say whether this may name a hook or an event."""
    return "." in value and all(is_word(part) for part in value.split("."))


def _is_identifier(value: str) -> bool:
    return len(value) <= _MAX_NAME_CHARS and _IDENTIFIER.fullmatch(value) is not None


def is_env_name(value: str) -> bool:
    """Say whether an environment variable of this name may be asked for and granted at all."""
    return _is_identifier(value) and not value.upper().startswith(_STEERING_PREFIXES) and value.upper() not in _HOSTS_OWN


def _is_file_name(value: str) -> bool:
    return value.isprintable() and value not in ("", ".", "..") and not set(value) & set("/\\ ")


def _is_relative_path(value: str) -> bool:
    return value.isprintable() and "\\" not in value and all(part not in ("", ".", "..") for part in value.split("/"))


word = matching("a lower-case name such as 'api-key'", accepts=is_word)
dotted_name = matching("lower-case names joined by dots, such as 'chat.on_request'", accepts=is_dotted)
method_name = matching("a method name such as 'count'", accepts=_is_identifier)
module_name = matching(
    "a module inside the plugin's folder such as 'my_plugin.main'", accepts=lambda value: all(map(_is_identifier, value.split(".")))
)
env_name = matching(
    "an environment variable's name such as 'HTTP_TIMEOUT', not HOME, PATH, TMPDIR, HTTP_PROXY or HTTPS_PROXY and not beginning with "
    "ANNEXE_, DYLD_, LD_ or PYTHON",
    accepts=is_env_name,
)
library_name = matching("a library's file name such as 'libgomp.so.1'", accepts=_is_file_name)
target_triple = matching("a target triple such as 'x86_64-unknown-linux-gnu'", accepts=lambda value: _TRIPLE.fullmatch(value) is not None)
route_path = matching("a path such as '/redactions'", accepts=lambda value: _ROUTE.fullmatch(value) is not None)
relative_path = matching("a path inside the plugin's folder, relative and without '.' or '..'", accepts=_is_relative_path)


def absolute_path(value: object) -> str:
    """Accept an absolute path in normal form, a slash at its end apart; never ``/`` nor anything of the kernel's own folders."""
    path = value.removesuffix("/") if isinstance(value, str) and value != "/" else ""
    parts = path.split("/")
    if not path.startswith("/") or not _is_relative_path(path[1:]) or parts[1] in _KERNEL_FOLDERS:
        raise MisfitError("an absolute path without '.' or '..', not '/', and nothing in /proc, /sys or /dev")
    return path


def network_target(value: object) -> str:
    """Accept ``host:port``; return it in lower case, an IPv6 address in its shortest form."""
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    host = _normal_host(host.lower())
    if not host or not _PORT.fullmatch(port) or int(port) > 65535:
        raise MisfitError(_NETWORK_EXPECTED)
    return f"{host}:{port}"


def _normal_host(host: str) -> str:
    """Return the host in its normal form, empty when it is none."""
    try:
        if host.startswith("[") and host.endswith("]") and "%" not in host:
            return f"[{ipaddress.IPv6Address(host[1:-1])}]"
        labels = host.split(".")
        # A name that ends in a number is an address to some resolvers ("127.1", "0x7f.1"): it must be a whole one.
        if labels[-1][:1].isdigit():
            return str(ipaddress.IPv4Address(host))
    except ValueError:
        return ""
    return host if len(host) <= 253 and all(map(_LABEL.fullmatch, labels)) else ""
