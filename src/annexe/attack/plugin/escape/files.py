"""Files of the host and of others: read them, change them."""

from __future__ import annotations

import os

from .catalogue import attack
from .outcome import judge, stopped, through
from .probes import read, reads_token, write

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from .outcome import Outcome
    from .targets import Targets

__all__: list[str] = []


@attack("etc-shadow", "Read the password hashes.", stopped_by=("namespaces", "landlock"), unix=True)
def _etc_shadow(_targets: Targets) -> Outcome:
    return through(f"read {len(read('/etc/shadow'))} bytes")


@attack("etc-passwd", "Read the list of the machine's users.", stopped_by=("namespaces", "landlock"))
def _etc_passwd(_targets: Targets) -> Outcome:
    return through("read it") if b"root:" in read("/etc/passwd") else stopped("it is not the host's")


@attack("home-file", "Read a file in the host's home that every user may read.", stopped_by=("namespaces", "landlock"))
def _home_file(targets: Targets) -> Outcome:
    return reads_token(targets, targets.secret_file)


@attack("home-listing", "List the folder that is the host's home.", stopped_by=("namespaces", "landlock"))
def _home_listing(targets: Targets) -> Outcome:
    names = os.listdir(targets.home)
    wanted = os.path.basename(targets.secret_file)
    return through(f"saw {len(names)} names") if wanted in names else stopped("it is not the host's")


@attack("private-file", "Read a file that is the host's user's alone.", stopped_by=("namespaces", "landlock", "uid"))
def _private_file(targets: Targets) -> Outcome:
    return reads_token(targets, targets.private_file)


@attack("other-plugin-data", "Read another plugin's data.", stopped_by=("namespaces", "landlock", "uid"))
def _other_plugin_data(targets: Targets) -> Outcome:
    return reads_token(targets, targets.other_file)


@attack("state-directory", "Read the host's key-value database.", stopped_by=("namespaces", "landlock", "uid"))
def _state_directory(targets: Targets) -> Outcome:
    content = read(os.path.join(targets.state_dir, "kv.sqlite3"), limit=16)
    return through("read it") if content.startswith(b"SQLite format") else stopped("it is not the host's")


@attack("control-token", "Read the token of the host's control socket.", stopped_by=("namespaces", "landlock", "uid"))
def _control_token(targets: Targets) -> Outcome:
    return through("read it") if read(targets.control_token) else stopped("it is empty")


@attack("launch-records", "Write among the host's records of what it launched.", stopped_by=("namespaces", "landlock", "uid"))
def _launch_records(targets: Targets) -> Outcome:
    path = os.path.join(targets.state_dir, "launched", ".escape")
    write(path, b"")
    os.unlink(path)
    return through("made a file there")


@attack("tmp-file", "Read a file in the machine's /tmp.", stopped_by=("namespaces", "landlock"))
def _tmp_file(targets: Targets) -> Outcome:
    return reads_token(targets, targets.tmp_file)


@attack("shm-file", "Read a file in the machine's /dev/shm.", stopped_by=("namespaces", "landlock"))
def _shm_file(targets: Targets) -> Outcome:
    return reads_token(targets, targets.shm_file)


@attack("shm-write", "Leave a file for others in the machine's /dev/shm.", stopped_by=("namespaces", "landlock"), check="planted")
def _shm_write(targets: Targets) -> Outcome:
    path = f"{os.path.dirname(targets.shm_file)}/{targets.marker}"
    write(path, targets.token.encode(), mode=0o644)
    return judge("wrote it", path=path)


@attack("open-folder", "Make a file in a folder where everybody may.", stopped_by=("namespaces", "landlock"), check="planted")
def _open_folder(targets: Targets) -> Outcome:
    path = os.path.join(targets.open_folder, targets.marker)
    write(path, targets.token.encode())
    return judge("wrote it", path=path)


@attack("open-file-append", "Add to a file that everybody may write.", stopped_by=("namespaces", "landlock"), check="changed")
def _open_file_append(targets: Targets) -> Outcome:
    write(targets.open_file, b"added", flags=os.O_APPEND)
    return judge("added to it", path=targets.open_file)


@attack("open-file-truncate", "Empty a file without opening it.", stopped_by=("namespaces", "landlock"), check="changed")
def _open_file_truncate(targets: Targets) -> Outcome:
    os.truncate(targets.open_file, 0)
    return judge("emptied it", path=targets.open_file)


@attack(
    "private-file-write", "Change a file that is the host's user's alone.", stopped_by=("namespaces", "landlock", "uid"), check="changed"
)
def _private_file_write(targets: Targets) -> Outcome:
    write(targets.private_file, b"changed")
    return judge("wrote it", path=targets.private_file)


@attack(
    "private-file-mode",
    "Open a file of the host's user's to all by its mode.",
    stopped_by=("namespaces", "seccomp", "uid"),
    check="changed",
)
def _private_file_mode(targets: Targets) -> Outcome:
    os.chmod(targets.private_file, 0o644)
    return judge("changed its mode", path=targets.private_file)


@attack(
    "file-attribute",
    "Hang a note on a file of the host's, as an extended attribute.",
    stopped_by=("namespaces", "seccomp"),
    check="attribute",
)
def _file_attribute(targets: Targets) -> Outcome:
    os.setxattr(targets.open_file, "user.escape", targets.token.encode())
    return judge("hung it on", path=targets.open_file)


@attack(
    "file-attribute-by-descriptor",
    "Hang it on a file that was opened for reading alone.",
    stopped_by=("namespaces", "landlock"),
    check="attribute",
)
def _file_attribute_by_descriptor(targets: Targets) -> Outcome:
    fd = os.open(targets.open_file, os.O_RDONLY)
    try:
        os.setxattr(fd, "user.escape", targets.token.encode())
    finally:
        os.close(fd)
    return judge("hung it on", path=targets.open_file)


@attack("set-user-id", "Make a program that runs as the plugin's user whoever starts it.", stopped_by=("seccomp",))
def _set_user_id(targets: Targets) -> Outcome:
    path = os.path.join(targets.work, "program")
    write(path, b"#!/bin/sh\n")
    try:
        os.chmod(path, 0o4755)
        mode = os.stat(path).st_mode
    finally:
        os.unlink(path)
    return through(f"its mode is {mode & 0o7777:o}") if mode & 0o4000 else stopped("the bit was taken away")


@attack("set-user-id-at-once", "Make such a program with the bit from the start.", stopped_by=("seccomp",))
def _set_user_id_at_once(targets: Targets) -> Outcome:
    path = os.path.join(targets.work, "program")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o4700)
    try:
        mode = os.fstat(fd).st_mode
    finally:
        os.close(fd)
        os.unlink(path)
    return through(f"its mode is {mode & 0o7777:o}") if mode & 0o4000 else stopped("the bit was taken away")


@attack("file-status", "Learn that a file is there, its size and owner.", stopped_by=("namespaces",))
def _file_status(targets: Targets) -> Outcome:
    found = os.stat(targets.secret_file)
    return through(f"{found.st_size} bytes of user {found.st_uid}")
