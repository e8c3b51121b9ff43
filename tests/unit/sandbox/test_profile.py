"""Limits as data."""

from __future__ import annotations

import pytest

from annexe.sandbox import Profile

MIB = 1 << 20


def test_python_gets_address_space_above_its_private_memory() -> None:
    limits = Profile(memory_bytes=100 * MIB, open_files=10, file_bytes=5, tasks=7).limits_for(python=True, own_uid=False)
    assert limits == {
        "RLIMIT_DATA": 100 * MIB,
        "RLIMIT_NOFILE": 10,
        "RLIMIT_FSIZE": 5,
        "RLIMIT_CORE": 0,
        "RLIMIT_SIGPENDING": 1024,
        "RLIMIT_MEMLOCK": 8 * MIB,
        "RLIMIT_AS": 712 * MIB,
    }


@pytest.mark.parametrize("own_uid", [False, True])
@pytest.mark.parametrize("python", [False, True])
def test_signals_that_wait_and_memory_that_is_locked_are_limited_for_everybody(python: bool, own_uid: bool) -> None:
    limits = Profile().limits_for(python=python, own_uid=own_uid)
    assert (limits["RLIMIT_SIGPENDING"], limits["RLIMIT_MEMLOCK"]) == (1024, 8 * MIB)


def test_other_runtimes_get_no_address_space_limit() -> None:
    assert "RLIMIT_AS" not in Profile().limits_for(python=False, own_uid=True)


def test_tasks_are_limited_only_for_a_user_of_ones_own() -> None:
    assert Profile(tasks=7).limits_for(python=True, own_uid=True)["RLIMIT_NPROC"] == 7
    assert "RLIMIT_NPROC" not in Profile(tasks=7).limits_for(python=True, own_uid=False)


@pytest.mark.parametrize(("file_bytes", "expected"), [(8 * MIB, 8 * MIB), (200 * MIB, 50 * MIB)])
def test_temporary_folder_takes_neither_more_than_a_file_may_nor_than_half_of_the_memory(file_bytes: int, expected: int) -> None:
    assert Profile(memory_bytes=100 * MIB, file_bytes=file_bytes).tmp_bytes == expected
