"""The committed system-call filters of both architectures, run without a kernel."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import struct
import sys
from pathlib import Path
from types import ModuleType

import pytest

import annexe.sandbox.seccomp as seccomp
from annexe.sandbox.seccomp import MACHINES, program_names, programs_for
from tests.support.bpf import ALLOW, KILL_PROCESS, MAX_INSTRUCTIONS, NUMBERS, BadProgramError, Call, errno_of, run, run_all

FILTERS = Path(seccomp.__file__).parent / "filters"
COMMITTED = sorted(FILTERS.glob("*/*.bpf"))
HIGH = 1 << 32  # a bit that the kernel ignores in an int
OK, EPERM, EACCES, ENOSYS, NO_FAMILY = 0, errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EAFNOSUPPORT

Row = tuple[str, int, tuple[int, ...], str]  # call, wanted answer, arguments, rights

both_machines = pytest.mark.parametrize("machine", sorted(MACHINES))


def programs(machine: str, *, rights: str = "") -> tuple[bytes, ...]:
    """Return the filters for the rights named: programs, fork, network; or "files" for all files in view."""
    words = rights.split()
    found = programs_for(
        machine, may_run_programs="programs" in words, may_fork="fork" in words, network="network" in words, sees_all_files="files" in words
    )
    assert found is not None
    return tuple(found.values())


def answer(machine: str, name: str, *arguments: int, rights: str = "") -> int:
    """Return the error number that a call gets, 0 when it is allowed."""
    verdict = run_all(programs(machine, rights=rights), Call(NUMBERS[machine][name], machine, arguments))
    code = errno_of(verdict)
    assert code is not None or verdict == ALLOW, hex(verdict)
    return code or OK


def cases(machine: str, *rows: Row) -> dict[str, tuple[int, int]]:
    """Return wanted and actual answer by call, of the calls that this machine has."""
    present = [row for row in rows if row[0] in NUMBERS[machine]]
    return {f"{name}{args} {rights}": (wanted, answer(machine, name, *args, rights=rights)) for name, wanted, args, rights in present}


def wrong(table: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    assert table
    return {call: both for call, both in table.items() if both[0] != both[1]}


# -- which programs, and that they are programs


def test_names_come_in_loading_order_with_allow_last() -> None:
    assert program_names(may_run_programs=False, may_fork=False, network=False) == (
        "no-programs", "no-children", "no-messages", "no-network", "arguments", "allow",
    )  # fmt: skip
    assert program_names(may_run_programs=True, may_fork=True, network=True) == ("no-listening", "arguments", "allow")
    assert program_names(may_run_programs=True, may_fork=True, network=True, sees_all_files=True)[:2] == ("no-attributes", "no-fast-open")
    assert program_names(may_run_programs=True, may_fork=True, network=False, sees_all_files=True)[:2] == ("no-attributes", "no-network")
    assert program_names(may_run_programs=True, may_fork=False, network=False) == (
        "no-children", "no-messages", "no-network", "arguments", "allow",
    )  # fmt: skip


@both_machines
def test_programs_are_the_committed_bytes_of_their_names(machine: str) -> None:
    names = program_names(may_run_programs=False, may_fork=False, network=True)
    assert programs(machine, rights="network") == tuple((FILTERS / machine / f"{name}.bpf").read_bytes() for name in names)


@pytest.mark.parametrize("machine", ["riscv64", "aarch64_be", "AMD64", "arm64", "i686", ""])
def test_machine_without_filters_gets_none(machine: str) -> None:
    assert programs_for(machine, may_run_programs=False, may_fork=False, network=False) is None


def test_every_committed_program_is_used_and_every_machine_has_the_same() -> None:
    used = {
        name
        for run_programs, fork, network, files in itertools.product((False, True), repeat=4)
        for name in program_names(may_run_programs=run_programs, may_fork=fork, network=network, sees_all_files=files)
    }
    assert {(path.parent.name, path.stem) for path in COMMITTED} == set(itertools.product(MACHINES, used))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_program_is_one_that_the_kernel_takes(path: Path) -> None:
    program = path.read_bytes()
    assert len(program) % 8 == 0
    instructions = list(struct.iter_unpack("<HBBI", program))
    assert 0 < len(instructions) <= MAX_INSTRUCTIONS
    assert instructions[-1][0] == 0x06, "the last instruction returns"
    for at, (code, if_true, if_false, value) in enumerate(instructions):
        if code & 0x07 == 0x05:  # jumps lead forward, and stay inside
            furthest = value if code == 0x05 else max(if_true, if_false)
            assert at + 1 + furthest < len(instructions)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_call_of_another_architecture_ends_the_process_in_every_program(path: Path) -> None:
    machine = path.parent.name
    foreign = {"x86_64": ("i386", "aarch64"), "aarch64": ("arm", "x86_64")}[machine]
    assert {run(path.read_bytes(), Call(number, other)) for other in foreign for number in (0, 3, 20, 63, 172, 999)} == {KILL_PROCESS}


@pytest.mark.parametrize("path", [path for path in COMMITTED if path.parent.name == "x86_64"], ids=lambda path: path.stem)
def test_x32_call_ends_the_process(path: Path) -> None:
    assert {run(path.read_bytes(), Call(0x40000000 | number, "x86_64")) for number in (0, 1, 39, 59, 520, 545)} == {KILL_PROCESS}


@both_machines
def test_call_of_a_later_kernel_answers_as_an_older_kernel_would(machine: str) -> None:
    assert {errno_of(run_all(programs(machine), Call(number, machine))) for number in (435, 451, 452, 462, 470, 999, 0x3FFFFFFF)} == {
        ENOSYS
    }


# -- allow

NEEDED = """
    brk clock_gettime close epoll_wait epoll_pwait epoll_pwait2 eventfd2 exit_group faccessat2 fadvise64 fallocate futex futex_waitv getppid
    getrandom membarrier mmap mprotect newfstatat open openat pidfd_open pkey_alloc ppoll pread64 read recvfrom recvmsg renameat renameat2
    rseq rt_sigreturn sendto statx timer_create timerfd_create wait4 write"""
REFUSED = """
    bpf chroot clock_settime fanotify_init get_mempolicy inotify_init inotify_init1 io_setup io_uring_enter io_uring_register io_uring_setup
    kcmp kexec_load keyctl landlock_add_rule landlock_create_ruleset landlock_restrict_self mbind memfd_create memfd_secret mknod mknodat
    mount mq_open name_to_handle_at open_by_handle_at perf_event_open personality pidfd_getfd pivot_root process_madvise process_vm_readv
    process_vm_writev ptrace sched_setattr sched_setscheduler seccomp semget setns setuid shmget swapon sync umount2 unshare userfaultfd
    vmsplice"""


@both_machines
@pytest.mark.parametrize("rights", ["", "programs fork network"])
def test_what_runtimes_need_is_allowed_and_what_attacks_need_is_not(machine: str, rights: str) -> None:
    needed = cases(machine, *((name, OK, (), rights) for name in NEEDED.split()))
    refused = cases(machine, *((name, EPERM, (), rights) for name in REFUSED.split()))
    assert wrong(needed | refused) == {}


@both_machines
@pytest.mark.parametrize("call", ["clone3", "openat2"])
def test_call_that_hides_its_arguments_is_not_there_so_that_libraries_use_the_older_one(machine: str, call: str) -> None:
    assert answer(machine, call, rights="programs fork network") == ENOSYS


@both_machines
def test_prctl_is_allowed_by_its_option(machine: str) -> None:
    allowed: list[Row] = [("prctl", OK, (option,), "") for option in (2, 3, 15, 16, 21, 29, 36, 38, 39, 0x53564D41)]
    refused: list[Row] = [
        ("prctl", EPERM, (option + high,), "") for option in (1, 4, 22, 24, 35, 47, 53, 62, 67, 0x59616D61) for high in (0, HIGH)
    ]
    unknown: list[Row] = [("prctl", ENOSYS, (option,), "") for option in (0, 5, 14, 31, 59, 65, 70, 79, 200, 0x53564D42, -1)]
    assert wrong(cases(machine, *allowed, *refused, *unknown)) == {}


# -- arguments


@both_machines
def test_ioctl_is_looked_at_on_32_bits(machine: str) -> None:
    refused = (0x5412, 0x541C, 0x541D, 0x5423, 0x40086602, 0x401C5820)
    allowed = (0x5401, 0x5411, 0x5413, 0x5421, 0x541B, 0x80086601, 0)
    rows: list[Row] = [("ioctl", EPERM, (0, request + high), "") for request in refused for high in (0, HIGH, 0xFFFFFFFF << 32)]
    rows += [("ioctl", OK, (0, request + high), "") for request in allowed for high in (0, HIGH)]
    assert wrong(cases(machine, *rows)) == {}


@both_machines
def test_clone_makes_no_namespace_and_no_child_of_the_host(machine: str) -> None:
    bits = [0x2000, 0x8000, 0x20000, *(1 << place for place in range(25, 31))]
    rows: list[Row] = [("clone", EPERM, (bit | 17 | extra,), "programs fork") for bit in bits for extra in (0, 0x10000, HIGH, 0x7E000000)]
    rows += [("clone", OK, (flags,), "programs fork") for flags in (17, 0x1200011, 0x4111, 0x3D0F00, 17 | HIGH)]
    assert wrong(cases(machine, *rows)) == {}


@both_machines
def test_budgets_and_leases_are_out_of_reach_of_fcntl(machine: str) -> None:
    rows: list[Row] = [("fcntl", EPERM, (3, command + high), "") for command in (1024, 1026, 1031) for high in (0, HIGH)]
    rows += [("fcntl", OK, (3, command), "") for command in (0, 1, 2, 3, 4, 6, 7, 1030, 1032, 1033, 1034)]
    assert wrong(cases(machine, *rows)) == {}


@both_machines
def test_handles_on_the_peer_and_programs_in_the_kernel_are_refused_as_socket_options(machine: str) -> None:
    rows: list[Row] = [("getsockopt", EPERM, (3, 1 + high, 77 + high), "") for high in (0, HIGH)]
    rows += [("getsockopt", OK, (3, level, option), "") for level, option in ((1, 3), (1, 4), (1, 17), (6, 77))]
    options = ((1, 76), (1, 26), (1, 50), (1, 51), (1, 52), (6, 31))
    rows += [("setsockopt", EPERM, (3, level + high, option + high), "") for level, option in options for high in (0, HIGH)]
    rows += [("setsockopt", OK, (3, level, option), "") for level, option in ((1, 2), (1, 7), (1, 9), (6, 1), (6, 76), (41, 26))]
    assert wrong(cases(machine, *rows)) == {}


@both_machines
def test_other_processes_of_the_user_are_left_alone(machine: str) -> None:
    rows: list[Row] = [("prlimit64", OK, (0, 7), ""), ("sched_setaffinity", OK, (0, 8), ""), ("setpriority", OK, (0, 0, 5), "")]
    rows += [(name, EPERM, (pid,), "") for name in ("prlimit64", "sched_setaffinity", "setpriority") for pid in (1, 4711, HIGH)]
    rows += [("setpriority", EPERM, (0, 4711, 19), ""), ("setpriority", EPERM, (2, 0, 19), ""), ("setpriority", EPERM, (1, 0, 19), "")]
    rows += [("kill", EPERM, (-1, 9), ""), ("kill", EPERM, (0xFFFFFFFF, 9), ""), ("kill", OK, (0, 0), ""), ("kill", OK, (4711, 15), "")]
    assert wrong(cases(machine, *rows)) == {}


@both_machines
def test_only_local_and_internet_sockets_of_plain_types_exist(machine: str) -> None:
    families = [family for family in (*range(64), HIGH, HIGH + 1, HIGH + 16, -1, 0xFFFFFFFF) if family not in (1, 2, 10)]
    rows: list[Row] = [("socket", NO_FAMILY, (family, kind, 0), "network") for family in families for kind in (1, 3)]
    rows += [("socket", NO_FAMILY, (2, 1, protocol), "network") for protocol in (1, 58, 132, 136, 255, 262, HIGH + 6)]
    rows += [("socket", OK, (family, 1 | flags, 0), "network") for family in (2, 10) for flags in (0, 0x80000, 0x800, 0x80800)]
    rows += [("socket", OK, (2, 1, 6), "network")]
    rows += [("socketpair", NO_FAMILY, (family, 1), "network") for family in (0, 2, 10, 16, 30, HIGH + 1)]
    rows += [("socketpair", NO_FAMILY, (1, kind), "network") for kind in (0, 3, 4, 6, 10, 15)]
    assert wrong(cases(machine, *rows)) == {}


@both_machines
def test_types_and_families_are_refused_without_the_rules_of_a_right(machine: str) -> None:
    arguments = (FILTERS / machine / "arguments.bpf").read_bytes()

    def verdict(kind: int) -> int | None:
        return errno_of(run(arguments, Call(NUMBERS[machine]["socket"], machine, (2, kind, 0))))

    assert {kind: verdict(kind) for kind in range(16)} == {kind: None if kind in (1, 2) else NO_FAMILY for kind in range(16)}
    assert verdict(3 | HIGH | 0x80000) == NO_FAMILY


def at_opening(call: str, flags: int, mode: int) -> Row:
    """Return a row for opening a file, which answers EPERM."""
    return (call, EPERM, (*([3] if call == "openat" else []), 0x7000, flags, mode), "")


@both_machines
def test_no_file_is_made_to_run_as_its_owner(machine: str) -> None:
    bits = (0o4755, 0o2755, 0o6000, 0o4000 | HIGH)
    rows: list[Row] = [(call, EPERM, (0x7000, mode), "programs fork network") for call in ("chmod", "fchmod", "creat") for mode in bits]
    rows += [("fchmodat", EPERM, (3, 0x7000, mode), "") for mode in bits]
    rows += [at_opening(call, flags, mode) for call in ("open", "openat") for flags in (0o101, 0o20200001, 0o102 | HIGH) for mode in bits]
    assert wrong(cases(machine, *rows)) == {}


@both_machines
def test_other_modes_are_given_and_what_is_no_mode_is_not_looked_at(machine: str) -> None:
    rows: list[Row] = [(call, OK, (0x7000, mode), "") for call in ("chmod", "fchmod", "creat") for mode in (0, 0o777, 0o1777, HIGH << 10)]
    rows += [("fchmodat", OK, (0o6000, 0o6000, 0o777, 0o6000), ""), ("open", OK, (0o6000, 0o101, 0o600, 0o6000), "")]
    # Without a file to be made, the register of the mode holds anything.
    rows += [("open", OK, (0x7000, flags, 0o6777), "") for flags in (0, 1, 0o2000001, 0o200000)]
    rows += [("openat", OK, (3, 0x7000, flags, 0o6777), "") for flags in (0, 1, 0o2000001, 0o200000)]
    rows += [("openat", OK, (3, 0x7000, flags, mode), "") for flags in (0o101, 0o20200001) for mode in (0o600, 0o1777)]
    assert wrong(cases(machine, *rows)) == {}


# -- the rights


@both_machines
@pytest.mark.parametrize("rights", ["", "network"])
def test_plugin_without_subprocess_runs_no_program_and_has_no_child(machine: str, rights: str) -> None:
    rows: list[Row] = [(name, EACCES, (), rights) for name in ("execve", "execveat")]
    rows += [(name, EPERM, (), rights) for name in ("fork", "vfork")]
    rows += [("clone", EPERM, (flags,), rights) for flags in (0, 17, 0x1200011, 0x4111, HIGH, HIGH << 4, 17 | HIGH)]
    rows += [("clone", OK, (flags,), rights) for flags in (0x3D0F00, 0x50F00, 0x3D0F00 | HIGH)]  # glibc's and Go's threads
    assert wrong(cases(machine, *rows)) == {}


@both_machines
def test_plugin_with_subprocess_runs_programs_and_forks(machine: str) -> None:
    rows: list[Row] = [(name, OK, (), "programs fork") for name in ("execve", "execveat", "fork", "vfork")]
    assert wrong(cases(machine, *rows)) == {}


@both_machines
def test_program_that_may_not_fork_can_be_executed(machine: str) -> None:
    assert wrong(cases(machine, ("execve", OK, (), "programs"), ("fork", EPERM, (), "programs"), ("clone", EPERM, (17,), "programs"))) == {}


@both_machines
def test_plugin_without_network_has_pairs_of_streams_and_no_other_socket(machine: str) -> None:
    rows: list[Row] = [(name, EACCES, (), "") for name in ("accept", "accept4", "bind", "connect", "listen")]
    rows += [("socket", EACCES, (family, kind), "") for family in (1, 2, 10) for kind in (1, 2)]
    rows += [("socketpair", EACCES, (1, 2 | flags), "") for flags in (0, 0x80000, HIGH)]
    rows += [("socketpair", OK, (1, kind), "") for kind in (1, 1 | 0x80000, 5)]
    assert wrong(cases(machine, *rows)) == {}


@both_machines
def test_plugin_with_network_connects_streams_and_listens_nowhere(machine: str) -> None:
    rows: list[Row] = [(name, EACCES, (), "network") for name in ("accept", "accept4", "bind", "listen")]
    rows += [("connect", OK, (), "network")]
    rows += [("socket", EACCES, (1, 1 | flags), "network") for flags in (0, 0x80000, HIGH)]
    rows += [("socket", EACCES, (family, 2 | flags), "network") for family in (1, 2, 10) for flags in (0, 0x80000, HIGH)]
    rows += [("socketpair", EACCES, (1, 2), "network"), ("socketpair", OK, (1, 1), "network")]
    assert wrong(cases(machine, *rows)) == {}


@both_machines
@pytest.mark.parametrize("files", ["", " files"])
def test_messages_that_may_carry_descriptors_take_a_right(machine: str, files: str) -> None:
    rows: list[Row] = [(call, EACCES, (3, 0x7000, 0), rights + files) for call in ("sendmsg", "sendmmsg") for rights in ("", "programs")]
    rows += [(call, OK, (3, 0x7000, 0), rights + files) for call in ("sendmsg", "sendmmsg") for rights in ("network", "programs fork")]
    rows += [("sendto", OK, (3, 0x7000, 1, 0x4000), files), ("recvmsg", OK, (3, 0x7000, 0), files)]
    assert wrong(cases(machine, *rows)) == {}


# -- the tables they are made from


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Give the generator, which alone needs libseccomp."""
    try:
        from scripts import generate_seccomp
    except (ImportError, RuntimeError) as error:
        lacking = pytest.fail if os.environ.get("CI") else pytest.skip
        lacking(f"{error}; `pip install pyseccomp`, `apt install libseccomp2`")
    monkeypatch.setattr(sys, "argv", ["generate_seccomp.py", "--check"])
    return generate_seccomp


def test_committed_bytes_are_those_of_the_tables(generator: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert generator.main() == 0, capsys.readouterr().out


def test_changed_byte_is_found(generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(FILTERS, tmp_path / "filters")
    monkeypatch.setattr(generator, "FILTERS", tmp_path / "filters")
    assert generator.main() == 0
    program = tmp_path / "filters" / "aarch64" / "allow.bpf"
    program.write_bytes(program.read_bytes()[:-1] + b"\x7f")
    assert generator.main() == 1


@both_machines
def test_every_name_of_the_tables_answers_as_its_table_says(machine: str, generator: ModuleType) -> None:
    tables = [(call, OK) for calls in generator.ALLOWED.values() for call in calls.split()]
    tables += [(call, EPERM) for calls in generator.REFUSED.values() for call in calls.split()]
    with_all_rights = programs(machine, rights="programs fork network")[-1:]
    architecture = generator.ARCHITECTURES[machine]
    wanted = {generator.number(call, architecture): answer for call, answer in tables}
    verdicts = {number: run_all(with_all_rights, Call(number, machine)) for number in range(600)}
    prctl = NUMBERS[machine]["prctl"]  # by its option
    assert {number: errno_of(verdict) or OK for number, verdict in verdicts.items() if number != prctl} == {
        number: wanted.get(number, ENOSYS) for number in range(600) if number != prctl
    }


# -- the machine that runs them here


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(b"", id="empty"),
        pytest.param(struct.pack("<HBBI", 0x06, 0, 0, ALLOW)[:-1], id="not whole"),
        pytest.param(struct.pack("<HBBI", 0x06, 0, 0, ALLOW) * (MAX_INSTRUCTIONS + 1), id="too long"),
        pytest.param(struct.pack("<HBBI", 0x05, 0, 0, 7), id="over the end"),
        pytest.param(struct.pack("<HBBI", 0x20, 0, 0, 64), id="load beyond the data"),
        pytest.param(struct.pack("<HBBI", 0x80, 0, 0, 0), id="an instruction that seccomp has not"),
    ],
)
def test_bad_program_is_not_run(program: bytes) -> None:
    with pytest.raises(BadProgramError):
        run(program, Call(0, "x86_64"))


def test_strictest_verdict_wins_and_of_two_errors_the_later() -> None:
    allow, eperm, eacces, kill = (
        struct.pack("<HBBI", 0x06, 0, 0, value) for value in (ALLOW, 0x50000 | EPERM, 0x50000 | EACCES, KILL_PROCESS)
    )
    call = Call(0, "x86_64")
    assert run_all([allow, eperm, allow], call) == 0x50000 | EPERM
    assert run_all([eperm, eacces, allow], call) == 0x50000 | EACCES
    assert run_all([kill, eperm], call) == KILL_PROCESS
    assert run_all([eperm, kill], call) == KILL_PROCESS


# -- without a file system and a network of its own


@both_machines
def test_attributes_of_files_cannot_be_changed_where_all_are_in_view(machine: str) -> None:
    by_name = "chmod chown fchmodat fchownat lchown lsetxattr lremovexattr removexattr setxattr utime utimes futimesat"
    by_descriptor = "fchmod fchown fsetxattr fremovexattr"
    assert not wrong(cases(machine, *((call, EPERM, (), "files") for call in (*by_name.split(), *by_descriptor.split()))))
    assert answer(machine, "fchmodat2", rights="files") == ENOSYS  # not on the list at all
    assert not wrong(cases(machine, ("utimensat", EPERM, (3, 0x7000), "files"), ("utimensat", EPERM, (3, 0), "files")))


@both_machines
def test_attributes_of_files_can_be_changed_in_a_file_system_of_its_own(machine: str) -> None:
    calls = "chmod chown fchmod fchmodat fchown fremovexattr fsetxattr setxattr utimensat"
    assert not wrong(cases(machine, *((call, OK, (), "") for call in calls.split())))


@both_machines
def test_connecting_by_sending_is_refused_where_the_network_is_the_machines(machine: str) -> None:
    fast = [0x20000000 + more for more in (0, 0x4000, HIGH)]
    rows: list[Row] = [(call, EACCES, (3, 0x7000, 1, flags), "network files") for call in ("sendto", "sendmmsg") for flags in fast]
    rows += [("sendmsg", EACCES, (3, 0x7000, flags), "network files") for flags in fast]
    rows += [(call, OK, (3, 0x7000, 0x20000000, 0x4040), "network files") for call in ("sendto", "sendmmsg")]
    rows += [("sendmsg", OK, (3, 0x20000000, 0x4040, 0x20000000), "network files")]
    rows += [("sendto", OK, (3, 0x7000, 1, 0x20000000), "network")]  # there it finds nobody, and no call is looked at in vain
    assert wrong(cases(machine, *rows)) == {}
