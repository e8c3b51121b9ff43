"""A machine for the classic BPF that system-call filters are made of, and the numbers of some calls.

It knows the instructions that ``SECCOMP_SET_MODE_FILTER`` takes and refuses all others, as the kernel would at loading.

Source: Linux, Documentation/userspace-api/seccomp_filter.rst and net/core/filter.c (bpf_check_classic).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

__all__ = ["ALLOW", "ARCHITECTURES", "KILL_PROCESS", "MAX_INSTRUCTIONS", "NUMBERS", "BadProgramError", "Call", "errno_of", "run", "run_all"]

ALLOW, KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_ACTION = 0xFFFF0000
MAX_INSTRUCTIONS = 4096

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "i386": 0x40000003, "arm": 0x40000028}

# One line per call: its name, its number on x86_64 and on aarch64; a dash where there is none.
_TABLE = """
accept 43 202
accept4 288 242
bind 49 200
bpf 321 280
brk 12 214
chmod 90 -
chown 92 -
chroot 161 51
clock_gettime 228 113
clock_settime 227 112
clone 56 220
clone3 435 435
close 3 57
connect 42 203
creat 85 -
epoll_wait 232 -
epoll_pwait 281 22
epoll_pwait2 441 441
eventfd2 290 19
execve 59 221
execveat 322 281
exit_group 231 94
faccessat2 439 439
fadvise64 221 223
fallocate 285 47
fanotify_init 300 262
fchmod 91 52
fchmodat 268 53
fchmodat2 452 452
fchown 93 55
fchownat 260 54
fcntl 72 25
fsetxattr 190 7
fork 57 -
fremovexattr 199 16
futex 202 98
futex_waitv 449 449
futimesat 261 -
get_mempolicy 239 236
getppid 110 173
getrandom 318 278
getsockopt 55 209
inotify_init 253 -
inotify_init1 294 26
io_setup 206 0
io_uring_enter 426 426
io_uring_register 427 427
io_uring_setup 425 425
ioctl 16 29
kcmp 312 272
kexec_load 246 104
keyctl 250 219
kill 62 129
landlock_add_rule 445 445
landlock_create_ruleset 444 444
landlock_restrict_self 446 446
lchown 94 -
listen 50 201
mbind 237 235
membarrier 324 283
memfd_create 319 279
memfd_secret 447 447
mknod 133 -
mknodat 259 33
mmap 9 222
mount 165 40
mprotect 10 226
mq_open 240 180
name_to_handle_at 303 264
newfstatat 262 79
open 2 -
open_by_handle_at 304 265
openat 257 56
openat2 437 437
perf_event_open 298 241
personality 135 92
pidfd_getfd 438 438
pidfd_open 434 434
pivot_root 155 41
pkey_alloc 330 289
ppoll 271 73
prctl 157 167
pread64 17 67
prlimit64 302 261
process_madvise 440 440
process_vm_readv 310 270
process_vm_writev 311 271
ptrace 101 117
read 0 63
recvfrom 45 207
recvmsg 47 212
renameat 264 38
renameat2 316 276
rseq 334 293
rt_sigreturn 15 139
sched_setaffinity 203 122
sched_setattr 314 274
sched_setscheduler 144 119
seccomp 317 277
semget 64 190
sendmmsg 307 269
sendmsg 46 211
sendto 44 206
setns 308 268
setpriority 141 140
setsockopt 54 208
setuid 105 146
shmget 29 194
socket 41 198
socketpair 53 199
statx 332 291
swapon 167 224
sync 162 81
timer_create 222 107
timerfd_create 283 85
umount2 166 39
unshare 272 97
lremovexattr 198 15
lsetxattr 189 6
removexattr 197 14
setxattr 188 5
userfaultfd 323 282
utime 132 -
utimensat 280 88
utimes 235 -
vfork 58 -
vmsplice 278 75
wait4 61 260
write 1 64
"""


def _numbers(column: int) -> dict[str, int]:
    rows = [line.split() for line in _TABLE.strip().splitlines()]
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


NUMBERS = {"x86_64": _numbers(1), "aarch64": _numbers(2)}


@final
class BadProgramError(Exception):
    """The kernel would not have loaded this."""


@final
@dataclass(frozen=True, slots=True)
class Call:
    """What the kernel shows to a filter: ``struct seccomp_data``, 64 bytes. Up to six arguments, each of 64 bits."""

    number: int
    machine: str
    arguments: tuple[int, ...] = ()

    def packed(self) -> bytes:
        arguments = [value & (2**64 - 1) for value in self.arguments] + [0] * (6 - len(self.arguments))
        return struct.pack("<IIQ6Q", self.number & 0xFFFFFFFF, ARCHITECTURES[self.machine], 0, *arguments)


def errno_of(verdict: int) -> int | None:
    """Return the error number that a verdict answers with; None when it is another verdict."""
    return verdict & 0xFFFF if verdict & _ACTION == _ERRNO else None


def run(program: bytes, call: Call) -> int:
    """Return one program's verdict on a call.

    Raises:
        BadProgramError: For what the kernel's check at loading would refuse, on the way that this call takes.
    """
    if not program or len(program) % 8 or len(program) // 8 > MAX_INSTRUCTIONS:
        raise BadProgramError(f"{len(program)} bytes")
    instructions = list(struct.iter_unpack("<HBBI", program))
    data = call.packed()
    accumulator: int = 0
    at: int = 0
    while at < len(instructions):
        code, if_true, if_false, value = instructions[at]
        at += 1
        match code:
            case 0x20:  # load a word of the data
                if value % 4 or value >= len(data):
                    raise BadProgramError(f"load from {value}")
                accumulator = struct.unpack_from("<I", data, value)[0]
            case 0x54:
                accumulator &= value
            case 0x05:
                at += value
            case 0x15:
                at += if_true if accumulator == value else if_false
            case 0x25:
                at += if_true if accumulator > value else if_false
            case 0x35:
                at += if_true if accumulator >= value else if_false
            case 0x45:
                at += if_true if accumulator & value else if_false
            case 0x06:
                return int(value)
            case _:
                raise BadProgramError(f"instruction {code:#x}")
    raise BadProgramError("ran over the end")


def run_all(programs: Sequence[bytes], call: Call) -> int:
    """Return the kernel's verdict with all these loaded, in this order: the strictest; of equal ones, that of the latest."""
    verdicts = [run(program, call) for program in reversed(programs)]
    return min(verdicts, key=lambda verdict: (verdict & _ACTION) - (1 << 32 if verdict & _ACTION == KILL_PROCESS else 0))
