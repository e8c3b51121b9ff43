"""Between them a fork server and its forks put up what a cold start puts up."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import pytest

from annexe.errors import LaunchError
from annexe.launch import LaunchRequest
from annexe.launch.offer import Offer
from annexe.launch.orders import MAX_FORKS, fork_orders, orders_for, packed, server_orders
from annexe.launch.preparation import Prepared
from annexe.launch.private_frame import PrivateFrame
from annexe.launch.python_env import Interpreter, PythonChoice
from annexe.launch.runtime import Runtime
from annexe.sandbox import Profile
from annexe.sandbox.bubblewrap import Bubblewrap
from annexe.sandbox.seccomp import MACHINES
from annexe.sandbox.view import Access, Place

TAG = 2**40
pytestmark = pytest.mark.skipif(platform.machine() not in MACHINES, reason="there are no filters for this machine")


def prepared_with(*, network: bool = False, abi: int = 7) -> Prepared:
    interpreter = Interpreter(path=Path("/usr/bin/python3"), version=(3, 11, 2), cache_tag="cpython-311", suffix=".so")
    return Prepared(
        request=LaunchRequest(
            plugin="p", instance="p-1", kind="python", entry="entry", folder=Path("/plugin"), profile=Profile(network=network)
        ),
        folder=Path("/plugin"),
        python=PythonChoice(interpreter=interpreter),
        runtime=Runtime(folder=Path("/runtime"), stub=Path("/runtime/stub.pyc")),
        program=(),
        uid=64100,
        scratch=Path("/scratch"),
        offer=Offer(bubblewrap=Bubblewrap(path="/usr/bin/bwrap"), landlock_abi=abi, seccomp=True),
        places=(Place("/plugin", Access.READ),),
        granted=(),
        notes=(),
    )


def both(prepared: Prepared) -> tuple[PrivateFrame, PrivateFrame]:
    fork = fork_orders(prepared, tag=TAG, runner="annexe_sdk.runner")
    return server_orders(prepared, fork, own=["b", "a"]), fork


@pytest.mark.parametrize("network", [False, True], ids=["alone", "network"])
def test_filters_of_server_and_fork_are_those_of_a_cold_start_and_the_last_stays_last(network: bool) -> None:
    prepared = prepared_with(network=network)
    server, fork = both(prepared)
    cold = list(orders_for(prepared, tag=TAG, runner="annexe_sdk.runner").filters)
    assert sorted([*server.filters, *fork.filters]) == sorted(cold)
    assert fork.filters[-1] == cold[-1]
    # What a fork is made with, and what it needs until it is one, its server is not kept from: forking, the last list, and a socket or
    # the message that hands it over.
    assert len(fork.filters) == 3


def test_fork_is_told_what_a_cold_start_is_told_and_its_server_is_told_that() -> None:
    prepared = prepared_with()
    server, fork = both(prepared)
    cold = orders_for(prepared, tag=TAG, runner="annexe_sdk.runner")
    assert fork == replace(cold, filters=fork.filters, limits={**cold.limits, "RLIMIT_NPROC": cold.limits["RLIMIT_NPROC"] + 1})
    assert server.serves is not None
    assert server.serves["fork"] == fork.as_dict()
    assert server.serves["own"] == ["a", "b"]
    assert server.serves["libraries"] == ["/runtime"]  # nothing of the plugin's
    assert set(server.serves["private"]) == set(prepared.private)
    assert len(packed(server, "p")) < 65536


def test_limits_of_the_server_are_as_tight_but_for_what_it_needs_to_serve() -> None:
    server, fork = both(prepared_with())
    assert "RLIMIT_NPROC" not in server.limits
    assert server.limits["RLIMIT_NOFILE"] >= fork.limits["RLIMIT_NOFILE"] + 2 * MAX_FORKS
    for name in ("RLIMIT_DATA", "RLIMIT_AS", "RLIMIT_FSIZE", "RLIMIT_CORE", "RLIMIT_RTTIME"):
        assert server.limits[name] == fork.limits[name]
    assert (server.nice, fork.nice) == (0, Profile().nice)


def test_server_may_read_proc_for_the_sake_of_forks_that_may_not() -> None:
    server, fork = both(prepared_with())
    assert server.landlock is not None and fork.landlock is not None
    assert "/proc" in {path for path, _ in server.landlock["rules"]}
    assert "/proc" not in {path for path, _ in fork.landlock["rules"]}
    assert server.landlock["attr"] == fork.landlock["attr"]


@pytest.mark.parametrize("abi", [1, 4, 7])
def test_server_of_a_plugin_with_network_leaves_the_network_to_its_forks(abi: int) -> None:
    server, fork = both(prepared_with(network=True, abi=abi))
    assert server.landlock is not None and fork.landlock is not None
    assert len(server.landlock["attr"]) == len(fork.landlock["attr"])
    assert server.landlock["attr"][8:16] == bytes(8 if abi >= 4 else 0)
    assert server.landlock["attr"][16:] == fork.landlock["attr"][16:]
    assert server.egress is None and fork.egress is not None


def test_without_landlock_neither_has_rules() -> None:
    server, fork = both(prepared_with(abi=0))
    assert server.landlock is None and fork.landlock is None


def test_frame_that_is_too_long_is_a_launch_error() -> None:
    with pytest.raises(LaunchError, match="too many places") as caught:
        packed(PrivateFrame(host_pid=0, limits={}, folder="x" * 70000), "p")
    assert caught.value.plugin == "p"
