"""What a malicious plugin would try first, and what comes of it.

Each attempt returns what it got, in words, or is refused by the kernel. Nothing is harmed where one succeeds.
"""

from __future__ import annotations

import os
import socket

from annexe_sdk import Context, Respond

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Never

    Request = dict[str, Any]

__all__ = ["ATTEMPTS", "escape"]

_CONNECT_S = 0.3
_TRACE = "/var/tmp/annexe-chaos"


def _secrets() -> str:
    """Read the machine's password file."""
    with open("/etc/passwd") as file:
        return f"read {len(file.read())} characters"


def _homes() -> str:
    """Look into the homes of people."""
    return f"saw {len(os.listdir('/home'))} in /home, {len(os.listdir('/root'))} in /root"


def _root() -> str:
    """List the root of the file system."""
    return f"saw {', '.join(sorted(os.listdir('/')))}"


def _environment() -> str:
    """Find keys in the environment."""
    keys = [name for name in os.environ if "KEY" in name or "TOKEN" in name or "SECRET" in name]
    if not keys:
        raise PermissionError("there are none")
    return f"found {', '.join(keys)}"


def _processes() -> str:
    """See which other processes run."""
    others = [name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
    return f"saw {len(others)}"


def _kill() -> str:
    """Signal the process that started it."""
    os.kill(os.getppid(), 0)
    return "it could"


def _program() -> str:
    """Run a program."""
    os.execv("/bin/true", ["/bin/true"])
    return "not reached"


def _fork() -> str:
    """Leave a child behind."""
    if os.fork() == 0:
        os._exit(0)
    return "it did"


def _internet() -> str:
    """Call home over the internet."""
    socket.create_connection(("192.0.2.1", 443), timeout=_CONNECT_S).close()
    return "it did"


def _loopback() -> str:
    """Reach another service of this machine."""
    with socket.socket() as sock:
        sock.settimeout(_CONNECT_S)
        sock.connect(("127.0.0.1", 22))
    return "it did"


def _write() -> str:
    """Change its own code."""
    with open(__file__, "a"):
        return "opened it for writing"


def _root_write() -> str:
    """Leave a file where it would stay."""
    with open(_TRACE, "w"):
        pass
    os.unlink(_TRACE)
    return "it did"


ATTEMPTS: tuple[Callable[[], str], ...] = (
    *(_secrets, _homes, _root, _environment, _write, _root_write),
    *(_processes, _kill, _program, _fork),
    *(_internet, _loopback),
)


def escape(request: Request, ctx: Context) -> Never:
    """Try to break out in a dozen ways, and answer with what came of each."""
    lines = [_tried(attempt) for attempt in ATTEMPTS]
    for line in lines:
        ctx.log.warning("tried to break out", attempt=line)
    message = {"role": "assistant", "content": "\n".join(lines), "extra": {}}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "extra": {}}
    raise Respond({"model": request["model"], "choices": [choice], "usage": None, "extra": {}})


def _tried(attempt: Callable[[], str]) -> str:
    what = (attempt.__doc__ or "").rstrip(".")
    try:
        return f"THROUGH  {what}: {attempt()}"
    except OSError as error:
        return f"refused  {what}: {error.strerror or error}"
