"""Ask a running host, over the control socket of its state directory.

Blocking and light: this is what the ``annexe`` command uses for all but ``run``. One request at a time.

Source: docs/reference/control.md.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

from annexe.errors import CallTimeoutError, HostError, HostNotRunningError
from annexe.host.control_socket import connect_control, read_token
from annexe.host.control_wire import MAX_RESPONSE_BYTES, PROTOCOL, error_from_dict
from annexe.host.state_dir import control_socket_of, control_token_of

__all__ = ["ControlClient"]

_CONNECT_TIMEOUT_S = 5.0


@final
class ControlClient:
    """A connection to the host of a state directory. Made by ``connect``; use it as a context manager."""

    def __init__(self, connected: socket.socket, state_dir: Path) -> None:
        self._socket = connected
        self._state_dir = state_dir
        self._reader = connected.makefile("rb", buffering=1024 * 1024)
        self._last_id = 0

    @classmethod
    def connect(cls, state_dir: Path) -> ControlClient:
        """Connect and show the token.

        Raises:
            HostNotRunningError: No host runs there.
            HostError: There is one that does not let us in, or speaks another protocol.
        """
        try:
            token = read_token(control_token_of(state_dir))
            connected = connect_control(control_socket_of(state_dir), timeout_s=_CONNECT_TIMEOUT_S)
        except PermissionError as error:
            text = f"the host in {state_dir} belongs to another user: {error.strerror}; become that user, or root"
            raise HostError(text, path=str(state_dir)) from error
        except BlockingIOError as error:
            text = f"the host in {state_dir} has taken no connection up for {_CONNECT_TIMEOUT_S:g} s"
            raise CallTimeoutError(text, method="hello") from error
        except OSError as error:
            text = f"no host runs in {state_dir}; start one with `annexe run --plugins DIR`, or say where one runs with --state"
            raise HostNotRunningError(text, path=str(state_dir)) from error
        client = cls(connected, state_dir)
        try:
            client.call("hello", token=token, protocol=PROTOCOL)
        except BaseException:
            client.close()
            raise
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Hang up. A change that was asked for is still made."""
        self._reader.close()
        self._socket.close()

    def hang_up(self) -> None:
        """End the connection while another thread waits for an answer, which gets an error."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def call(self, method: str, /, *, timeout_s: float = 150.0, **params: Any) -> Any:
        """Ask for one thing and return the answer.

        Raises:
            AnnexeError: What the host told.
            CallTimeoutError: It told nothing for ``timeout_s``.
            HostNotRunningError: It went away.
        """
        for name, value in self._answers(method, timeout_s, params):
            if name == "result":
                return value
        raise self._gone()

    def stream(self, method: str, /, *, timeout_s: float | None = 150.0, **params: Any) -> Iterator[Any]:
        """Ask for one thing that comes in items and yield them; a ``timeout_s`` of None waits for the next as long as it takes.

        Raises:
            AnnexeError: As for ``call``.
        """
        for name, value in self._answers(method, timeout_s, params):
            if name == "item":
                yield value

    def _answers(self, method: str, timeout_s: float | None, params: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        self._last_id += 1
        request = json.dumps({"id": self._last_id, "method": method, "params": params}, separators=(",", ":"), allow_nan=False)
        try:
            self._socket.settimeout(timeout_s)
            with contextlib.suppress(BrokenPipeError):  # hung up on already; what it said before is still there to be read
                self._socket.sendall(request.encode() + b"\n")
            while True:
                answer = self._read()
                if "item" in answer:
                    yield "item", answer["item"]
                elif "error" in answer:
                    raise error_from_dict(answer["error"])
                else:
                    yield "result", answer.get("result")
                    return
        except TimeoutError as error:
            text = f"the host in {self._state_dir} did not answer {method} within {timeout_s} s"
            raise CallTimeoutError(text, method=method) from error
        except OSError as error:
            raise self._gone() from error

    def _read(self) -> dict[str, Any]:
        line = self._reader.readline(MAX_RESPONSE_BYTES + 2)
        if not line.endswith(b"\n"):
            raise self._gone()
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise HostError(f"the host in {self._state_dir} answered with something that is no answer", path=str(self._state_dir))
        return answer

    def _gone(self) -> HostNotRunningError:
        return HostNotRunningError(f"the host in {self._state_dir} ended the connection; it stopped", path=str(self._state_dir))
