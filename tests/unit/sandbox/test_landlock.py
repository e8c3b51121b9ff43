"""Rulesets as bytes, for every version of Landlock."""

from __future__ import annotations

import pytest

from annexe.sandbox.landlock import ruleset
from annexe.sandbox.view import Access, Place

PLACES = (Place("/r", Access.READ), Place("/x", Access.RUN), Place("/w", Access.WRITE), Place("/dev/gpu", Access.USE))
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
MAKE_CHAR, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = 1 << 6, 1 << 9, 1 << 10, 1 << 11, 1 << 12
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15


def rights(abi: int = 7) -> dict[str, int]:
    return dict(ruleset(abi, PLACES, private=("/tmp",))["rules"])


@pytest.mark.parametrize(
    ("abi", "fields"),
    [
        (1, [(1 << 13) - 1]),
        (2, [(1 << 14) - 1]),
        (3, [(1 << 15) - 1]),
        (4, [(1 << 15) - 1, 3]),
        (5, [(1 << 16) - 1, 3]),
        (6, [(1 << 16) - 1, 3, 3]),
        (9, [(1 << 16) - 1, 3, 3]),
    ],
)
def test_ruleset_handles_what_the_version_knows(abi: int, fields: list[int]) -> None:
    attr = ruleset(abi, (), private=())["attr"]
    assert [int.from_bytes(attr[at : at + 8], "little") for at in range(0, len(attr), 8)] == fields


@pytest.mark.parametrize("abi", range(1, 8))
def test_ruleset_gives_no_right_that_it_does_not_handle(abi: int) -> None:
    rules = ruleset(abi, PLACES, private=("/tmp",))
    handled = int.from_bytes(rules["attr"][:8], "little")
    assert all(given & ~handled == 0 for _, given in rules["rules"])
    assert rules["of_files"] & ~handled == 0


def test_ruleset_lets_execute_only_where_that_is_said() -> None:
    assert {path for path, given in rights().items() if given & EXECUTE} == {"/x"}


def test_ruleset_lets_nobody_make_devices_sockets_pipes_or_links() -> None:
    assert not any(given & (MAKE_CHAR | MAKE_SOCK | MAKE_FIFO | MAKE_BLOCK | MAKE_SYM) for given in rights().values())


def test_ruleset_lets_write_where_that_is_said_and_to_devices() -> None:
    writable = {path for path, given in rights().items() if given & WRITE_FILE}
    assert writable == {"/w", "/tmp", "/dev/gpu", "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"}
    assert rights()["/w"] & (REFER | TRUNCATE | READ_FILE | READ_DIR) == REFER | TRUNCATE | READ_FILE | READ_DIR
    assert rights()["/dev/null"] & IOCTL_DEV
    assert rights()["/dev/gpu"] == rights()["/dev/null"]


def test_ruleset_shows_nothing_of_proc_that_names_the_hosts_files() -> None:
    shown = {path for path in rights() if path.startswith("/proc/")}
    assert "/proc/self/status" in shown
    assert not {path for path in shown if "mount" in path or "environ" in path or "cgroup" in path or path in ("/proc", "/proc/self")}


def test_ruleset_gives_ports_to_connect_to_only_where_the_version_knows_them() -> None:
    assert ruleset(4, (), private=(), ports=[3128])["ports"] == [(2).to_bytes(8, "little") + (3128).to_bytes(8, "little")]
    assert ruleset(3, (), private=(), ports=[3128])["ports"] == []
