"""What the stub is told for one launch, and what is said to have been put up.

Three kinds of orders: for a plugin that is started, for the fork server of a plugin, and for a fork of that. Between them a fork server and
its fork put up the same walls as a cold start: what a fork has to be able to do before it is a plugin, its server is not kept from.

Source: docs/adr/0071-walls-are-put-up-by-the-stub.md; docs/adr/0080-a-fork-server-per-plugin.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from annexe.errors import LaunchError
from annexe.launch.egress import egress_orders
from annexe.launch.preparation import Prepared
from annexe.launch.private_frame import PrivateFrame
from annexe.launch.receipts import PutUp, in_mib
from annexe.sandbox.landlock import ruleset
from annexe.sandbox.receipt import Lack
from annexe.sandbox.view import Access, Place

__all__ = ["MAX_FORKS", "fork_orders", "orders_for", "packed", "put_up_for", "server_orders"]

MAX_FORKS = 64
"""How many forks a server can have at a time."""

_PRELOADED = ("_json", "annexe_sdk.convert", "msgspec")
_OF_FORKS = frozenset(
    {"no-children", "no-attributes", "no-messages", "allow"}
)  # the filters under which no fork could be made, handed over, finished or cleared up after
_PER_FORK = 2  # descriptors that a server holds for each
_SERVERS_OWN = 16


def orders_for(prepared: Prepared, *, tag: int | None, runner: str) -> PrivateFrame:
    """Return what the stub of a plugin is told.

    Args:
        prepared: The launch.
        tag: What descendants inherit; None for none.
        runner: Module that serves a Python plugin.
    """
    request, offer = prepared.request, prepared.offer
    in_namespaces = offer.bubblewrap is not None
    limits: dict[str, int] = {}
    if offer.rlimits:
        limits = request.profile.limits_for(python=not prepared.program, own_uid=prepared.uid is not None or in_namespaces)
    if tag is not None:
        limits["RLIMIT_RTTIME"] = tag
    return PrivateFrame(
        host_pid=0 if in_namespaces else os.getpid(),
        limits=limits,
        nice=request.profile.nice,
        landlock=ruleset(offer.landlock_abi, prepared.places, private=prepared.private) if offer.landlock_abi else None,
        filters=[*offer.filters_for(request.profile, runs_program=bool(prepared.program)).values()],
        granted=[(one.path, one.device, one.inode) for one in prepared.granted],
        egress=egress_orders(in_namespaces=in_namespaces) if request.profile.network else None,
        thread_stack_bytes=request.profile.thread_stack_bytes,
        program=prepared.program,
        folder=str(prepared.folder),
        libraries=[*map(os.path.realpath, prepared.python.packages), str(prepared.runtime.folder)],
        runner=runner,
        entry=request.entry,
    )


def server_orders(prepared: Prepared, fork: PrivateFrame, *, own: Iterable[str]) -> PrivateFrame:
    """Return what the stub is told that is to be the plugin's fork server.

    Args:
        prepared: Of a Python plugin, behind filters of system calls.
        fork: What all its forks are told; they inherit its tag.
        own: Names of modules that the plugin may have versions of its own of.
    """
    profile, offer = prepared.request.profile, prepared.offer
    limits = {**fork.limits}
    limits.pop("RLIMIT_NPROC", None)  # it is the forks' and their threads' that are counted
    if "RLIMIT_NOFILE" in limits:
        limits["RLIMIT_NOFILE"] += _PER_FORK * MAX_FORKS + _SERVERS_OWN
    landlock = None
    if offer.landlock_abi:
        # A fork's own folder in /proc is not there yet; its own rules then leave it that one alone.
        places = (*prepared.places, Place("/proc", Access.READ))
        landlock = ruleset(offer.landlock_abi, places, private=prepared.private)
        if profile.network:  # what a fork may connect to, it learns later
            landlock = _without_network(landlock)
    return replace(
        fork,
        host_pid=0 if offer.bubblewrap is not None else os.getpid(),
        limits=limits,
        nice=0,
        landlock=landlock,
        egress=None,
        filters=_filters(prepared, of_server=True),
        serves={
            "libraries": [str(prepared.runtime.folder)],
            "modules": [fork.runner, *_PRELOADED],
            "own": sorted(own),
            "private": prepared.private,
            "fork": fork.as_dict(),
        },
    )


def fork_orders(prepared: Prepared, *, tag: int | None, runner: str) -> PrivateFrame:
    """Return what the forks of a server are told: all that their server has not put up already. Arguments are as for ``orders_for``."""
    orders = orders_for(prepared, tag=tag, runner=runner)
    limits = {**orders.limits}
    if "RLIMIT_NPROC" in limits:
        limits["RLIMIT_NPROC"] += 1  # its server is counted with it
    return replace(orders, host_pid=0, limits=limits, filters=_filters(prepared, of_server=False))


def packed(orders: PrivateFrame, plugin: str) -> bytes:
    """Return the bytes of a frame.

    Raises:
        LaunchError: It is too long.
    """
    try:
        return orders.packed()
    except ValueError as error:
        text = f"plugin {plugin!r} has too many folders of packages in its .venv, or too many places were granted to it: {error}."
        raise LaunchError(text, plugin=plugin) from error


def put_up_for(
    prepared: Prepared,
    *,
    limits: Mapping[str, int],
    filters: int,
    cgroup: frozenset[str],
    is_linux: bool = True,
    is_warm: bool = False,
    lacks: Iterable[Lack] = (),
) -> PutUp:
    """Return what is put up around a launch.

    Args:
        prepared: The launch.
        limits: From its orders.
        filters: How many filters of system calls it has in the end.
        cgroup: What its control group limits.
        is_linux: Otherwise macOS.
        is_warm: It is a fork.
        lacks: Walls that could not be had, besides those of the offer.
    """
    found, profile = prepared.offer.bubblewrap, prepared.request.profile
    in_memory = found is not None and found.caps_tmp
    return PutUp(
        request=prepared.request,
        walls=prepared.offer.walls(own_uid=prepared.uid is not None, cgroup=cgroup),
        python=str(prepared.python.interpreter.path),
        uid=os.getuid() if prepared.uid is None else prepared.uid,
        limits=limits,
        filters=filters,
        tmp=f"{in_mib(profile.tmp_bytes)} in memory" if in_memory else "on disk, each file capped, their number nowhere",
        is_linux=is_linux,
        can_tag="RLIMIT_RTTIME" in limits,
        notes=prepared.notes,
        lacks=(*prepared.offer.lacks, *lacks),
        is_warm=is_warm,
    )


def _filters(prepared: Prepared, *, of_server: bool) -> list[bytes]:
    """Return those filters of a launch that a fork server loads, or those that are left for its forks; in loading order."""
    profile = prepared.request.profile
    # A fork of a plugin with network makes a listening socket for the host before it is one.
    late = _OF_FORKS | ({"no-listening"} if profile.network else set())
    programs = prepared.offer.filters_for(profile, runs_program=False)
    return [program for name, program in programs.items() if (name in late) is not of_server]


def _without_network(rules: Mapping[str, Any]) -> dict[str, Any]:
    """Return Landlock's rules without those about the network: the second number of their attributes."""
    attr: bytes = rules["attr"]
    return {**rules, "attr": attr[:8] + bytes(len(attr[8:16])) + attr[16:], "ports": []}
