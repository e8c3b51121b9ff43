"""Write the system-call filters of ``src/annexe/sandbox/filters``; with ``--check`` only compare, and fail when they differ.

The tables here are the documentation of what a plugin may ask the kernel for. ``annexe.sandbox.seccomp`` says which programs a plugin
gets, and in which order. libseccomp turns the tables into classic BPF, for both architectures; its bytes are committed, so that
no host needs it.

* ``allow`` names everything that a plugin may call. What nobody named, calls of later kernels included, answers ENOSYS as an older
  kernel would, so that libraries fall back; what is known to be dangerous answers EPERM, so that people see a refusal.
* ``arguments`` takes away what only arguments tell: a list of what is allowed cannot say "every request but this one".
* The ``no-…`` programs each take away what one right gives. They say EACCES where a file or a peer would.
* Every program ends a process that calls as another architecture (i386, x32): its numbers mean other calls.

The kernel reads an ``int`` or a flag word from the low half of a register, so it is compared on 32 bits alone (CVE-2019-10063).

A call that every program allows whatever its arguments costs one look into a bitmap that the kernel made at loading. So a call that is
made often has no rule on arguments if that can be helped: ``sendto``, which carries every answer of a plugin, is looked at only where a
plugin has the machine's network before it.

Source: man 2 seccomp; the lists of Docker and Flatpak; docs/reference/permissions.md.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyseccomp  # type: ignore[import-untyped]
from pyseccomp import ALLOW, EQ, ERRNO, GT, KILL_PROCESS, MASKED_EQ, NE, Arch, Arg, Attr

FILTERS = Path(__file__).resolve().parent.parent / "src" / "annexe" / "sandbox" / "filters"
ARCHITECTURES = {"x86_64": Arch.X86_64, "aarch64": Arch.AARCH64}
MADE_WITH = "2.5.4"
UNKNOWN = -1  # what libseccomp calls a call that no architecture has

EPERM, EACCES, ENOSYS, EAFNOSUPPORT = (ERRNO(code) for code in (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EAFNOSUPPORT))


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of some calls. Several tests must all hold; there is at most one per argument."""

    action: int
    calls: str
    tests: tuple[Arg, ...] = ()


@dataclass(frozen=True, slots=True)
class Program:
    """A default and the exceptions from it."""

    default: int
    rules: tuple[Rule, ...]


def word(position: int, value: int) -> Arg:
    """Test an argument that the kernel reads as 32 bits."""
    return masked(position, 0xFFFFFFFF, value)


def masked(position: int, mask: int, value: int) -> Arg:
    return Arg(position, MASKED_EQ, mask, value)


# -- allow: what a plugin may call

ALLOWED = {
    "reading and writing": """
        close close_range copy_file_range dup dup2 dup3 fallocate fcntl fdatasync flock fsync ftruncate ioctl lseek pread64 preadv preadv2
        pwrite64 pwritev pwritev2 read readahead readv sendfile splice sync_file_range tee truncate write writev fadvise64""",
    "files by name; Landlock and the mounts decide which": """
        access chdir chmod chown creat faccessat faccessat2 fchdir fchmod fchmodat fchown fchownat fstat fstatfs futimesat getcwd getdents
        getdents64 lchown link linkat lstat mkdir mkdirat newfstatat open openat readlink readlinkat rename renameat renameat2 rmdir stat
        statfs statx symlink symlinkat umask unlink unlinkat utime utimensat utimes""",
    "extended attributes, which shutil copies": """
        fgetxattr flistxattr fremovexattr fsetxattr getxattr lgetxattr listxattr llistxattr lremovexattr lsetxattr removexattr setxattr""",
    "memory; pkeys are for V8": """
        brk madvise mincore mlock mlock2 mlockall mmap mprotect mremap msync munlock munlockall munmap pkey_alloc pkey_free
        pkey_mprotect""",
    "threads and what they wait for": """
        arch_prctl exit exit_group futex futex_waitv get_robust_list getcpu gettid membarrier restart_syscall rseq set_robust_list
        set_tid_address""",
    "processes; no-programs and no-children take them away": "clone execve execveat fork vfork wait4 waitid",
    "signals; who may be hit is for Landlock and the pid namespace": """
        alarm kill pause pidfd_open pidfd_send_signal rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
        rt_sigtimedwait rt_tgsigqueueinfo sigaltstack signalfd signalfd4 tgkill tkill""",
    "waiting for descriptors": """
        epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 pipe pipe2 poll ppoll pselect6 select""",
    "sockets; no-network and no-listening take them away": """
        accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg sendmsg sendto setsockopt
        shutdown socket socketpair""",
    "time": """
        clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep setitimer time timer_create timer_delete
        timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times""",
    "own place in the machine; limits and niceness can only be tightened": """
        capget getegid geteuid getgid getgroups getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage
        getsid getuid ioprio_get prlimit64 sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
        sched_getscheduler sched_rr_get_interval sched_setaffinity sched_yield setpgid setpriority setrlimit setsid sysinfo uname""",
}

# -- allow: prctl by its option. It grows with every kernel, so what is not named answers ENOSYS.

ALLOWED_PRCTL = {
    "PR_GET_PDEATHSIG": 2, "PR_GET_DUMPABLE": 3, "PR_GET_KEEPCAPS": 7, "PR_GET_SECCOMP": 21, "PR_CAPBSET_READ": 23,
    "PR_GET_SECUREBITS": 27, "PR_GET_TIMERSLACK": 30, "PR_GET_CHILD_SUBREAPER": 37, "PR_GET_NO_NEW_PRIVS": 39, "PR_GET_THP_DISABLE": 42,
    "PR_SVE_GET_VL": 51, "PR_GET_SPECULATION_CTRL": 52, "PR_GET_TAGGED_ADDR_CTRL": 56,
    "PR_SET_NAME": 15, "PR_GET_NAME": 16, "PR_SET_VMA": 0x53564D41,  # names of threads and of memory; allocators and Go give them
    "PR_SET_TIMERSLACK": 29, "PR_SET_NO_NEW_PRIVS": 38, "PR_SET_THP_DISABLE": 41,  # of its own process alone
    "PR_SET_CHILD_SUBREAPER": 36,  # keeps orphans below the plugin, where the host looks for them
}  # fmt: skip
REFUSED_PRCTL = {
    "PR_SET_PDEATHSIG": 1,  # outlive the host
    "PR_SET_DUMPABLE": 4, "PR_SET_PTRACER": 0x59616D61,  # be read and traced by others of its user
    "PR_SET_MM": 35,  # hide from /proc what runs
    "PR_SET_SECCOMP": 22, "PR_CAPBSET_DROP": 24, "PR_CAP_AMBIENT": 47,  # the host's part
    "PR_SET_SPECULATION_CTRL": 53, "PR_SCHED_CORE": 62, "PR_SET_MEMORY_MERGE": 67,  # guards against side channels, or one more of them
}  # fmt: skip

# -- allow: what answers EPERM. clone3 and openat2 are not here: their flags cannot be looked at, and ENOSYS sends libraries back to clone
# and openat.

REFUSED = {
    "walls are put up by the host, and no filter that answers for the kernel": """
        landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp""",
    "into other processes": """
        kcmp migrate_pages move_pages pidfd_getfd process_madvise process_mrelease process_vm_readv process_vm_writev ptrace""",
    "out of the namespaces, or into new ones": """
        chroot fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree pivot_root setns umount2 unshare""",
    "round the walls around files": "fanotify_init fanotify_mark name_to_handle_at open_by_handle_at",
    "large and often broken parts of the kernel": """
        add_key bpf io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit io_uring_enter io_uring_register io_uring_setup
        keyctl modify_ldt perf_event_open request_key userfaultfd vmsplice""",
    "memory that limits do not see, and files that can be run though no folder allows it": "memfd_create memfd_secret remap_file_pages",
    "budgets that the kernel counts per user, the host's own included": "inotify_add_watch inotify_init inotify_init1 inotify_rm_watch",
    "channels to other processes of the user, which outlive the plugin": """
        mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop
        shmat shmctl shmdt shmget""",
    "pipes and devices by name: a host that opens one hangs": "mknod mknodat",
    "other people's share of the machine": """
        get_mempolicy ioprio_set mbind sched_setattr sched_setparam sched_setscheduler set_mempolicy set_mempolicy_home_node sync syncfs""",
    "other users; a change of user also forgets to die with the host": """
        capset setfsgid setfsuid setgid setgroups setregid setresgid setresuid setreuid setuid""",
    "the machine as a whole": """
        acct adjtimex clock_adjtime clock_settime delete_module finit_module init_module ioperm iopl kexec_file_load kexec_load
        lookup_dcookie nfsservctl personality quotactl quotactl_fd reboot setdomainname sethostname settimeofday swapoff swapon sysfs syslog
        uselib ustat vhangup _sysctl""",
}

# -- arguments

REFUSED_IOCTL = {
    "TIOCSTI": 0x5412, "TIOCLINUX": 0x541C, "TIOCCONS": 0x541D, "TIOCSETD": 0x5423,  # type into the host's terminal, take it over
    "FS_IOC_SETFLAGS": 0x40086602, "FS_IOC_FSSETXATTR": 0x401C5820,  # leave the project that a quota counts by
}  # fmt: skip
REFUSED_FCNTL = {
    "F_SETLEASE": 1024,  # stops whoever opens the file, the host too
    "F_NOTIFY": 1026,  # watches folders, as inotify does
    "F_SETPIPE_SZ": 1031,  # uses up the user's budget of pipe pages
}
REFUSED_CLONE = {
    "CLONE_PTRACE": 0x2000,
    "CLONE_PARENT": 0x8000,  # the child would be the host's
    "CLONE_NEWNS": 0x20000,
    "CLONE_NEWCGROUP": 0x02000000,
    "CLONE_NEWUTS": 0x04000000,
    "CLONE_NEWIPC": 0x08000000,
    "CLONE_NEWUSER": 0x10000000,
    "CLONE_NEWPID": 0x20000000,
    "CLONE_NEWNET": 0x40000000,
}  # CLONE_NEWTIME is no flag of clone: its bit belongs to the number of the signal at the child's end
SOL_SOCKET, SOL_TCP = 1, 6
REFUSED_SETSOCKOPT = {
    "SO_PASSPIDFD": (SOL_SOCKET, 76),  # a handle on the host's process with each message
    "SO_ATTACH_FILTER": (SOL_SOCKET, 26),  # programs in the kernel
    "SO_ATTACH_BPF": (SOL_SOCKET, 50),
    "SO_ATTACH_REUSEPORT_CBPF": (SOL_SOCKET, 51),
    "SO_ATTACH_REUSEPORT_EBPF": (SOL_SOCKET, 52),
    "TCP_ULP": (SOL_TCP, 31),  # protocols that the kernel speaks on top of TCP
}
SO_PEERPIDFD = 77
S_ISUID, S_ISGID = 0o4000, 0o2000
O_CREAT, O_TMPFILE = 0o100, 0o20000000  # of O_TMPFILE the bit that is its own
MODES = {"chmod": 1, "fchmod": 1, "fchmodat": 2, "creat": 1}  # which argument; mkdir takes no notice of these bits
MODES_AT_OPENING = {"open": (1, 2), "openat": (2, 3)}  # flags and mode; without the flags that make a file, the mode is what was left there
MSG_FASTOPEN = 0x20000000
CLONE_THREAD = 0x00010000
AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_TYPE_MASK = 1, 2, 5, 0xF
IPPROTO_TCP, IPPROTO_UDP = 6, 17


def others(position: int, allowed: tuple[int, ...]) -> Iterator[Arg]:
    """Test for every value but those: each gap by itself, then all above, high halves included."""
    yield from (Arg(position, EQ, value) for value in range(max(allowed)) if value not in allowed)
    yield Arg(position, GT, max(allowed))


def other_types(*allowed: int) -> Iterator[Arg]:
    """Test for every type of socket but those."""
    return (masked(1, SOCK_TYPE_MASK, kind) for kind in range(SOCK_TYPE_MASK + 1) if kind not in allowed)


ARGUMENTS = (
    *(Rule(EPERM, "ioctl", (word(1, request),)) for request in REFUSED_IOCTL.values()),
    *(Rule(EPERM, "fcntl", (word(1, command),)) for command in REFUSED_FCNTL.values()),
    *(Rule(EPERM, "clone", (masked(0, bit, bit),)) for bit in REFUSED_CLONE.values()),
    # A handle on the host's process, taken from the channel. SO_PEERCRED and SO_PEERSEC only tell.
    Rule(EPERM, "getsockopt", (word(1, SOL_SOCKET), word(2, SO_PEERPIDFD))),
    *(Rule(EPERM, "setsockopt", (word(1, level), word(2, option))) for level, option in REFUSED_SETSOCKOPT.values()),
    # Another process of the same user, the host perhaps: its limits, niceness, processors.
    Rule(EPERM, "prlimit64", (Arg(0, NE, 0),)),
    Rule(EPERM, "setpriority", (Arg(0, NE, 0),)),
    Rule(EPERM, "setpriority", (Arg(1, NE, 0),)),
    Rule(EPERM, "sched_setaffinity", (Arg(0, NE, 0),)),
    Rule(EPERM, "kill", (word(0, 0xFFFFFFFF),)),  # all that can be reached
    # Programs that make whoever runs them this plugin's user, the host's perhaps: they outlive the sandbox.
    *(Rule(EPERM, call, (masked(at, bit, bit),)) for call, at in MODES.items() for bit in (S_ISUID, S_ISGID)),
    *(
        Rule(EPERM, call, (masked(flags, making, making), masked(mode, bit, bit)))
        for call, (flags, mode) in MODES_AT_OPENING.items()
        for making in (O_CREAT, O_TMPFILE)
        for bit in (S_ISUID, S_ISGID)
    ),
    # Local, TCP and UDP; nothing raw, no netlink, no protocol that the kernel would load a module for.
    *(Rule(EAFNOSUPPORT, "socket", (family,)) for family in others(0, (AF_UNIX, AF_INET, AF_INET6))),
    *(Rule(EAFNOSUPPORT, "socket", (kind,)) for kind in other_types(SOCK_STREAM, SOCK_DGRAM)),
    *(Rule(EAFNOSUPPORT, "socket", (protocol,)) for protocol in others(2, (0, IPPROTO_TCP, IPPROTO_UDP))),
    *(Rule(EAFNOSUPPORT, "socketpair", (family,)) for family in others(0, (AF_UNIX,))),
    *(Rule(EAFNOSUPPORT, "socketpair", (kind,)) for kind in other_types(SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET)),
)

# -- the rights

# One end of a pair of datagram sockets sends to any local address, and sendmsg hides the address from filters.
NO_PAIR_WITH_ADDRESSES = Rule(EACCES, "socketpair", (masked(1, SOCK_TYPE_MASK, SOCK_DGRAM),))


def listed(action: int, table: Mapping[str, str]) -> Iterator[Rule]:
    return (Rule(action, calls) for calls in table.values())


PROGRAMS = {
    "no-programs": Program(ALLOW, (Rule(EACCES, "execve execveat"),)),
    "no-children": Program(ALLOW, (Rule(EPERM, "fork vfork"), Rule(EPERM, "clone", (masked(0, CLONE_THREAD, 0),)))),
    # Where a plugin sees the machine's files: Landlock knows nothing of modes, owners, times and notes. By descriptor those of its own code
    # and of the interpreter could be changed as well, though it may only read them.
    "no-attributes": Program(
        ALLOW,
        (
            Rule(EPERM, "chmod fchmod fchmodat chown fchown fchownat lchown futimesat utime utimensat utimes"),
            Rule(EPERM, "fremovexattr fsetxattr lremovexattr lsetxattr removexattr setxattr"),
        ),
    ),
    # Where a plugin sees the machine's network: Landlock looks at connect alone.
    "no-fast-open": Program(
        ALLOW,
        (
            Rule(EACCES, "sendto sendmmsg", (masked(3, MSG_FASTOPEN, MSG_FASTOPEN),)),
            Rule(EACCES, "sendmsg", (masked(2, MSG_FASTOPEN, MSG_FASTOPEN),)),
        ),
    ),
    # Descriptors on their way are counted per user, the host's own included, and nothing but these calls sends them. Streams of asyncio use
    # them (3.12 and later) when a peer does not keep up, and browsers talk to their own children by them: both have a right besides.
    "no-messages": Program(ALLOW, (Rule(EACCES, "sendmsg sendmmsg"),)),
    "no-network": Program(ALLOW, (Rule(EACCES, "accept accept4 bind connect listen socket"), NO_PAIR_WITH_ADDRESSES)),
    "no-listening": Program(
        ALLOW,
        (
            Rule(EACCES, "accept accept4 bind listen"),
            # By its path a local socket can be reached where its folder is in view, and Landlock does not look: a container engine's, say.
            Rule(EACCES, "socket", (word(0, AF_UNIX),)),
            *(Rule(EACCES, "socket", (kind,)) for kind in other_types(SOCK_STREAM)),
            NO_PAIR_WITH_ADDRESSES,
        ),
    ),
    "arguments": Program(ALLOW, ARGUMENTS),
    "allow": Program(
        ENOSYS,
        (
            *listed(ALLOW, ALLOWED),
            *(Rule(ALLOW, "prctl", (word(0, option),)) for option in ALLOWED_PRCTL.values()),
            *(Rule(EPERM, "prctl", (word(0, option),)) for option in REFUSED_PRCTL.values()),
            *listed(EPERM, REFUSED),
        ),
    ),
}


# -- main


def compiled(program: Program, architecture: int) -> bytes:
    """Return a program as the kernel takes it: an array of struct sock_filter, 8 bytes each, little endian."""
    made = pyseccomp.SyscallFilter(program.default)
    if architecture != pyseccomp.system_arch():
        made.add_arch(architecture)
        made.remove_arch(pyseccomp.system_arch())
    made.set_attr(Attr.ACT_BADARCH, KILL_PROCESS)
    made.set_attr(Attr.CTL_OPTIMIZE, 2 if program.default != ALLOW else 1)  # a tree by number for the long list
    for rule in program.rules:
        for call in rule.calls.split():
            # For a call that the architecture lacks no rule may be made: libseccomp leaves it out when it writes the program, and if it
            # comes first, also the instruction that loads the number of the call.
            if number(call, architecture) >= 0:
                made.add_rule_exactly(rule.action, call, *rule.tests)
    with tempfile.TemporaryFile() as file:
        made.export_bpf(file)
        file.seek(0)
        return file.read()


def number(call: str, architecture: int) -> int:
    """Return a call's number, negative where the architecture lacks it.

    Raises:
        ValueError: libseccomp does not know the name.
    """
    found = int(pyseccomp.resolve_syscall(architecture, call))
    if found == UNKNOWN:
        raise ValueError(f"libseccomp {libseccomp_version()} knows no system call {call!r}")
    return found


def libseccomp_version() -> str:
    class Version(ctypes.Structure):
        _fields_ = (("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint))

    ask = ctypes.CDLL("libseccomp.so.2").seccomp_version
    ask.restype = ctypes.POINTER(Version)
    version = ask().contents
    return f"{version.major}.{version.minor}.{version.micro}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the committed bytes are others")
    check = parser.parse_args().check
    wanted = {
        FILTERS / name / f"{program}.bpf": compiled(table, architecture)
        for name, architecture in ARCHITECTURES.items()
        for program, table in PROGRAMS.items()
    }
    stale = sorted({path for path, made in wanted.items() if not path.exists() or path.read_bytes() != made})
    stale += sorted(path for path in FILTERS.rglob("*.bpf") if path not in wanted)
    for path in stale:
        print(f"{path.relative_to(FILTERS)}: {'differs from the tables' if check else 'written' if path in wanted else 'removed'}")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(wanted[path]) if path in wanted else path.unlink()
    if check and stale:
        print(f"run scripts/generate_seccomp.py (here: libseccomp {libseccomp_version()}; what is committed was made with {MADE_WITH})")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
