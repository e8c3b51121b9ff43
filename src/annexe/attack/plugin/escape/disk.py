"""Fill the host's disk: in one file, in many, in names, through logs and the store."""

from __future__ import annotations

import os

from .catalogue import attack
from .outcome import capped, judge, stopped, through
from .probes import room, write

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from .outcome import Outcome
    from .targets import Targets

__all__: list[str] = []

_MIB = 1024 * 1024
_FILES = 3000
_TIMES = 2.5  # of what is allowed, at most


@attack("disk-one-file", "Write one file beyond the limit.", capped_by=("rlimits", "namespaces"))
def _disk_one_file(targets: Targets) -> Outcome:
    return _fill(targets, os.path.join(room(targets, "fill"), "big"), files=1)


@attack("disk-many-files", "Write many files that are too much together.", capped_by=("namespaces",), check="on-host-disk")
def _disk_many_files(targets: Targets) -> Outcome:
    return _fill(targets, os.path.join(room(targets, "fill"), "part"), files=10)


@attack("disk-allocate", "Take room without writing to it.", capped_by=("rlimits", "namespaces"))
def _disk_allocate(targets: Targets) -> Outcome:
    path = os.path.join(room(targets, "fill"), "room")
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        os.posix_fallocate(fd, 0, int(targets.disk_bytes * _TIMES))
        return through(f"took {os.fstat(fd).st_blocks * 512 // _MIB} MiB of {targets.disk_bytes // _MIB}")
    except OSError as error:
        return capped(f"{error.strerror}: fallocate")
    finally:
        os.close(fd)
        os.unlink(path)


@attack("disk-sparse", "Make a file of 4 TiB that holds nothing.", stopped_by=("rlimits",))
def _disk_sparse(targets: Targets) -> Outcome:
    path = os.path.join(room(targets, "fill"), "hole")
    write(path, b"")
    try:
        os.truncate(path, 4 * 1024**4)
        return through(f"{os.stat(path).st_size} bytes")
    finally:
        os.unlink(path)


@attack("disk-names", "Make 3,000 files, to use up the disk's inodes.", capped_by=("namespaces",), check="on-host-disk")
def _disk_names(targets: Targets) -> Outcome:
    folder = room(targets, "names")
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    made = 0
    try:
        for number in range(_FILES):
            os.close(os.open(str(number), os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=at))
            made += 1
        return judge(f"made {made} files", device=os.stat(folder).st_dev)
    except OSError as error:
        return capped(f"{error.strerror} after {made}")
    finally:
        for number in range(made):
            os.unlink(str(number), dir_fd=at)
        os.close(at)


@attack("disk-log", "Fill the disk through the plugin's log, 48 MiB in lines.", capped_by=("host",), check="log-size")
def _disk_log(_targets: Targets) -> Outcome:
    block = (b"x" * 1023 + b"\n") * 1024
    for _ in range(48):
        os.write(2, block)
    return judge("wrote 48 MiB")


@attack("disk-store", "Fill the key-value store beyond its quota.", capped_by=("host",))
def _disk_store(targets: Targets) -> Outcome:
    from annexe_sdk import CallFailed

    for number in range(100):
        try:
            targets.ctx.kv.set(f"fill/{number}", "x" * 8192, ttl_s=1)
        except CallFailed as error:
            return capped(f"{error.code} after {number * 8} KiB")
    return through("800 KiB, with a quota of 64")


def _fill(targets: Targets, path: str, *, files: int) -> Outcome:
    """Write more than is allowed into so many files; what was written is removed."""
    wanted = int(targets.disk_bytes * _TIMES)
    block = bytes(_MIB)
    written = 0
    try:
        for number in range(files):
            fd = os.open(f"{path}-{number}", os.O_CREAT | os.O_WRONLY, 0o600)
            try:
                here = 0
                while here < wanted // files:
                    got = os.write(fd, block)
                    here += got
                    written += got
            finally:
                os.close(fd)
        device = os.stat(os.path.dirname(path)).st_dev
    except OSError as error:
        if written == 0:
            return stopped(error.strerror or "")
        return capped(f"{error.strerror} after {written // _MIB} MiB")
    finally:
        for number in range(files):
            try:
                os.unlink(f"{path}-{number}")
            except FileNotFoundError:
                pass
    text = f"wrote {written // _MIB} MiB of {targets.disk_bytes // _MIB}"
    return through(text) if files == 1 else judge(text, device=device)
