"""Other ways to a file than its name: links, ``..``, ``/proc``, threads, children and programs that walls may have forgotten."""

from __future__ import annotations

import os
import sys

from .catalogue import attack
from .children import in_child, run_program
from .outcome import judge, stopped, through
from .probes import read, reads_token, remove, write
from .syscalls import syscall

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from .outcome import Outcome
    from .targets import Targets

__all__: list[str] = []

_AT_FDCWD = -100


@attack("symbolic-link", "Read the host's file through a symbolic link of one's own.", stopped_by=("namespaces", "landlock"))
def _symbolic_link(targets: Targets) -> Outcome:
    link = os.path.join(targets.work, "link")
    os.symlink(targets.secret_file, link)
    try:
        return reads_token(targets, link)
    finally:
        os.unlink(link)


@attack("hard-link", "Read the host's user's file through a second name of it.", stopped_by=("namespaces", "landlock", "uid"))
def _hard_link(targets: Targets) -> Outcome:
    link = os.path.join(targets.work, "second-name")
    os.link(targets.private_file, link)
    try:
        return reads_token(targets, link)
    finally:
        os.unlink(link)


@attack("dot-dot", "Climb out of one's own folder.", stopped_by=("namespaces", "landlock"))
def _dot_dot(targets: Targets) -> Outcome:
    return reads_token(targets, f"{targets.work}/{'../' * 40}{targets.secret_file}")


@attack("proc-self-root", "Reach the host's files by /proc/self/root.", stopped_by=("namespaces", "landlock"))
def _proc_self_root(targets: Targets) -> Outcome:
    return reads_token(targets, f"/proc/self/root{targets.secret_file}")


@attack(
    "proc-parent-root",
    "Reach the host's files by the root of the process that started this one.",
    stopped_by=("namespaces", "landlock", "uid"),
)
def _proc_parent_root(targets: Targets) -> Outcome:
    return reads_token(targets, f"/proc/{os.getppid()}/root{targets.secret_file}")


@attack("proc-victim-cwd", "Reach the host's files by another process's folder.", stopped_by=("namespaces", "landlock"))
def _proc_victim_cwd(targets: Targets) -> Outcome:
    return reads_token(targets, f"/proc/{targets.victim_pid}/cwd{targets.secret_file}")


@attack("proc-host-descriptor", "Open what the host has open.", stopped_by=("namespaces", "landlock", "uid"))
def _proc_host_descriptor(targets: Targets) -> Outcome:
    return reads_token(targets, f"/proc/{targets.host_pid}/fd/{targets.host_descriptor}")


@attack(
    "fresh-thread",
    "Read the host's file in a new thread, should the walls be around one thread alone.",
    stopped_by=("namespaces", "landlock"),
)
def _fresh_thread(targets: Targets) -> Outcome:
    import threading

    found: list[Outcome | OSError] = []

    def act() -> None:
        try:
            found.append(reads_token(targets, targets.secret_file))
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]


@attack("forked-child", "Read the host's file in a child.", stopped_by=("namespaces", "landlock", "seccomp"))
def _forked_child(targets: Targets) -> Outcome:
    content = in_child(lambda: read(targets.secret_file))
    return through("a child read it") if targets.has_token(content) else stopped("it is not the host's")


@attack("fresh-program", "Read the host's file by a program that is executed anew.", stopped_by=("namespaces", "landlock", "seccomp"))
def _fresh_program(targets: Targets) -> Outcome:
    printed = run_program("/bin/cat", targets.secret_file)
    return through("a program read it") if targets.has_token(printed) else stopped(printed.decode(errors="replace").strip())


@attack("rename-out", "Move a file of one's own to where everybody looks.", stopped_by=("namespaces", "landlock"), check="planted")
def _rename_out(targets: Targets) -> Outcome:
    mine, theirs = os.path.join(targets.work, "mine"), os.path.join(targets.open_folder, targets.marker)
    write(mine, targets.token.encode(), mode=0o644)
    try:
        os.rename(mine, theirs)
    except OSError as error:
        remove(mine)
        if error.errno != 18:  # another file system: then a copy
            raise
        write(theirs, targets.token.encode())
    return judge("moved it", path=theirs)


@attack("run-own-file", "Run a program that the plugin wrote itself.", stopped_by=("landlock", "seccomp"))
def _run_own_file(targets: Targets) -> Outcome:
    path = os.path.join(targets.work, "program")
    write(path, f"#!/bin/sh\necho {targets.token}\n".encode(), mode=0o700)
    try:
        printed = run_program(path)
    finally:
        os.unlink(path)
    return through("it ran") if targets.has_token(printed) else stopped(printed.decode(errors="replace").strip())


@attack("run-from-memory", "Run a program that is in memory alone.", stopped_by=("seccomp",))
def _run_from_memory(targets: Targets) -> Outcome:
    fd = syscall("memfd_create", b"program", 0)
    try:
        os.write(fd, f"#!/bin/sh\necho {targets.token}\n".encode())
        printed = run_program(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    return through("it ran") if targets.has_token(printed) else stopped(printed.decode(errors="replace").strip())


@attack("run-interpreter", "Start a second Python, free of the SDK.", stopped_by=("landlock", "seccomp"))
def _run_interpreter(targets: Targets) -> Outcome:
    printed = run_program(sys.executable, "-I", "-S", "-c", f"print({targets.token!r})")
    return through("it ran") if targets.has_token(printed) else stopped(printed.decode(errors="replace").strip())


@attack("file-handle", "Open a file by its handle, past every folder.", stopped_by=("namespaces", "seccomp"), unix=True)
def _file_handle(targets: Targets) -> Outcome:
    import ctypes

    handle = ctypes.create_string_buffer((128).to_bytes(4, "little") + bytes(132))
    mount = ctypes.c_int()
    syscall("name_to_handle_at", _AT_FDCWD, targets.tmp_file.encode(), handle, ctypes.byref(mount), 0)
    folder = os.open("/", os.O_RDONLY)
    try:
        fd = syscall("open_by_handle_at", folder, handle, os.O_RDONLY)
    finally:
        os.close(folder)
    content = os.read(fd, 4096)
    os.close(fd)
    return through("read it") if targets.has_token(content) else stopped("it is not the host's")
