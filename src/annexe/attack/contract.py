"""What attacker and host say to each other.

Source: feature IS10.
"""

# mypy: disable-error-code="empty-body"
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, final

from annexe.contract import ExtensionPoint

__all__ = ["Bystander", "Escape", "Outcome", "Targets", "Verdict"]

Verdict = Literal["through", "stopped", "capped", "judge", "absent"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What there is to attack. All of it was made for the attack and is taken away afterwards, but for the host itself.

    Attributes:
        phase: 1, or 2 for the second instance of an attack that takes two.
        token: Text that only the host's files, services and memory hold: who can show it has been there.
        home: Folder that every user may read.
        secret_file: In it, for every user to read.
        private_file: In it, for the host's user alone.
        other_file: Data of another plugin.
        open_folder: Folder in which everybody may make files.
        open_file: File that everybody may write.
        tmp_file: In the machine's temporary folder.
        shm_file: In the machine's folder for shared memory.
        kept_file: In a folder that must be there afterwards, with all that is in it.
        setuid_program: Prints its user; made to run as root. Empty where the host is not root.
        host_pid: The host.
        host_name: The machine's name.
        host_address: Where in the host's memory the token is.
        host_descriptor: Of a file that the host has open, with the token in it.
        host_interfaces_count: Network interfaces of the machine.
        missing_families: Of sockets, those that the kernel has not got.
        victim_pid: A process of the plugin's own user, outside of its sandbox.
        victim_address: As ``host_address``, there.
        victim_descriptor: As ``host_descriptor``, there.
        other_pid: Another plugin.
        other_plugin: Its id.
        tcp_port: Service on 127.0.0.1 that says the token.
        tcp6_port: The same on ::1; 0 where there is no IPv6.
        udp_port: Where datagrams are taken.
        free_port: Where nobody listens.
        abstract_name: As ``tcp_port``: a Unix socket with a name and no file.
        abstract_datagram_name: Where datagrams are taken.
        abstract_free_name: A name that nobody has.
        socket_path: As ``tcp_port``, in the file system.
        datagram_path: Where datagrams are taken.
        terminal: Path of a terminal of the host's user.
        state_dir: Of the host.
        control_socket: Of the host.
        control_token: File with the token of the control socket.
        marker: Name for what an attack leaves behind, by which the host finds it again; at most 15 characters.
        memory_bytes: What the plugin may take.
        disk_bytes: What it may write.
        tasks: Processes and threads that it may have.
        open_files: Descriptors that it may have.
        cpu: Processors that it may use.
    """

    phase: int = 1
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
    host_interfaces_count: int
    missing_families: list[int]
    victim_pid: int
    victim_address: int
    victim_descriptor: int
    other_pid: int
    other_plugin: str
    tcp_port: int
    tcp6_port: int
    udp_port: int
    free_port: int
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


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of an attack, as the attacker sees it.

    Attributes:
        verdict: ``judge``: only the host can see whether it worked. ``absent``: there is nothing here to attack.
        detail: For people.
        facts: For the host's check.
    """

    verdict: Verdict
    detail: str
    facts: dict[str, Any] = field(default_factory=dict)


class Escape(ExtensionPoint, name="escape", revision=1):
    """Makes attacks."""

    async def run(self, name: str, targets: Targets) -> Outcome: ...


class Bystander(ExtensionPoint, name="bystander", revision=1):
    """Another plugin: has a secret, and answers as long as the host is well."""

    async def keep(self, secret: str) -> None: ...

    async def ping(self) -> str: ...
