"""Namespaces of one's own, in which a plugin would be root, and what they lead to. Each in a child, which is gone afterwards."""

from __future__ import annotations

import ctypes
import os
import signal

from .catalogue import attack
from .children import in_child
from .outcome import stopped, through
from .syscalls import IS_X86_64, prctl, syscall

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from .outcome import Outcome
    from .targets import Targets

__all__: list[str] = []

_CLONE_NEWUSER, _CLONE_NEWNS, _CLONE_NEWNET, _CLONE_NEWUTS = 0x10000000, 0x00020000, 0x40000000, 0x04000000
_SIGCHLD = int(signal.SIGCHLD)


def _become_root_inside(more: int) -> None:
    uid = os.geteuid()
    prctl(4, 1)  # PR_SET_DUMPABLE: else its own files in /proc are root's
    syscall("unshare", _CLONE_NEWUSER | more)
    with open("/proc/self/setgroups", "w") as file:
        file.write("deny")
    with open("/proc/self/uid_map", "w") as file:
        file.write(f"0 {uid} 1")


@attack("user-namespace", "Become root in a user namespace of one's own.", stopped_by=("namespaces", "seccomp"))
def _user_namespace(_targets: Targets) -> Outcome:
    def act() -> bytes:
        syscall("unshare", _CLONE_NEWUSER)
        return b"root inside"

    return through(in_child(act).decode())


@attack("user-namespace-by-clone", "The same with clone, whose flags a filter may have forgotten.", stopped_by=("namespaces", "seccomp"))
def _user_namespace_by_clone(_targets: Targets) -> Outcome:
    pid = syscall("clone", _CLONE_NEWUSER | _SIGCHLD, 0, 0, 0, 0)
    return _reaped(pid)


@attack("user-namespace-by-clone3", "The same with clone3, whose flags no filter can see.", stopped_by=("namespaces", "seccomp"))
def _user_namespace_by_clone3(_targets: Targets) -> Outcome:
    arguments = (ctypes.c_uint64 * 11)(_CLONE_NEWUSER, 0, 0, 0, _SIGCHLD)
    return _reaped(syscall("clone3", ctypes.byref(arguments), 88))


def _reaped(pid: int) -> Outcome:
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return through("a child was root inside")


@attack("mount-in-namespace", "Mount a file system in a namespace of one's own.", stopped_by=("namespaces", "seccomp", "landlock"))
def _mount_in_namespace(targets: Targets) -> Outcome:
    def act() -> bytes:
        _become_root_inside(_CLONE_NEWNS)
        syscall("mount", b"none", targets.work.encode(), b"tmpfs", 0, 0)
        return b"mounted one"

    return through(in_child(act).decode())


@attack("chroot-in-namespace", "Change the root folder in a namespace of one's own.", stopped_by=("namespaces", "seccomp"))
def _chroot_in_namespace(targets: Targets) -> Outcome:
    def act() -> bytes:
        _become_root_inside(0)
        os.chroot(targets.work)
        return b"changed it"

    return through(in_child(act).decode())


@attack(
    "firewall-in-namespace", "Reach the kernel's packet filter from a network namespace of one's own.", stopped_by=("namespaces", "seccomp")
)
def _firewall_in_namespace(_targets: Targets) -> Outcome:
    def act() -> bytes:
        import socket

        _become_root_inside(_CLONE_NEWNET)
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW):
            return b"opened a raw socket"

    return through(in_child(act).decode())


@attack("name-in-namespace", "Rename the machine in a namespace of one's own.", stopped_by=("namespaces", "seccomp"))
def _name_in_namespace(_targets: Targets) -> Outcome:
    def act() -> bytes:
        _become_root_inside(_CLONE_NEWUTS)
        syscall("sethostname", b"escaped", 7)
        return b"renamed it"

    return through(in_child(act).decode())


@attack("join-host-namespace", "Join the host's namespaces.", stopped_by=("namespaces", "landlock", "seccomp", "uid"), unix=True)
def _join_host_namespace(targets: Targets) -> Outcome:
    fd = os.open(f"/proc/{targets.host_pid}/ns/mnt", os.O_RDONLY)
    try:
        syscall("setns", fd, 0)
    finally:
        os.close(fd)
    return through("joined it")


@attack("mount", "Mount a file system.", stopped_by=("namespaces", "seccomp", "landlock"), unix=True)
def _mount(targets: Targets) -> Outcome:
    syscall("mount", b"none", targets.work.encode(), b"tmpfs", 0, 0)
    syscall("umount2", targets.work.encode(), 2)
    return through("mounted one, and took it away")


@attack("mount-anew", "Make a mount by the newer calls.", stopped_by=("namespaces", "seccomp", "landlock"), unix=True)
def _mount_anew(_targets: Targets) -> Outcome:
    os.close(syscall("fsopen", b"tmpfs", 0))
    return through("opened a file system")


@attack("copy-mount", "Copy the tree of mounts.", stopped_by=("namespaces", "seccomp", "landlock"), unix=True)
def _copy_mount(_targets: Targets) -> Outcome:
    os.close(syscall("open_tree", -100, b"/", 1))
    return through("copied it")


@attack("unmount", "Take a cover away that lies over the host's files.", stopped_by=("namespaces", "seccomp"), unix=True)
def _unmount(_targets: Targets) -> Outcome:
    syscall("umount2", b"/proc", 8)  # UMOUNT_NOFOLLOW
    return through("unmounted /proc")


@attack("chroot", "Change the root folder.", stopped_by=("namespaces", "seccomp"), unix=True)
def _chroot(targets: Targets) -> Outcome:
    os.chroot(targets.work)
    return through("changed it")


@attack("pivot-root", "Swap the root of the mount namespace.", stopped_by=("namespaces", "seccomp"), unix=True)
def _pivot_root(targets: Targets) -> Outcome:
    syscall("pivot_root", targets.work.encode(), targets.work.encode())
    return through("swapped it")


@attack("cgroup-leave", "Move to a control group without limits.", stopped_by=("namespaces", "landlock"), unix=True)
def _cgroup_leave(_targets: Targets) -> Outcome:
    for path in ("/sys/fs/cgroup/memory/cgroup.procs", "/sys/fs/cgroup/cgroup.procs"):
        if os.path.exists(path):
            with open(path, "w") as file:
                file.write(str(os.getpid()))
            return through("moved to the top")
    return stopped("no control group in sight")


@attack("cgroup-raise", "Raise the limits of one's own control group.", stopped_by=("namespaces", "landlock"), unix=True)
def _cgroup_raise(_targets: Targets) -> Outcome:
    with open("/proc/self/cgroup") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            name = "memory.limit_in_bytes" if controllers == "memory" else "memory.max"
            target = f"/sys/fs/cgroup/{controllers}{path}/{name}".replace("//", "/")
            if os.path.exists(target):
                os.close(os.open(target, os.O_WRONLY))
                return through("opened its limit for writing, and wrote nothing")
    return stopped("no control group in sight")


@attack("ports", "Talk to the hardware's ports.", stopped_by=("seccomp",), unix=True)
def _ports(_targets: Targets) -> Outcome:
    if not IS_X86_64:
        return stopped("there are none on this machine")
    syscall("iopl", 3)
    return through("may do so now")
