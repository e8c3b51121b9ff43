"""What ``annexe doctor`` finds out. Everything is tried, nothing is concluded from a version number.

The plugin that is started here is a real one, in a real host, with a state directory of its own that is gone afterwards.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

__all__ = ["Check", "all_checks"]

_LOW_DISK_BYTES = 500 * 1024 * 1024
_MADE_AT = 1_750_000_000.0  # no clock that is right tells an earlier time

_State = Literal["ok", "warning", "failed"]


@final
@dataclass(frozen=True, slots=True)
class Check:
    """One finding.

    Attributes:
        name: What was tried.
        state: How it came out.
        found: What was there.
        mend: What to do about it; empty when there is nothing to do.
    """

    name: str
    state: _State
    found: str
    mend: str = ""


def all_checks(state_dir: Path) -> list[Check]:
    """Try everything.

    Args:
        state_dir: The state directory that a host would use.
    """
    from annexe.cli.doctor_plugin import plugin_checks

    return [
        *_machine(),
        *plugin_checks(),
        *_state(state_dir),
    ]


def _machine() -> Iterator[Check]:
    yield Check("python", "ok", f"{platform.python_version()} at {sys.executable}")
    yield _system()
    yield _pidfd()
    if importlib.util.find_spec("uvloop") is not None:
        yield Check("uvloop", "ok", "the host's loop is the fast one")
    else:
        yield Check("uvloop", "warning", "not installed; calls take longer", "pip install 'annexe[uvloop]'")
    yield _clock()


def _system() -> Check:
    system = platform.system()
    if system == "Linux":
        return Check("system", "ok", f"Linux {platform.release()} on {platform.machine()}")
    if system == "Darwin":
        found = "macOS: limits only, and no users of their own for plugins"
        return Check("system", "warning", found, "for stronger walls run the host on Linux")
    return Check("system", "failed", f"{system}: plugins cannot have processes of their own", "run the host under WSL 2: wsl --install")


def _pidfd() -> Check:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:
        found = f"none ({error}): a thread for each plugin waits for its end, and nothing that leaves its process group is hunted down"
        return Check("pidfd", "warning", found, "use Linux 5.3 or newer, and a Python built with it")
    return Check("pidfd", "ok", "the end of a plugin is seen at once")


def _clock() -> Check:
    now = time.time()
    if now < _MADE_AT:
        found = f"{time.strftime('%Y-%m-%d', time.gmtime(now))} cannot be today; times in logs and grants would be wrong"
        return Check("clock", "failed", found, "timedatectl set-ntp true")
    begun = time.monotonic()
    time.sleep(0.01)
    if time.monotonic() <= begun:
        return Check("clock", "failed", "the monotonic clock stands still; no deadline would ever pass", "use another machine")
    return Check("clock", "ok", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now)))


def _state(state_dir: Path) -> Iterator[Check]:
    yield _folder(state_dir)
    yield _host(state_dir)
    existing = next(path for path in (state_dir, *state_dir.absolute().parents) if path.exists())
    free_bytes = shutil.disk_usage(existing).free
    found = f"{free_bytes // (1024 * 1024)} MiB free at {existing}"
    if free_bytes < _LOW_DISK_BYTES:
        yield Check(
            "disk space",
            "warning",
            found,
            f"free some space, or keep the state elsewhere: --state DIR (wanted: {_LOW_DISK_BYTES >> 20} MiB)",
        )
    else:
        yield Check("disk space", "ok", found)


def _folder(state_dir: Path) -> Check:
    try:
        found = state_dir.stat()
    except FileNotFoundError:
        return _new_folder(state_dir)
    except OSError as error:
        return Check("state directory", "failed", f"{state_dir}: {error.strerror}", "choose another: --state DIR, or ANNEXE_STATE")
    if found.st_uid != os.geteuid():
        text = f"{state_dir} belongs to user {found.st_uid}, expected {os.geteuid()}"
        return Check("state directory", "failed", text, f"chown -R {os.geteuid()} {state_dir}")
    if found.st_mode & 0o077:
        text = f"{state_dir} has mode {found.st_mode & 0o777:04o}; a host would close it"
        return Check("state directory", "warning", text, f"chmod 700 {state_dir}")
    try:
        with tempfile.TemporaryFile(dir=state_dir):
            return Check("state directory", "ok", f"{state_dir} is ours alone")
    except OSError as error:
        return Check("state directory", "failed", f"{state_dir} cannot be written to: {error.strerror}", "choose another: --state DIR")


def _new_folder(state_dir: Path) -> Check:
    above = next(path for path in state_dir.absolute().parents if path.exists())
    try:
        with tempfile.TemporaryDirectory(dir=above):
            return Check("state directory", "ok", f"{state_dir} will be made at the first start of a host")
    except OSError as error:
        found = f"{state_dir} cannot be made in {above}: {error.strerror}"
        return Check("state directory", "failed", found, "choose another: --state DIR, or ANNEXE_STATE")


def _host(state_dir: Path) -> Check:
    from annexe.errors import AnnexeError, HostNotRunningError
    from annexe.host.control_client import ControlClient

    pid = _lock_holder(state_dir)
    try:
        with ControlClient.connect(state_dir) as client:
            told = client.call("status", timeout_s=10.0)
        return Check("host", "ok", f"pid {told['pid']} runs here and answers, with {sum(told['plugins'].values())} plugins")
    except HostNotRunningError:
        if pid is None:
            return Check("host", "ok", "none runs here")
        found = f"pid {pid} holds {state_dir}, but does not answer: it is starting, was made with control=False, or hangs"
        return Check("host", "warning", found, f"look at it: ps -fp {pid}")
    except AnnexeError as error:
        return Check("host", "failed", error.message, f"look at it: ps -fp {pid}" if pid else "")


def _lock_holder(state_dir: Path) -> str | None:
    """Return the pid of the host that holds the state directory, if one does; nothing is written or kept."""
    try:
        import fcntl

        lock = os.open(state_dir / "host.lock", os.O_RDONLY | os.O_CLOEXEC)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return os.read(lock, 32).decode("ascii", "replace").strip() or "unknown"
    finally:
        os.close(lock)
    return None
