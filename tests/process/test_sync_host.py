"""``SyncHost``: a host for blocking code, over real plugins."""

# mypy: disable-error-code="empty-body"
from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from annexe import ExtensionPoint, HookSpec, Host, Impact, SyncHost, hook
from annexe.errors import (
    ConfigInvalidError,
    ContractError,
    HostAlreadyRunningError,
    HostClosedError,
    InvalidParamsError,
    PluginRaisedError,
    PluginUnavailableError,
    RejectedError,
    UnknownPluginError,
    WrongContextError,
)
from annexe.host.loop_thread import LoopThread
from annexe.host.sync import SyncPluginHandle, SyncRequestScope
from tests.process.hosts import descendants_of, is_alive

pytestmark = pytest.mark.any_user


@dataclass
class Note:
    text: str


class Notes(HookSpec, name="notes", revision=1):
    @hook.filter
    async def on_save(self, note: Note) -> Note: ...

    @hook.stream_filter
    def on_lines(self, lines: AsyncIterator[str]) -> AsyncIterator[str]: ...

    @hook.first_result
    async def find(self, what: str) -> str | None: ...

    @hook.filter
    async def unheard(self, note: Note) -> Note: ...


class Words(ExtensionPoint, name="words", revision=1):
    async def count(self, text: str) -> int: ...
    def split(self, text: str) -> AsyncIterator[str]: ...
    async def join(self, words: AsyncIterator[str]) -> str: ...
    def upper(self, words: AsyncIterator[str]) -> AsyncIterator[str]: ...


class NotOpen(HookSpec, name="not-open", revision=1):
    @hook.action
    async def never(self) -> None: ...


MANIFEST = """
manifest-version = 1
[plugin]
id = "scribe"
version = "0.1.0"
name = "Scribe"
[runtime]
kind = "python"
entry = "scribe"
[provides.hooks]
"notes.on_save" = { revision = 1 }
"notes.on_lines" = { revision = 1 }
"notes.find" = { revision = 1 }
[provides.extensions]
"words" = { revision = 1 }
[resources]
call-timeout = "10s"
"""

CODE = """
import time
from annexe_sdk import Plugin, Reject

plugin = Plugin()

@plugin.filter("notes.on_save")
def save(note, ctx):
    if note["text"] == "refuse":
        raise Reject("not-this", "no", status=418)
    if note["text"].startswith("sleep"):
        time.sleep(float(note["text"].split()[1]))
    ctx.state["seen"] = ctx.state.get("seen", 0) + 1
    return {"text": f"{note['text']} {ctx.state['seen']}"}

@plugin.stream_filter("notes.on_lines")
def lines(lines):
    for line in lines:
        yield line.upper()

@plugin.first_result("notes.find")
def find(what):
    return what.upper() if what else None

@plugin.extension("words")
class Words:
    def count(self, text):
        return len(text.split())

    def split(self, text):
        yield from text.split()

    def join(self, words):
        return " ".join(words)

    def upper(self, words):
        for word in words:
            yield word.upper()
"""


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    folder = tmp_path / "plugins" / "scribe"
    folder.mkdir(parents=True)
    (folder / "plugin.toml").write_text(MANIFEST)
    (folder / "scribe.py").write_text(CODE)
    return {
        "plugins": tmp_path / "plugins",
        "contracts": [Notes, Words],
        "grants": "manifest",
        "state_dir": tmp_path / "state",
        "control": False,
    }


@pytest.fixture
def host(settings: dict[str, Any]) -> Iterator[SyncHost]:
    with SyncHost(**settings) as host:
        yield host


def test_sync_host_takes_what_host_takes() -> None:
    sync, plain = inspect.signature(SyncHost), inspect.signature(Host)
    assert list(sync.parameters.values()) == list(plain.parameters.values())
    assert len(plain.parameters) > 10


def test_sync_host_has_what_host_has() -> None:
    def public(cls: type) -> set[str]:
        return {name for name in dir(cls) if not name.startswith("_")}

    assert public(Host) - public(SyncHost) == set()
    assert public(SyncHost) - public(Host) == {"run"}


def test_hook_is_called_and_blocks(host: SyncHost) -> None:
    assert host.hooks(Notes).on_save(Note("a")) == Note("a 1")
    assert host.hooks(Notes).on_save(note=Note("b")) == Note("b 1")
    assert host.hooks(Notes).find("x") == "X"
    assert host.hooks(Notes).find("") is None


def test_hook_of_nobody_answers_without_the_loop(host: SyncHost) -> None:
    host.run(lambda host: host.plugin("scribe").stop())
    blocked, started = threading.Event(), threading.Event()

    def block(_: Host) -> None:
        started.set()
        blocked.wait(10)

    busy = threading.Thread(target=host.run, args=(block,))
    busy.start()
    started.wait(10)
    note = Note("as it is")
    assert host.hooks(Notes).unheard(note) is note  # the loop stands still
    with pytest.raises(InvalidParamsError):
        host.hooks(Notes).unheard()
    blocked.set()
    busy.join()


def test_name_that_is_not_there_is_answered_by_those_that_are(host: SyncHost) -> None:
    with pytest.raises(AttributeError, match=r"'notes' has no 'prize'; it has: [a-z_, ]*on_save") as missing:
        host.hooks(Notes).prize("x")
    assert missing.value.name == "prize"
    with pytest.raises(AttributeError, match="'words' has no 'prize'; it has: count, join, split, upper"):
        host.extension(Words).prize("x")


def test_errors_come_as_they_are(host: SyncHost) -> None:
    with pytest.raises(RejectedError) as rejected:
        host.hooks(Notes).on_save(Note("refuse"))
    assert (rejected.value.reject_code, rejected.value.status) == ("not-this", 418)
    with pytest.raises(ContractError):
        host.hooks(NotOpen)
    with pytest.raises(PluginRaisedError) as raised:
        host.extension(Words).count(None)
    assert raised.value.plugin == "scribe"


def test_request_keeps_state_between_hooks(host: SyncHost) -> None:
    with host.request(id="r-1", deadline_s=5.0, key="tenant") as request:
        assert isinstance(request, SyncRequestScope) and request.id == "r-1"
        assert request.hooks(Notes).on_save(Note("a")) == Note("a 1")
        assert request.hooks(Notes).on_save(Note("b")) == Note("b 2")
        assert request.extension(Words).count("one two") == 2
        assert [words.plugin for words in request.extensions(Words)] == ["scribe"]
    assert [step["plugin"] for step in host.explain("r-1")["steps"]] == ["scribe"] * 3


def test_request_deadline_starts_when_it_is_made_and_is_kept(host: SyncHost) -> None:
    time.sleep(1.2)  # the loop has slept too: its own idea of now must not be old
    with host.request(deadline_s=1.0) as request:
        assert request.hooks(Notes).on_save(Note("quick")) == Note("quick 1")
        began = time.monotonic()
        assert request.hooks(Notes).on_save(Note("sleep 3")) == Note("sleep 3")  # fail-open: passed over
        assert time.monotonic() - began < 2.8


def test_request_with_a_bad_id_is_refused(host: SyncHost) -> None:
    with pytest.raises(ValueError, match="printable"):
        host.request(id="a b")


def test_stream_out_is_a_plain_iterator(host: SyncHost) -> None:
    assert list(host.extension(Words).split("a b c")) == ["a", "b", "c"]


def test_stream_in_takes_a_plain_iterable(host: SyncHost) -> None:
    assert host.extension(Words).join(["a", "b"]) == "a b"
    assert host.extension(Words).join(words=iter("xyz")) == "x y z"


def test_stream_in_and_out_is_read_as_it_is_made(host: SyncHost) -> None:
    made: list[str] = []

    def source() -> Iterator[str]:
        for word in ("a", "b", "c"):
            made.append(word)
            yield word

    stream = host.extension(Words).upper(source())
    assert next(stream) == "A"
    assert made[0] == "a"
    assert list(stream) == ["B", "C"]


def test_stream_filter_gives_what_is_there_while_the_source_waits(host: SyncHost) -> None:
    more = threading.Event()

    def source() -> Iterator[str]:
        yield "first"
        assert more.wait(10)
        yield "second"

    with host.hooks(Notes).on_lines(source()) as stream:
        assert next(stream) == "FIRST"
        more.set()
        assert list(stream) == ["SECOND"]


def test_stream_source_sees_the_callers_context(host: SyncHost) -> None:
    user = contextvars.ContextVar("user", default="nobody")
    user.set("ann")

    def source() -> Iterator[str]:
        yield user.get()

    assert list(host.hooks(Notes).on_lines(source())) == ["ANN"]


def test_stream_closed_early_closes_its_source(host: SyncHost) -> None:
    closed = threading.Event()

    def source() -> Iterator[str]:
        try:
            while True:
                yield "more"
        finally:
            closed.set()

    stream = host.hooks(Notes).on_lines(source())
    assert next(stream) == "MORE"
    stream.close()
    stream.close()
    assert closed.wait(10)
    assert list(stream) == []


def test_stream_source_that_raises_ends_the_stream_with_its_error(host: SyncHost) -> None:
    def source() -> Iterator[str]:
        yield "first"
        raise KeyError("mine")

    stream = host.hooks(Notes).on_lines(source())
    with pytest.raises(KeyError, match="mine"):
        list(stream)


def test_calls_from_many_threads_get_their_own_answers(host: SyncHost) -> None:
    def call(number: int) -> bool:
        notes = host.hooks(Notes)
        return all(notes.on_save(Note(f"{number}-{turn}")) == Note(f"{number}-{turn} 1") for turn in range(50))

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(call, range(16)))


def test_plugins_are_seen_and_ruled(host: SyncHost) -> None:
    [plugin] = host.plugins
    assert isinstance(plugin, SyncPluginHandle)
    assert (plugin.id, plugin.state, plugin.version) == ("scribe", "ready", "0.1.0")
    pid = plugin.pid
    plugin.restart()
    assert plugin.state == "ready" and plugin.pid not in (None, pid)
    pid = plugin.pid
    plugin.reload()
    assert plugin.pids == (plugin.pid,) and plugin.pid not in (None, pid)
    assert plugin.impact() == Impact(stops=(), loses={})
    plugin.stop()
    assert plugin.state == "stopped"
    plugin.start()
    plugin.disable()
    assert not host.plugin("scribe").enabled
    with pytest.raises(PluginUnavailableError):
        host.extension(Words)
    plugin.enable()
    assert host.plugin("scribe").state == "ready"
    plugin.configure({})
    with pytest.raises(ConfigInvalidError):
        plugin.configure({"colour": "red"})
    with pytest.raises(UnknownPluginError):
        host.plugin("nobody")


def test_plugin_is_granted_and_revoked(settings: dict[str, Any]) -> None:
    manifest = settings["plugins"] / "scribe" / "plugin.toml"
    manifest.write_text(MANIFEST + "[permissions.kv]\n")
    with SyncHost(**settings | {"grants": "stored"}) as host:
        plugin = host.plugin("scribe")
        assert plugin.state == "blocked"
        plugin.grant()
        assert plugin.state == "ready" and plugin.granted == {"kv"}
        plugin.revoke()
        assert plugin.state == "blocked"


def test_scan_takes_up_new_plugins(host: SyncHost, settings: dict[str, Any]) -> None:
    folder = settings["plugins"] / "other"
    folder.mkdir()
    (folder / "plugin.toml").write_text(MANIFEST.replace('"scribe"', '"other"'))
    (folder / "other.py").write_text(CODE)
    host.scan()
    assert [plugin.id for plugin in host.plugins] == ["other", "scribe"]


def test_run_reaches_the_host_itself(host: SyncHost) -> None:
    assert host.run(lambda host: host.events.latest(1)[0].plugin) == "scribe"
    assert "activated" in str(host.run(lambda host: host.events.latest(5)))
    assert host.run(lambda host: host.hooks(Notes).find("y")) == "Y"


def test_use_inside_a_running_loop_is_refused(host: SyncHost, settings: dict[str, Any]) -> None:
    async def inside() -> None:
        for use in (
            lambda: host.hooks(Notes).on_save(Note("a")),
            lambda: host.plugins,
            lambda: host.request(),
            host.close,
            SyncHost(**settings).open,
        ):
            with pytest.raises(WrongContextError, match=r"async with Host\(…\) as host"):
                use()

    asyncio.run(inside())
    assert host.hooks(Notes).on_save(Note("a")) == Note("a 1")


def test_use_on_the_hosts_own_loop_is_refused(host: SyncHost) -> None:
    with pytest.raises(WrongContextError, match="runs an event loop"):
        host.run(lambda _: host.explain("r"))


def test_use_when_not_open_is_refused(settings: dict[str, Any]) -> None:
    host = SyncHost(**settings)
    with pytest.raises(HostClosedError, match="with SyncHost"):
        host.hooks(Notes)
    host.close()
    with host:
        hooks = host.hooks(Notes)
        with pytest.raises(WrongContextError, match="open already"):
            host.open()
    for use in (lambda: hooks.on_save(Note("a")), lambda: host.plugins, host.request, lambda: host.extension(Words)):
        with pytest.raises(HostClosedError, match="SyncHost"):
            use()
    with host:
        assert host.hooks(Notes).on_save(Note("again")) == Note("again 1")


def test_second_host_on_the_state_is_refused_and_leaves_no_thread(host: SyncHost, settings: dict[str, Any]) -> None:
    before = threading.active_count()
    with pytest.raises(HostAlreadyRunningError):
        SyncHost(**settings).open()
    assert threading.active_count() == before


def test_closing_leaves_no_thread_and_no_descriptor(settings: dict[str, Any]) -> None:
    def use() -> None:
        with SyncHost(**settings) as host:
            with ThreadPoolExecutor(4) as threads:
                list(threads.map(lambda _: host.hooks(Notes).on_save(Note("a")), range(20)))
            list(host.hooks(Notes).on_lines(["a"]))

    use()
    descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    use()
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == (descriptors, threads)


def test_calls_under_way_when_it_closes_are_answered(settings: dict[str, Any]) -> None:
    host = SyncHost(**settings)
    host.open()
    answers: list[Any] = []
    under_way = threading.Barrier(5)

    def call() -> None:
        under_way.wait(10)
        try:
            while True:
                answers.append(host.hooks(Notes).on_save(Note("sleep 0.01")))
        except HostClosedError as error:
            answers.append(error)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    under_way.wait(10)
    while len(answers) < 4:
        time.sleep(0.001)
    host.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert sum(isinstance(answer, HostClosedError) for answer in answers) == 4


def script(text: str, tmp_path: Path) -> subprocess.Popen[str]:
    """Run a program that has ``settings`` and a ``SyncHost`` to make of them."""
    head = f"""
        import os, signal, sys, threading, time, warnings
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        from tests.process.test_sync_host import *
        from pathlib import Path
        settings = {{"plugins": {str(tmp_path / "plugins")!r}, "contracts": [Notes, Words], "grants": "manifest",
                     "state_dir": {str(tmp_path / "state")!r}, "control": False}}
    """
    program = textwrap.dedent(head) + textwrap.dedent(text)
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def outcome(process: subprocess.Popen[str]) -> tuple[str, str, int]:
    out, err = process.communicate(timeout=15)
    return out, err, process.returncode


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_host_left_open_is_closed_in_order_when_the_program_ends(settings: dict[str, Any], tmp_path: Path) -> None:
    text = """
        host = SyncHost(**settings)
        host.open()
        print(host.hooks(Notes).on_save(Note("a")).text, host.plugins[0].pid)
    """
    out, err, status = outcome(script(text, tmp_path))
    assert status == 0 and out.startswith("a 1 ")
    assert "Traceback" not in err
    assert is_gone(int(out.split()[-1]))
    log = (tmp_path / "state" / "logs" / "scribe" / "log.jsonl").read_text()
    assert "draining → stopped" in log


def test_forked_child_is_refused_and_leaves_the_host_alone(settings: dict[str, Any], tmp_path: Path) -> None:
    text = """
        warnings.simplefilter("ignore")
        with SyncHost(**settings) as host:
            child = os.fork()
            if child == 0:
                for use in (lambda: host.hooks(Notes).on_save(Note("a")), lambda: host.plugins, host.close, host.open):
                    try:
                        use()
                    except WrongContextError as error:
                        assert "forked child" in str(error) and "after the fork" in str(error), error
                    else:
                        os._exit(3)
                sys.exit(7)  # leaves the block, and the program, in order
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), host.hooks(Notes).on_save(Note("a")).text)
    """
    out, err, status = outcome(script(text, tmp_path))
    assert (status, out) == (0, "7 a 1\n"), err


def test_state_directory_is_free_after_a_close_though_a_forked_child_lives_on(settings: dict[str, Any], tmp_path: Path) -> None:
    text = """
        warnings.simplefilter("ignore")
        with SyncHost(**settings) as host:
            child = os.fork()
            if child == 0:
                time.sleep(30)
                os._exit(0)
        with SyncHost(**settings) as host:
            print(host.hooks(Notes).on_save(Note("again")).text)
        os.kill(child, 9)
    """
    out, err, status = outcome(script(text, tmp_path))
    assert (status, out.split()[0]) == (0, "again"), err


def test_state_directory_of_a_killed_host_is_free_though_a_forked_child_lives_on(settings: dict[str, Any], tmp_path: Path) -> None:
    text = """
        warnings.simplefilter("ignore")
        host = SyncHost(**settings)
        host.open()
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
        print(child, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    with script(text, tmp_path) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            process.wait(10)
            with SyncHost(**settings) as host:
                assert host.hooks(Notes).on_save(Note("again")).text.startswith("again")
        finally:
            os.kill(child, signal.SIGKILL)


def test_signal_handler_may_close_while_the_program_closes(settings: dict[str, Any], tmp_path: Path) -> None:
    text = """
        host = SyncHost(**settings)
        signal.signal(signal.SIGTERM, lambda *_: host.close())
        host.open()
        threading.Thread(target=host.hooks(Notes).on_save, args=(Note("sleep 2"),), daemon=True).start()
        time.sleep(0.2)
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
        began = time.monotonic()
        host.close()
        print("closed", time.monotonic() - began > 0.4, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)  # closed already
    """
    out, err, status = outcome(script(text, tmp_path))
    assert (status, out) == (0, "closed True\n"), err


def test_signal_handler_may_close_while_the_program_opens(settings: dict[str, Any], tmp_path: Path) -> None:
    text = """
        host = SyncHost(**settings)
        signal.signal(signal.SIGTERM, lambda *_: host.close())
        threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
        try:
            host.open()
        except HostClosedError:
            print("closed", flush=True)
        with SyncHost(**settings) as host:
            print(host.hooks(Notes).on_save(Note("again")).text)
    """
    out, err, status = outcome(script(text, tmp_path))
    assert status == 0 and "again" in out, (out, err)


def test_interrupted_call_is_called_off_and_the_host_goes_on(settings: dict[str, Any], tmp_path: Path) -> None:
    text = """
        with SyncHost(**settings) as host:
            host.hooks(Notes).on_save(Note("a"))
            print("calling", flush=True)
            try:
                host.hooks(Notes).on_save(Note("sleep 8"))
            except KeyboardInterrupt:
                print("interrupted", flush=True)
            host.plugin("scribe").restart()
            print(host.hooks(Notes).on_save(Note("after")).text)
    """
    process = script(text, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "calling\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "interrupted\n"
    out, err, status = outcome(process)
    assert (status, out) == (0, "after 1\n"), err


def test_interrupt_while_opening_leaves_nothing_behind(settings: dict[str, Any], tmp_path: Path) -> None:
    code = settings["plugins"] / "scribe" / "scribe.py"
    code.write_text("import time\nprint('here', flush=True)\ntime.sleep(60)\n" + CODE)
    text = """
        host = SyncHost(**settings)
        print("opening", flush=True)
        try:
            host.open()
        except KeyboardInterrupt:
            print(threading.active_count())
    """
    process = script(text, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "opening\n"
    log = tmp_path / "state" / "logs" / "scribe" / "log.jsonl"
    deadline = time.monotonic() + 10
    while '"source":"stdout"' not in (log.read_text() if log.exists() else ""):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    started = descendants_of(process.pid)
    assert len(started) >= 2  # the plugin and the warden
    process.send_signal(signal.SIGINT)
    out, err, status = outcome(process)
    assert (status, out) == (0, "1\n"), err
    assert not any(map(is_alive, started))


def test_loop_thread_wakes_those_whose_work_never_ends() -> None:
    thread = LoopThread("test")
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            thread.run(asyncio.sleep, 3600)
        except HostClosedError as error:
            caught.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    while not thread.run(lambda: [task for task in asyncio.all_tasks() if "_wait" in repr(task)]):
        time.sleep(0.001)
    thread.stop()
    waiting.join(10)
    assert len(caught) == 1
    with pytest.raises(HostClosedError):
        thread.run(int)
    thread.stop()


def test_function_is_called_with_events_until_it_is_ended(host: SyncHost) -> None:
    heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
    end = host.subscribe("order.paid", lambda event: heard.put(event.value))
    assert host.publish("order.paid", {"id": 7}) == 1
    assert heard.get(timeout=5) == {"id": 7}
    end()
    assert host.publish("order.paid", {"id": 8}) == 0 and heard.empty()
