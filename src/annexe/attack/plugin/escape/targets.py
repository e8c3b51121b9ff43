"""What there is to attack, as the host tells it; see ``Targets`` in the host's contract for what each is."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from typing import Any

    from annexe_sdk import Context

__all__ = ["Targets"]


class Targets:
    """The host's values as attributes, and the context of the call."""

    phase: int
    token: str
    home: str
    secret_file: str
    private_file: str
    other_file: str
    open_folder: str
    open_file: str
    tmp_file: str
    shm_file: str
    kept_file: str
    setuid_program: str
    host_pid: int
    host_name: str
    host_address: int
    host_descriptor: int
    victim_pid: int
    victim_address: int
    victim_descriptor: int
    other_pid: int
    other_plugin: str
    tcp_port: int
    tcp6_port: int
    udp_port: int
    free_port: int
    host_interfaces_count: int
    missing_families: list[int]
    abstract_name: str
    abstract_datagram_name: str
    abstract_free_name: str
    socket_path: str
    datagram_path: str
    terminal: str
    state_dir: str
    control_socket: str
    control_token: str
    marker: str
    memory_bytes: int
    disk_bytes: int
    tasks: int
    open_files: int
    cpu: float

    def __init__(self, values: dict[str, Any], ctx: Context) -> None:
        self.__dict__.update(values)
        self.ctx = ctx

    def has_token(self, content: bytes) -> bool:
        """Say whether what was got is really the host's."""
        return self.token.encode() in content

    @property
    def work(self) -> str:
        """A folder that the plugin may write to."""
        folder = os.environ.get("TMPDIR", "/tmp")
        return folder if os.path.isdir(folder) else "/tmp"
