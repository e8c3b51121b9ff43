"""What somebody can do who wants to take a plugin's place without being asked to: nothing. One test per attack.

Where a defence can be taken away by itself, the attack is shown to succeed without it.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from annexe import Host
from annexe.errors import HostError
from annexe.host import attach_door, invitations
from annexe.host.control_socket import connect_control
from annexe.launch import ProcessStrategy
from annexe.launch.offer import OfferFinder
from annexe.launch.removal import remove_tree
from annexe.record import EventKind
from tests.process.attached import Operator, attached, invited, process, write
from tests.process.conftest import needs_root
from tests.process.hosts import Doc, T, events, no_walls, open_descriptors, open_host, run, until
from tests.support.tools import level_here

pytestmark = pytest.mark.any_user

needs_walls = pytest.mark.skipif(level_here() != "full", reason="there are no walls here that could keep it in")


async def answers(host: Host) -> str:
    return str((await host.hooks(T).strict(Doc("x"))).marks[0])


def show(path: str, sent: bytes) -> bytes:
    """Connect and send; return all that the host says until it hangs up."""
    with connect_control(Path(path), timeout_s=5.0) as client:
        client.sendall(sent)
        heard = b""
        while chunk := client.recv(4096):
            heard += chunk
        return heard


def code_of(heard: bytes) -> str:
    return str(json.loads(heard.split(b"\n")[0])["error"]["code"])


def line(token: str) -> bytes:
    return f"annexe-attach 1 {token}\n".encode()


def attacked(root: Path, attack: Callable[[Host, str, str], Any], **settings: Any) -> None:
    """Invite a process, let the attacker do its part with token and path of the socket, and see that nothing has changed."""
    write(root)

    async def scenario() -> None:
        async with open_host(root, control=True, **settings) as host, invited(root) as operator:
            before, pid = open_descriptors(), host.plugin("p").pid
            token, _, path = operator.invitation.partition("@")
            await attack(host, token, path)
            assert await answers(host) == "installed"
            assert host.plugin("p").pid == pid
            assert not host.plugin("p").is_attached
            await until(lambda: open_descriptors() <= before, what="descriptors are closed")

    run(scenario)


# The token.


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(line("0" * 64), id="wrong"),
        pytest.param(b"\0" * 81, id="zeros"),
        pytest.param(b"\xff" * 81, id="no text"),
        pytest.param(line("é" * 32), id="other letters"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"x" * 65, id="another protocol"),
    ],
)
def test_a_wrong_token_is_refused(tmp_path: Path, sent: bytes) -> None:
    async def attack(host: Host, _token: str, path: str) -> None:
        assert code_of(await asyncio.to_thread(show, path, sent)) == "host-error"
        assert len(events(host, EventKind.ATTACH_REFUSED)) == 1

    attacked(tmp_path, attack)


def test_it_is_the_comparison_that_keeps_a_wrong_token_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def attack(host: Host, _token: str, path: str) -> None:
        monkeypatch.setattr("hmac.compare_digest", lambda _one, _other: True)
        heard = await asyncio.to_thread(show, path, line("0" * 64) + b"\xff" * 100)
        assert heard.startswith(b'{"plugin": "p"}\n')
        await until(lambda: events(host, EventKind.ATTACH_REFUSED, "p"))  # for what follows the token

    attacked(tmp_path, attack)


@pytest.mark.parametrize("changed", ["prefix", "end"])
def test_the_right_token_in_a_line_of_another_form_is_refused_and_is_good_no_more(tmp_path: Path, changed: str) -> None:
    async def attack(_host: Host, token: str, path: str) -> None:
        sent = line(token).replace(b"attach 1", b"attach 2") if changed == "prefix" else line(token)[:-1] + b"\r"
        for tried in (sent, line(token)):
            assert code_of(await asyncio.to_thread(show, path, tried)) == "host-error"

    attacked(tmp_path, attack)


def test_a_token_is_good_for_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        file = write(tmp_path) / "main.py"
        async with open_host(tmp_path, control=True) as host, invited(tmp_path) as operator:
            async with process(file, operator.invitation):
                await operator.news("attached")
            await operator.news("detached")
            async with process(file, operator.invitation) as again:
                assert await again.wait() == 69
            assert not host.plugin("p").is_attached

    run(scenario)


@pytest.mark.parametrize("valid_s", [pytest.param(0.0, id="too old"), pytest.param(300.0, id="in time")])
def test_a_token_is_good_for_a_short_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, valid_s: float) -> None:
    async def scenario() -> None:
        file = write(tmp_path) / "main.py"
        async with open_host(tmp_path, control=True) as host:
            monkeypatch.setattr(invitations, "VALID_S", valid_s)
            operator = Operator(tmp_path / "state", "p")
            invitation = (await operator.news("invited"))["invitation"]
            if not valid_s:
                assert "within 300 s" in str((await operator.news("error"))["error"])
            async with process(file, invitation) as late:
                if valid_s:
                    await operator.news("attached")
                else:
                    assert await late.wait() == 69
                assert host.plugin("p").is_attached == bool(valid_s)
            await operator.leave()

    run(scenario)


def test_a_token_for_one_plugin_gives_the_place_of_no_other(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path)
        impostor = write(tmp_path, "q", who="impostor") / "main.py"
        async with open_host(tmp_path, control=True, order={"t.strict": ["p"]}) as host, invited(tmp_path, "q") as operator:  # noqa: SIM117 - that is long enough
            async with process(impostor, operator.invitation) as started:
                await operator.news("attached")
                assert host.plugin("q").pid == started.pid
                assert host.plugin("p").pid != started.pid
                assert (await host.hooks(T).strict(Doc("x"))).marks[0::2] == ["installed", "impostor"]

    run(scenario)


def test_the_token_is_nowhere_but_in_the_hands_of_who_asked(tmp_path: Path) -> None:
    async def attack(host: Host, token: str, _path: str) -> None:
        kept = [file.read_bytes() for file in (tmp_path / "state").rglob("*") if file.is_file() and "cache" not in file.parts]
        assert not any(token.encode() in text or bytes.fromhex(token) in text for text in kept)
        assert token not in repr([event.as_dict() for event in host.events.latest(1000)])

    attacked(tmp_path, attack)


# Who connects, and how.


@needs_root
@pytest.mark.parametrize("defence", ["on", "folder", "both off"])
def test_another_users_process_is_not_let_in_though_it_has_the_token(monkeypatch: pytest.MonkeyPatch, defence: str) -> None:
    code = "import os, socket, sys\nos.setuid(65534)\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n"
    code += "s.sendall(sys.argv[2].encode() + b'\\n')\nprint(s.recv(4096).decode())\n"
    root = Path(tempfile.mkdtemp(prefix="annexe-attach-", dir="/tmp"))
    root.chmod(0o755)
    write(root)

    async def scenario() -> None:
        async with open_host(root, control=True) as host, invited(root) as operator:
            token, _, path = operator.invitation.partition("@")
            if defence != "on":  # what keeps others out before the kernel's word is asked for
                for folder in (Path(path).parent.parent, Path(path).parent):
                    folder.chmod(0o755)
                Path(path).chmod(0o666)
            if defence == "both off":
                monkeypatch.setattr(attach_door, "peer_uid", lambda _sock: os.geteuid())
            words = [sys.executable, "-c", code, path, line(token).decode().strip()]
            attacker = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
            said, complaint = await attacker.communicate()
            if defence == "both off":
                assert said.startswith(b'{"plugin": "p"}\n')
            elif defence == "folder":
                assert b"plugin" not in said
                assert [one.reason for one in events(host, EventKind.ATTACH_REFUSED)] == ["only uid 0 and root may attach, got 65534"]
            else:
                assert b"PermissionError" in complaint
            assert await answers(host) == "installed"

    try:
        run(scenario)
    finally:
        remove_tree(root)


TRY = """
import socket
@plugin.filter("t.ask")
def ask(doc, ctx):
    token, _, path = doc["text"].partition("@")
    try:
        s = socket.socket(socket.AF_UNIX)
        s.connect(path)
    except OSError as error:
        return {**doc, "text": type(error).__name__}
    with s:
        s.sendall(f"annexe-attach 1 {token}\\n".encode())
        return {**doc, "text": s.recv(4096).decode()}
"""


@needs_walls
@pytest.mark.both_users
@pytest.mark.parametrize("walls", ["on", "no namespaces", "off"])
def test_a_plugin_in_its_sandbox_does_not_reach_the_socket_even_if_it_has_the_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, walls: str
) -> None:
    async def scenario() -> None:
        write(tmp_path, "q", more=TRY, hooks=["t.strict", "t.ask"])
        write(tmp_path)
        async with open_host(tmp_path, control=True) as host, invited(tmp_path) as operator:
            said = (await host.hooks(T).ask(Doc(operator.invitation))).text
            if walls != "off" or os.geteuid() == 0:  # a root host's plugins have users of their own besides
                assert said in ("FileNotFoundError", "PermissionError")
                assert not host.plugin("p").is_attached
            else:
                assert said.startswith('{"plugin": "p"}\n')

    if walls == "off":
        with no_walls():
            run(scenario)
        return
    if walls != "on":
        offers = OfferFinder(unsafe_without=("namespaces",))
        monkeypatch.setattr("annexe.host.host.ProcessStrategy", partial(ProcessStrategy, offers=offers))
    run(scenario)


@pytest.mark.parametrize(
    ("settings", "may"),
    [
        pytest.param({"grants": "stored"}, False, id="not in development"),
        pytest.param({"grants": "stored", "production": True}, False, id="in production"),
        pytest.param({"grants": "stored", "production": True, "attach": True}, True, id="in production, granted"),
        pytest.param({}, True, id="in development"),
    ],
)
def test_a_host_that_is_not_for_development_invites_nobody(tmp_path: Path, settings: dict[str, Any], may: bool) -> None:
    async def scenario() -> None:
        write(tmp_path)
        async with open_host(tmp_path, control=True, **settings):
            operator = Operator(tmp_path / "state", "p")
            if may:
                await operator.news("invited")
                assert (tmp_path / "state" / "control" / "attach").is_socket()
            else:
                error = (await operator.news("error"))["error"]
                assert isinstance(error, HostError)
                assert "--attach" in error.message
                assert not (tmp_path / "state" / "control" / "attach").exists()
            await operator.leave()

    run(scenario)


def test_a_plugin_that_must_have_walls_is_not_attached_to(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path, extra='[sandbox]\nrequire = "limits"')
        async with open_host(tmp_path, control=True):
            operator = Operator(tmp_path / "state", "p")
            assert "has no walls at all" in str((await operator.news("error"))["error"])
            await operator.leave()

    run(scenario)


def test_garbage_after_the_token_ends_that_connection_and_nothing_else(tmp_path: Path) -> None:
    async def attack(host: Host, token: str, path: str) -> None:
        heard = await asyncio.to_thread(show, path, line(token) + b"\xff" * 1000)
        assert heard.startswith(b'{"plugin": "p"}\n')
        await until(lambda: events(host, EventKind.ATTACH_REFUSED, "p"))

    attacked(tmp_path, attack)


def test_one_that_connects_and_is_silent_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attach_door, "TOKEN_S", 0.2)

    async def attack(_host: Host, token: str, path: str) -> None:
        for sent in (b"", line(token)[:-1]):
            heard = await asyncio.to_thread(show, path, sent)
            assert "it showed no token: it was silent" in json.loads(heard)["error"]["message"]

    attacked(tmp_path, attack)


def test_one_that_is_silent_once_it_was_let_in_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annexe.supervision.instance.HELLO_S", 0.2)

    async def attack(host: Host, token: str, path: str) -> None:
        await asyncio.to_thread(show, path, line(token))
        await until(lambda: events(host, EventKind.ATTACH_REFUSED, "p"))

    attacked(tmp_path, attack)


def test_many_that_wait_with_no_token_keep_nobody_out_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attach_door, "TOKEN_S", 0.5)

    async def attack(_host: Host, _token: str, path: str) -> None:
        silent = [connect_control(Path(path), timeout_s=5.0) for _ in range(attach_door.MAX_WAITING)]
        assert code_of(await asyncio.to_thread(show, path, b"")) == "busy"
        for client in silent:
            with client:
                assert b"it was silent" in await asyncio.to_thread(client.recv, 4096)
        assert code_of(await asyncio.to_thread(show, path, line("0" * 64))) == "host-error"

    attacked(tmp_path, attack)


def test_many_invitations_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invitations, "MAX_INVITATIONS", 1)

    async def attack(_host: Host, _token: str, _path: str) -> None:
        second = Operator(tmp_path / "state", "p")
        assert (await second.news("error"))["error"].code == "busy"
        await second.leave()

    attacked(tmp_path, attack)


# Once it is in.


def test_one_that_breaks_the_protocol_is_let_go_and_the_installed_one_is_back(tmp_path: Path) -> None:
    broken = "@plugin.filter('t.edit')\ndef edit(doc, ctx):\n    ctx._runner._sock.sendall(b'\\xff' * 100)\n    return doc\n"

    async def scenario() -> None:
        write(tmp_path, more="@plugin.filter('t.edit')\ndef edit(doc, ctx):\n    return doc\n", hooks=["t.strict", "t.edit"])
        mine = write(tmp_path / "mine", more=broken, who="by hand") / "main.py"
        async with open_host(tmp_path, control=True) as host, attached(tmp_path, mine) as (operator, _):
            await host.hooks(T).edit(Doc("x"))
            assert "broke the protocol" in (await operator.news("detached"))["reason"]
            assert await answers(host) == "installed"
            assert host.plugin("p")._known.supervisor.failures.count == 0  # type: ignore[union-attr]

    run(scenario)


def test_it_has_the_plugins_rights_and_no_more(tmp_path: Path) -> None:
    asks = "@plugin.filter('t.edit')\ndef edit(doc, ctx):\n    try:\n        ctx.kv.get('x')\n    except PermissionDenied:\n"
    asks += "        doc['text'] = 'denied'\n    return doc\n"

    async def scenario() -> None:
        write(tmp_path, more=asks, hooks=["t.strict", "t.edit"])
        mine = write(tmp_path / "mine", more=asks, hooks=["t.strict", "t.edit"], extra='[permissions]\nkv = { quota = "1MiB" }') / "main.py"
        async with open_host(tmp_path, control=True) as host, attached(tmp_path, mine) as (_, started):
            assert host.plugin("p").pid == started.pid
            assert (await host.hooks(T).edit(Doc("x"))).text == "denied"

    run(scenario)


def test_no_process_inherits_the_channel_or_the_token(tmp_path: Path) -> None:
    looks = "@plugin.filter('t.edit')\ndef edit(doc, ctx):\n    import subprocess\n"
    looks += '    code = \'import os; print(sorted(os.listdir("/proc/self/fd")), "ANNEXE_ATTACH" in os.environ)\'\n'
    looks += "    doc['text'] = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout\n    return doc\n"

    async def scenario() -> None:
        write(tmp_path, more=looks, hooks=["t.strict", "t.edit"])
        mine = write(tmp_path / "mine", more=looks, hooks=["t.strict", "t.edit"]) / "main.py"
        async with open_host(tmp_path, control=True) as host, attached(tmp_path, mine):
            assert (await host.hooks(T).edit(Doc("x"))).text == "['0', '1', '2', '3'] False\n"  # 3 is the listing itself

    run(scenario)


def test_a_signal_is_never_sent_to_a_process_that_the_host_did_not_start(tmp_path: Path) -> None:
    stubborn = (
        "signal.signal(signal.SIGTERM, lambda *_: print('SIGTERM', flush=True))\n@plugin.on_shutdown\ndef stop(ctx):\n    time.sleep(2)\n"
    )

    async def scenario() -> None:
        write(tmp_path)
        mine = write(tmp_path / "mine", more=stubborn) / "main.py"
        async with open_host(tmp_path, control=True) as host, attached(tmp_path, mine) as (_, started):
            await host.plugin("p").stop()
            said, _ = await started.communicate()
            assert (started.returncode, said) == (0, b"")

    run(scenario)


def test_a_socket_that_lies_in_the_way_is_replaced(tmp_path: Path) -> None:
    at = tmp_path / "state" / "control"
    write(tmp_path)

    async def scenario() -> None:
        async with open_host(tmp_path, control=True) as host:
            stale = socket.socket(socket.AF_UNIX)
            stale.bind(str(at / "attach"))
            async with attached(tmp_path, write(tmp_path / "mine", who="by hand") / "main.py"):
                assert await answers(host) == "by hand"
            stale.close()
        assert not (at / "attach").exists()

    run(scenario)
