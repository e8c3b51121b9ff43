"""Join a host that runs, in the place of the plugin as it is installed there: how a plugin is run under a debugger.

What `annexe attach` gives is good for once and for a short time. It is taken out of the environment, so that no child process has it.

Source: docs/how-to/attach-a-debugger.md; docs/reference/protocol.md, "Attaching".
"""

import os
import sys
from _socket import AF_UNIX, SOCK_STREAM, socket
from select import POLLIN, poll

from annexe_sdk.runner import Runner
from annexe_sdk.session import Stopped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from annexe_sdk.calls import Call
    from annexe_sdk.context import Context
    from annexe_sdk.plugin import Handler, Plugin

__all__ = ["INTERRUPTED", "NO_HOST", "REFUSED", "run"]

NO_HOST = 64
"""Exit status of a plugin that was started by hand, with no word of where to join."""

REFUSED = 69
"""Exit status of one that was not let in."""

INTERRUPTED = 130
"""Exit status of one that Ctrl-C ended."""

_MAX_ADDRESS_BYTES = 100
_MAX_ANSWER_BYTES = 4096
_ANSWER_S = 15.0
_LOOK_UP_MS = 200


def run(plugin: "Plugin") -> None:
    """Serve a plugin that was started by hand, where ``ANNEXE_ATTACH`` says; returns when the host is done with it.

    Raises:
        SystemExit: It says nothing, the host does not let us in, or Ctrl-C ended it; standard error has more.
    """
    invitation = os.environ.pop("ANNEXE_ATTACH", "")
    if not invitation:
        _say_how()
        raise SystemExit(NO_HOST)
    sock = _join(invitation)
    try:
        _Runner(sock, lambda: plugin).serve()
    except KeyboardInterrupt:
        _say("interrupted, and detached")
        raise SystemExit(INTERRUPTED) from None
    finally:
        sock.close()
    _say("detached")


class _Socket(socket):
    """Waits so that a debugger gets a word in: after Ctrl-C it stops at the next line of Python, and ``recv`` alone has none."""

    def recv(self, size: int, flags: int = 0) -> bytes:
        if not flags and self.gettimeout() is None:
            arrived = poll()
            arrived.register(self.fileno(), POLLIN)
            while not arrived.poll(_LOOK_UP_MS):
                pass
        return super().recv(size, flags)


class _Runner(Runner):
    """Ends where whoever debugs ends a handler: elsewhere that is one failed call."""

    def failure(self, call: "Call", handler: "Handler", error: BaseException, ctx: "Context | None") -> "Any":
        if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "BdbQuit":
            self.stop()
            raise Stopped from None
        return super().failure(call, handler, error, ctx)


def _say_how() -> None:
    file = getattr(sys.modules.get("__main__"), "__file__", None) or "plugin.py"
    _say(
        f"this is a plugin, which an annexe host starts; to run it by hand in a host that runs: annexe attach ID -- python {file}  "
        "(to try it without one: annexe dev FOLDER)"
    )


def _join(invitation: str) -> "socket":
    """Return the channel to the host.

    Args:
        invitation: ``TOKEN@PATH``, as `annexe attach` puts it into ``ANNEXE_ATTACH``.

    Raises:
        SystemExit: The host did not let us in; standard error says why.
    """
    token, at, path = invitation.partition("@")
    if not at:
        raise _refused("ANNEXE_ATTACH is not what `annexe attach` gave: expected TOKEN@PATH")
    sock = _Socket(AF_UNIX, SOCK_STREAM)
    sock.settimeout(_ANSWER_S)
    try:
        _connect(sock, path)
        sock.sendall(f"annexe-attach 1 {token}\n".encode())
        answer = _line(sock)
    except (OSError, ValueError) as error:
        sock.close()
        raise _refused(f"the host at {path} cannot be reached ({error}); invite the plugin again with: annexe attach ID") from None
    if "error" in answer:
        sock.close()
        raise _refused(f"the host does not let this process in: {answer['error'].get('message')}")
    sock.settimeout(None)
    _say(f"let in as plugin {answer.get('plugin')!r}, without any sandbox; the installed one is back when this process ends")
    return sock


def _connect(sock: "socket", path: str) -> None:
    """Connect, also where the path is too long for an address: from inside its folder."""
    if len(os.fsencode(path)) <= _MAX_ADDRESS_BYTES:
        sock.connect(path)
        return
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(os.path.dirname(path))
        sock.connect(os.path.basename(path))
    finally:
        os.fchdir(here)
        os.close(here)


def _line(sock: "socket") -> "dict[str, dict[str, str]]":
    """Read one line and no byte more: what follows is the channel."""
    import json

    line = b""
    while not line.endswith(b"\n"):
        byte = sock.recv(1)
        if not byte or len(line) > _MAX_ANSWER_BYTES:
            raise ConnectionError("it hung up" if not byte else "it answered with something else")
        line += byte
    answer = json.loads(line)
    return answer if isinstance(answer, dict) else {}


def _refused(text: str) -> SystemExit:
    _say(text)
    return SystemExit(REFUSED)


def _say(text: str) -> None:
    print(f"annexe_sdk: {text}", file=sys.stderr, flush=True)
