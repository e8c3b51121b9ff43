"""What attacks find around them: files, services, a terminal, a process, made for them and taken away again.

Everything lies in one new temporary folder, but for one file each in the machine's temporary folder and in its folder for shared memory,
and for one name in the host's environment. Linux only. Blocking, for one thread at a time.

Invariants:

* Nothing of the user's own is a target. What is made harmful by an attack was made for it.
* What an attack leaves behind is found by its marker and removed before the next one.

Source: feature IS10.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from annexe.attack.services import Services
from annexe.launch.removal import remove_tree

__all__ = ["Victim", "World"]

_CANARY = "ANNEXE_ATTACK_CANARY"
_SHM = Path("/dev/shm")  # noqa: S108 - one file with a name of chance
_TMP = Path("/tmp")  # noqa: S108 - likewise; TMPDIR may be one that no other user can enter
_VICTIM = Path(__file__).with_name("victim.py")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Victim:
    """A process to attack.

    Attributes:
        child: It.
        address: Of the secret in its memory.
        descriptor: Of a file with the secret.
    """

    child: subprocess.Popen[bytes]
    address: int
    descriptor: int

    def close(self) -> None:
        """End it."""
        self.child.kill()
        self.child.wait()
        if self.child.stdout is not None:
            self.child.stdout.close()


@final
class World:
    """The surroundings of a run of attacks. Use it as a context manager.

    Attributes:
        root: Folder with everything in it; every user may pass it.
        token: The secret.
        marker: For the attack at hand.
        terminal: The person's side of a terminal, and the programs' side.
    """

    def __init__(self) -> None:
        self._closing = contextlib.ExitStack()
        self.token = f"annexe-{secrets.token_hex(20)}"
        self.marker = ""
        self.root = Path()
        self.terminal = (-1, -1)
        self._victim: Victim | None = None
        self._secret = ctypes.create_string_buffer(self.token.encode())

    def __enter__(self) -> World:
        with contextlib.ExitStack() as closing:
            self._open(closing)
            self._closing = closing.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def _open(self, closing: contextlib.ExitStack) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="annexe-attack-", dir=_TMP))
        closing.callback(_remove, self.root)
        self.root.chmod(0o755)
        self._make_folders()
        for path in (self.tmp_file, self.shm_file):
            closing.callback(path.unlink, missing_ok=True)
            _write(path, self.token, 0o644)
        self._descriptor = os.memfd_create("annexe-attack", os.MFD_CLOEXEC)
        closing.callback(os.close, self._descriptor)
        os.write(self._descriptor, self.token.encode())
        loose = os.open(self.root / "home" / "private", os.O_RDONLY)
        closing.callback(os.close, loose)
        os.set_inheritable(loose, True)  # what a careless host would let through
        os.environ[_CANARY] = self.token
        closing.callback(os.environ.pop, _CANARY, None)
        self.services = Services(self.root / "home", token=self.token, name=self.root.name)
        closing.callback(self.services.close)
        closing.callback(self._close_terminal)
        closing.callback(self._close_victim)
        closing.callback(self._forget)

    @property
    def tmp_file(self) -> Path:
        """A file in the machine's temporary folder."""
        return self.root.with_suffix(".canary")

    @property
    def shm_file(self) -> Path:
        """A file in the machine's folder for shared memory."""
        return _SHM / f"{self.root.name}.canary"

    def _make_folders(self) -> None:
        home = self.root / "home"
        for name, mode in (("home", 0o755), ("home/open", 0o777), ("home/kept", 0o755), ("home/other", 0o711), ("plugins", 0o755)):
            (self.root / name).mkdir()
            (self.root / name).chmod(mode)
        _write(home / "secret", self.token, 0o644)
        _write(home / "other" / "data", self.token, 0o600)
        self._renew_files()
        program = shutil.which("id")
        if os.geteuid() == 0 and program is not None:
            shutil.copyfile(program, self.root / "become-root")
            (self.root / "become-root").chmod(0o4755)

    def _renew_files(self) -> None:
        home = self.root / "home"
        _write(home / "private", self.token, 0o600)
        _write(home / "open-file", "as it was", 0o666)
        with contextlib.suppress(OSError):
            os.removexattr(home / "open-file", "user.escape")
        for name in ("first", "second"):
            _write(home / "kept" / name, "precious", 0o644)

    def is_changed(self) -> bool:
        """Say whether a file is not as it was made."""
        home = self.root / "home"
        private, open_file = home / "private", home / "open-file"
        if private.read_text() != self.token or private.stat().st_mode & 0o777 != 0o600:
            return True
        return open_file.read_text() != "as it was"

    def has_lost(self) -> bool:
        """Say whether a precious file is gone."""
        kept = self.root / "home" / "kept"
        return any(not (kept / name).is_file() for name in ("first", "second"))

    def planted(self) -> list[Path]:
        """Return the files with the token that the attack put where everybody looks."""
        places = (self.root / "home" / "open", _SHM)
        return [place / self.marker for place in places if (place / self.marker).is_file()]

    def renew(self, *, uid: int, python: str) -> None:
        """Make everything as it was, with a new marker and a victim of that user.

        Args:
            uid: The plugin's user.
            python: Interpreter that this user can run.
        """
        self._forget()
        self.marker = f"esc{secrets.token_hex(4)}"
        self._renew_files()
        self.services.take_arrived()
        self._close_terminal()
        self.terminal = os.openpty()
        for fd in self.terminal:
            os.set_blocking(fd, False)
        self._close_victim()
        self._victim = self._start_victim(uid, python)

    @property
    def victim(self) -> Victim:
        """The process to attack."""
        assert self._victim is not None
        return self._victim

    def _start_victim(self, uid: int, python: str) -> Victim:
        user: dict[str, Any] = {} if uid == os.geteuid() else {"user": uid, "group": uid, "extra_groups": []}
        child = subprocess.Popen(  # noqa: S603 - an interpreter of the host's and a program of ours
            [python or sys.executable, "-I", "-S", "-c", _VICTIM.read_text(encoding="utf-8")],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/",
            env={"ANNEXE_ATTACK_TOKEN": self.token}, start_new_session=True, **user,
        )  # fmt: skip
        assert child.stdout is not None
        address, descriptor = map(int, child.stdout.readline().split())
        return Victim(child=child, address=address, descriptor=descriptor)

    def _close_victim(self) -> None:
        if self._victim is not None:
            self._victim.close()
            self._victim = None

    def _close_terminal(self) -> None:
        for fd in self.terminal:
            if fd >= 0:
                os.close(fd)
        self.terminal = (-1, -1)

    def _forget(self) -> None:
        """Remove what the last attack left, wherever it was able to."""
        if not self.marker:
            return
        for place in (self.root / "home" / "open", _SHM, _TMP):
            for path in place.glob(f"{self.marker}*"):
                path.unlink(missing_ok=True)
        (self.root / "plugins" / "annexe-escape" / "escape" / "planted.py").unlink(missing_ok=True)
        _forget_segments(self.token, self.marker)

    def clear(self, scratch: Path, said: object) -> None:
        """Remove what the host could not.

        Args:
            scratch: Folder of plugins' private folders, of a host that nobody else uses.
            said: The attacker's private folder, as it calls it.
        """
        folders = [*scratch.glob("annexe-escape-*"), *scratch.glob("esc*")] if scratch.is_dir() else []
        if isinstance(said, str) and Path(said).parent.name == "scratch" and Path(said).name.startswith("annexe-escape-"):
            folders.append(Path(said))
        for folder in folders:
            if folder.is_symlink():
                folder.unlink()
            elif folder.is_dir():
                folder.chmod(0o700)
                remove_tree(folder)

    def values(self) -> Mapping[str, Any]:
        """Return what ``Targets`` takes of this."""
        home, services = self.root / "home", self.services
        program = self.root / "become-root"
        return {
            "token": self.token,
            "home": str(home),
            "secret_file": str(home / "secret"),
            "private_file": str(home / "private"),
            "other_file": str(home / "other" / "data"),
            "open_folder": str(home / "open"),
            "open_file": str(home / "open-file"),
            "tmp_file": str(self.tmp_file),
            "shm_file": str(self.shm_file),
            "kept_file": str(home / "kept" / "first"),
            "setuid_program": str(program) if program.exists() else "",
            "host_pid": os.getpid(),
            "host_name": os.uname().nodename,
            "host_address": ctypes.addressof(self._secret),
            "host_descriptor": self._descriptor,
            "host_interfaces_count": len(socket.if_nameindex()),
            "missing_families": [family for family in (socket.AF_ALG, socket.AF_VSOCK) if not _has_family(family)],
            "victim_pid": self.victim.child.pid,
            "victim_address": self.victim.address,
            "victim_descriptor": self.victim.descriptor,
            "terminal": os.ttyname(self.terminal[1]),
            "marker": self.marker,
            **{
                name: getattr(services, name)
                for name in (
                    *("tcp_port", "tcp6_port", "udp_port", "free_port", "socket_path", "datagram_path"),
                    *("abstract_name", "abstract_datagram_name", "abstract_free_name"),
                )
            },
        }


def _write(path: Path, text: str, mode: int) -> None:
    path.write_text(text)
    path.chmod(mode)


def _has_family(family: int) -> bool:
    for kind in (socket.SOCK_SEQPACKET, socket.SOCK_STREAM):
        with contextlib.suppress(OSError), socket.socket(family, kind):
            return True
    return False


def _remove(folder: Path) -> None:
    """Remove a folder that has been open to attacks."""
    folder.chmod(0o700)
    remove_tree(folder)


def _forget_segments(token: str, marker: str) -> None:
    """Remove what attacks put under a key that is made of the token; nobody else uses it."""
    libc = ctypes.CDLL(None)
    key = int(token[-7:], 16) + 1
    for get, remove in (("shmget", "shmctl"), ("msgget", "msgctl")):
        found = getattr(libc, get)(key, *((0, 0) if get == "shmget" else (0,)))
        if found >= 0:
            getattr(libc, remove)(found, 0, None)
    found = libc.semget(key, 0, 0)
    if found >= 0:
        libc.semctl(found, 0, 0)
    if hasattr(libc, "mq_unlink"):
        libc.mq_unlink(f"/{marker}".encode())
