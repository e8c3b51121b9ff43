"""Hosts and plugins for the process tests: contracts, plugins of a few lines, and a host that must not notice anything.

A scenario runs inside ``asyncio.run`` with a loop that remembers every fault nobody caught; a test that leaves one fails, whatever else it
asserts. So does an error in the host's own logs.
"""

# mypy: disable-error-code="empty-body"
from __future__ import annotations

import asyncio
import atexit
import contextlib
import gc
import itertools
import logging
import os
import shutil
import tempfile
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from annexe import HookSpec, Host, hook
from annexe.channel import Connection
from annexe.host.plugin_handle import PluginHandle
from annexe.launch import ProcessStrategy, UidAllocator
from annexe.launch.offer import OfferFinder
from annexe.record import Event, EventKind
from annexe.supervision.health import HealthPolicy
from annexe.supervision.instance import StopPolicy
from annexe.supervision.policies import Policies
from annexe.supervision.restart import RestartPolicy

__all__ = [
    "Doc",
    "Reply",
    "T",
    "children_of",
    "cmdline",
    "connection_of",
    "descendants_of",
    "events",
    "is_alive",
    "no_walls",
    "open_descriptors",
    "open_host",
    "outcome_of",
    "policies",
    "run",
    "steps",
    "until",
    "wait_state",
    "wardens_of",
    "without_walls",
    "write_plugin",
]

V = TypeVar("V")


@dataclass
class Doc:
    text: str
    marks: list[str] = field(default_factory=list)


@dataclass
class Reply:
    answer: str


class T(HookSpec, name="t", revision=1):
    """One hook of each kind and policy."""

    @hook.filter
    async def edit(self, doc: Doc) -> Doc: ...

    @hook.filter(budget_ms=1000)
    async def timed(self, doc: Doc) -> Doc: ...

    @hook.filter(on_failure="closed")
    async def strict(self, doc: Doc) -> Doc: ...

    @hook.filter(responds=Reply)
    async def ask(self, doc: Doc) -> Doc: ...

    @hook.filter
    async def maybe(self, doc: Doc | None) -> Doc | None: ...

    @hook.action
    async def act(self, doc: Doc) -> None: ...

    @hook.first_result
    async def find(self, doc: Doc) -> str | None: ...

    @hook.observer
    async def seen(self, what: str) -> None: ...

    @hook.stream_filter(budget_ms=1000)
    def chunks(self, chunks: AsyncIterator[str]) -> AsyncIterator[str]: ...

    @hook.stream_filter(budget_ms=1000, on_failure="closed")
    def strict_chunks(self, chunks: AsyncIterator[str]) -> AsyncIterator[str]: ...


def write_plugin(
    root: Path,
    plugin: str,
    code: str,
    *,
    hooks: Iterable[str] | Mapping[str, str] = (),
    extra: str = "",
    runtime: str = "",
    schema: str | None = None,
    version: str = "1.0.0",
    folder: str | None = None,
) -> Path:
    """Write a plugin's folder and return it.

    Args:
        hooks: Qualified names, or more of their line by name: ``{"t.edit": "priority = 5"}``.
        code: Of its module, after the usual first lines; indented as the caller likes.
        extra: More of plugin.toml: whole tables.
        runtime: More of ``[runtime]``.
        schema: Of its configuration, as JSON.
    """
    rows = hooks if isinstance(hooks, Mapping) else dict.fromkeys(hooks, "")
    provided = "\n".join(f'"{name}" = {{ revision = 1{", " + more if more else ""} }}' for name, more in rows.items())
    config = '[config]\nschema = "schema.json"' if schema is not None else ""
    patience = "" if "[resources]" in extra else '[resources]\ncall-timeout = "3s"'  # a busy machine may stand still for a second
    at = root / (folder or plugin)
    at.mkdir(parents=True, exist_ok=True)
    (at / "plugin.toml").write_text(
        f'manifest-version = 1\n[plugin]\nid = "{plugin}"\nversion = "{version}"\nname = "{plugin}"\n'
        f'[runtime]\nkind = "python"\nentry = "main"\n{runtime}\n[provides.hooks]\n{provided}\n{extra}\n{patience}\n{config}\n'
    )
    (at / "main.py").write_text(
        "import os, sys, time, signal, threading\nfrom annexe_sdk import PermissionDenied, Plugin, Reject, Respond\nplugin = Plugin()\n"
        + textwrap.dedent(code)
    )
    if schema is not None:
        (at / "schema.json").write_text(schema)
    return at


def policies(
    *,
    first_delay_s: float = 0.05,
    max_failures: int = 10,
    health: HealthPolicy | None = None,
    stop: StopPolicy | None = None,
    **restart: Any,
) -> Policies:
    """Return rules for a test's patience."""
    return Policies(
        restart=RestartPolicy(first_delay_s=first_delay_s, max_delay_s=max(first_delay_s, 0.1), max_failures=max_failures, **restart),
        health=health or HealthPolicy(),
        stop=stop or StopPolicy(drain_s=2.0, shutdown_s=0.3, exit_s=0.5, terminate_s=0.5),
    )


_templates: dict[str, Path] = {}


async def _state_template() -> Path:
    """Return a state directory that a host has used once: making databases and runtime folder takes longer than most tests."""
    if "state" not in _templates:
        root = Path(tempfile.mkdtemp(prefix="annexe-template-"))
        atexit.register(shutil.rmtree, root, ignore_errors=True)
        write_plugin(root / "plugins", "template", "")
        async with Host(plugins=root / "plugins", state_dir=root / "state", contracts=[T], control=False):
            pass
        shutil.rmtree(root / "state" / "logs" / "template", ignore_errors=True)
        _templates["state"] = root / "state"
    return _templates["state"]


@asynccontextmanager
async def open_host(root: Path, **changes: Any) -> AsyncIterator[Host]:
    """Open a host over the plugins in ``root/plugins``, with its state in ``root/state``."""
    settings: dict[str, Any] = {
        "plugins": root / "plugins",
        "state_dir": root / "state",
        "contracts": [T],
        "grants": "manifest",
        "control": False,
        "policies": policies(),
    }
    if not settings["state_dir"].exists():
        shutil.copytree(await _state_template(), settings["state_dir"])
    async with Host(**settings | changes) as host:
        yield host


def without_walls() -> OfferFinder:
    """Return what makes a strategy launch at level ``limits``, whatever the machine offers."""
    return OfferFinder(unsafe_without=("namespaces", "landlock", "seccomp"))


@contextmanager
def no_walls(uids: UidAllocator | None = None) -> Iterator[None]:
    """Have hosts that are opened meanwhile launch at level ``limits``; as root with these users for plugins.

    For tests of what is done where no wall keeps a plugin's children in: they leave its group, outlive it, and have to be hunted down.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("annexe.host.host.ProcessStrategy", partial(ProcessStrategy, offers=without_walls(), uids=uids))
        yield


def run(scenario: Callable[[], Coroutine[Any, Any, V]]) -> V:
    """Run a scenario; fail on anything that nobody caught and on any error the host logged."""
    faults: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            faults.append(f"{record.name}: {record.getMessage()} {record.exc_info[1] if record.exc_info else ''}")

    async def watched() -> V:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: faults.append(repr(context)))
        result = await scenario()
        gc.collect()  # what was never awaited or retrieved says so when it goes
        await asyncio.sleep(0)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, f"tasks are left: {left}"
        return result

    listener = Listener(logging.ERROR)
    logging.getLogger().addHandler(listener)
    try:
        result = asyncio.run(watched())
        gc.collect()
    finally:
        logging.getLogger().removeHandler(listener)
    assert not faults, "\n".join(faults)
    return result


async def until(condition: Callable[[], Any], *, within_s: float = 10.0, what: str = "") -> Any:
    """Wait for something that has no event of its own; return what the condition returned."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while True:
        found = condition()
        if found:
            return found
        if loop.time() > deadline:
            raise AssertionError(f"did not happen within {within_s} s: {what or condition}")
        await asyncio.sleep(0.005)


async def wait_state(plugin: PluginHandle, *states: str, within_s: float = 10.0) -> None:
    """Wait until a plugin is in one of these states, or was since then in one that passes: a machine may stand still for that long."""
    last = next(reversed(plugin.history), None)

    def is_reached() -> bool:
        since = itertools.takewhile(lambda change: change is not last, reversed(plugin.history))
        return plugin.state in states or any(change.state in states and change.state in _PASSING for change in since)

    await until(is_reached, within_s=within_s, what=f"{plugin!r} ({plugin.reason}) to become {states}")


_PASSING = ("starting", "degraded", "draining", "backing-off")


def connection_of(host: Host, plugin: str) -> Connection:
    """Return the connection to a plugin that is ready."""
    supervisor = host.plugin(plugin)._known.supervisor
    assert supervisor is not None and supervisor.connection is not None
    return supervisor.connection


def steps(host: Host, request: str) -> list[tuple[str, str]]:
    """Return plugin and outcome of a request's steps."""
    return [(step["plugin"], step["outcome"]) for step in host.explain(request)["steps"]]


def events(host: Host, kind: EventKind, plugin: str | None = None) -> list[Event]:
    return host.events.latest(1000, kind=kind, plugin=plugin)


def is_alive(pid: int) -> bool:
    """Say whether a process is there and not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def cmdline(pid: int) -> bytes:
    """Return a process's command line, each word ended by a zero byte; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def children_of(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile
            found += [int(child) for child in path.read_text().split()]
    return found


def descendants_of(pid: int) -> list[int]:
    """Return all that a process has started and not let go of, with the numbers that this side of any namespace gives them."""
    return [found for child in children_of(pid) for found in (child, *descendants_of(child))]


def wardens_of(host_pid: int) -> list[int]:
    return [pid for pid in children_of(host_pid) if b"warden_main" in cmdline(pid)]


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def outcome_of(work: Awaitable[Any]) -> Any:
    """Return what came of it: the value, or the error."""
    try:
        return await work
    except Exception as error:
        return error
