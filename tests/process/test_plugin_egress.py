"""A plugin's ordinary HTTP client, out of its sandbox through the host's proxy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from annexe.launch import ProcessStrategy
from annexe.launch.offer import OfferFinder
from annexe.record import EventKind
from tests.process.hosts import Doc, T, events, open_host, run, write_plugin

pytestmark = pytest.mark.both_users

CLIENT = """
import socket, urllib.request
def tried(url):
    try:
        return urllib.request.urlopen(url, timeout=3).read().decode()
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read().decode()}"
    except OSError as error:
        return str(error)
def direct(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            return "connected"
    except OSError as error:
        return error.strerror
def listening():
    try:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0)); sock.listen()
            return "listens"
    except OSError as error:
        return error.strerror
@plugin.filter("t.edit")
def edit(doc, ctx):
    allowed, other = map(int, doc["text"].split())
    doc["marks"] = [tried(f"http://127.0.0.1:{allowed}/"), tried(f"http://127.0.0.1:{other}/"), direct(allowed), direct(other), listening()]
    doc["marks"] += [str(sorted(int(name) for name in os.listdir("/proc/self/fd")))] if os.path.exists("/proc/self/fd") else ["-"]
    return doc
"""


class Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello from outside")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def servers() -> Iterator[tuple[int, int]]:
    """Give the ports of two servers on the host's loopback."""
    made = [HTTPServer(("127.0.0.1", 0), Hello) for _ in range(2)]
    threads = [threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}) for server in made]
    for thread in threads:
        thread.start()
    yield made[0].server_port, made[1].server_port
    for server, thread in zip(made, threads, strict=True):
        server.shutdown()
        thread.join()
        server.server_close()


WALLS: dict[str, Callable[[], OfferFinder]] = {"full": OfferFinder, "landlock": partial(OfferFinder, bubblewrap=None)}


@pytest.mark.parametrize("start", ["eager", "lazy"])
@pytest.mark.parametrize("level", WALLS)
def test_plugin_with_network_reaches_what_was_granted_and_nothing_else(
    tmp_path: Path, servers: tuple[int, int], monkeypatch: pytest.MonkeyPatch, level: str, start: str
) -> None:
    allowed, other = servers
    right = f'[permissions]\nnetwork = ["127.0.0.1:{allowed}"]\n[resources]\ncall-timeout = "15s"\nstart-timeout = "20s"\n'
    write_plugin(tmp_path / "plugins", "caller", CLIENT, hooks=["t.edit"], extra=right, runtime=f'start = "{start}"')
    monkeypatch.setattr("annexe.host.host.ProcessStrategy", partial(ProcessStrategy, offers=WALLS[level]()))

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            for _ in range(2):
                async with host.request(deadline_s=18.0) as request:
                    done = await request.hooks(T).edit(Doc(f"{allowed} {other}"))
                reached, refused, direct, direct_other, listens, descriptors = done.marks
                assert reached == "hello from outside"
                assert refused.startswith("403 ")
                assert f'network = ["127.0.0.1:{allowed}", "127.0.0.1:{other}"]' in refused
                # In its own network nobody listens there; in the host's, Landlock lets it connect to the proxy alone.
                assert {direct, direct_other} <= {"Permission denied"}
                assert listens == "Permission denied"
                assert descriptors in ("[0, 1, 2, 3, 4, 5, 6]", "-")  # streams, channel, two memory files, the folder being listed
                receipt = host.plugin("caller").receipt
                assert receipt is not None and receipt.level == level
                await host.plugin("caller").restart()
            denied = events(host, EventKind.PERMISSION_DENIED)
            assert [event.facts["method"] for event in denied] == ["proxy", "proxy"]
            assert {event.facts["permission"] for event in denied} == {f"network:127.0.0.1:{other}"}
            assert {event.facts["manifest_line"] for event in denied} == {f'network = ["127.0.0.1:{allowed}", "127.0.0.1:{other}"]'}

    run(scenario)


PLAIN = """
@plugin.filter("t.edit")
def edit(doc, ctx):
    doc["text"] = str([name for name in os.environ if "PROXY" in name.upper()])
    return doc
"""


def test_plugin_without_network_finds_no_proxy(tmp_path: Path) -> None:
    write_plugin(tmp_path / "plugins", "plain", PLAIN, hooks=["t.edit"])

    async def scenario() -> Any:
        async with open_host(tmp_path) as host:
            return (await host.hooks(T).edit(Doc(""))).text

    assert run(scenario) == "[]"
