"""Every level on a real machine: with walls hidden, refused or missing, and what the receipt then says.

The host of each case is a process of its own, under a filter that refuses what the case is without.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from annexe.launch.offer import landlock_abi
from tests.process.conftest import IS_ROOT
from tests.support.refusing import refuse

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.both_users

HOST = """
import asyncio, json, sys
from pathlib import Path
from annexe import Host
from annexe.launch.offer import OfferFinder
import annexe.host.host as module
from functools import partial
sys.path.insert(0, {root!r})
from tests.process.hosts import T, Doc

if {hidden}:
    module.ProcessStrategy = partial(module.ProcessStrategy, offers=OfferFinder(bubblewrap=None))

async def main():
    settings = dict(plugins={plugins!r}, state_dir={state!r}, contracts=[T], grants="manifest", control=False, isolation={isolation!r})
    async with Host(**settings) as host:
        plugin = host.plugin("probe")
        told = {{"state": str(plugin.state), "reason": plugin.reason, "receipt": plugin.receipt and plugin.receipt.as_dict()}}
        if plugin.receipt:
            told["found"] = json.loads((await host.hooks(T).edit(Doc({ask!r}))).text)
        print(json.dumps(told))

asyncio.run(main())
"""
PROBE = """
import json, socket
def tried(what):
    try:
        return what() or "worked"
    except OSError as error:
        return error.errno and os.strerror(error.errno)
@plugin.filter("t.edit")
def edit(doc, ctx):
    import subprocess
    secret = doc["text"]
    doc["text"] = json.dumps({
        "read": tried(lambda: open(secret).read()),
        "list": tried(lambda: ",".join(os.listdir("/"))),
        "fork": tried(lambda: subprocess.run(["/bin/true"]) and "worked"),
        "socket": tried(lambda: socket.socket().close()),
        "signal": tried(lambda: os.kill(os.getppid(), 0)),
        "write": tried(lambda: open(os.environ["TMPDIR"] + "/x", "w").close()),
        "mount": tried(lambda: open("/proc/self/mountinfo").read()[:1]),
        "mode": tried(lambda: os.chmod(secret, 0o666)),
        "times": tried(lambda: os.utime(secret)),
    })
    return doc
"""


def told_by_host(tmp_path: Path, open_folder: Path, *, refused: str = "", hidden: bool = False, isolation: str = "none") -> dict[str, Any]:
    """Return what a host says of its plugin, and what the plugin found out."""
    from tests.process.hosts import write_plugin

    secret = open_folder / "secret"
    secret.write_text("hunter2")
    secret.chmod(0o644)
    write_plugin(tmp_path / "plugins", "probe", PROBE, hooks=["t.edit"])
    code = HOST.format(
        root=str(ROOT),
        plugins=str(tmp_path / "plugins"),
        state=str(tmp_path / "state"),
        hidden=hidden,
        isolation=isolation,
        ask=str(secret),
    )
    (tmp_path / "host.py").write_text(textwrap.dedent(code))
    command = [sys.executable, str(tmp_path / "host.py")]
    if refused:
        command = [sys.executable, "-m", "tests.support.refusing", refused, *command]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def lacking(told: dict[str, Any]) -> dict[str, str]:
    return {lack["wall"]: f"{lack['why']} {lack['cure']}" for lack in told["receipt"]["lacks"] if lack["wall"] != "cgroup"}


ABI = landlock_abi()
BY_LANDLOCK = "landlock" if ABI >= 6 else "landlock-partial"  # what an older one is worth where it is the only wall


@pytest.fixture(autouse=True)
def _needs_the_kernel() -> None:
    if ABI == 0:
        pytest.skip("this kernel has no Landlock")


def test_full_is_reached_with_nothing_refused(tmp_path: Path, open_folder: Path) -> None:
    told = told_by_host(tmp_path, open_folder, isolation="full")
    assert (told["state"], told["receipt"]["level"], told["receipt"]["tree_kill"]) == ("ready", "full", "hard")
    assert lacking(told) == {}
    assert told["found"] == {
        "read": "No such file or directory",
        "list": "Permission denied",
        "fork": "Operation not permitted",
        "socket": "Permission denied",
        "signal": "Operation not permitted" if ABI >= 6 else "worked",  # to the first process of its own namespace, no other
        "write": "worked",
        "mount": "Permission denied",
        "mode": "No such file or directory",
        "times": "No such file or directory",
    }


@pytest.mark.parametrize(
    ("refused", "hidden", "why"),
    [
        pytest.param("", True, "bubblewrap is not to be used apt install bubblewrap", id="bubblewrap hidden"),
        pytest.param("userns", False, "bubblewrap says: bwrap: ", id="user namespaces refused"),
    ],
)
def test_landlock_is_reached_without_namespaces(tmp_path: Path, open_folder: Path, refused: str, hidden: bool, why: str) -> None:
    told = told_by_host(tmp_path, open_folder, refused=refused, hidden=hidden)
    assert (told["state"], told["receipt"]["level"], told["receipt"]["tree_kill"]) == ("ready", BY_LANDLOCK, "hard")
    assert why in lacking(told)["namespaces"]
    found = told["found"]
    assert {found[name] for name in ("read", "list", "socket", "mount")} == {"Permission denied"}
    assert {found[name] for name in ("fork", "mode", "times")} == {"Operation not permitted"}
    assert found["signal"] == ("Operation not permitted" if ABI >= 6 or IS_ROOT else "worked")
    assert found["write"] == "worked"


def test_namespaces_is_reached_without_landlock(tmp_path: Path, open_folder: Path) -> None:
    told = told_by_host(tmp_path, open_folder, refused="landlock")
    assert (told["state"], told["receipt"]["level"]) == ("ready", "namespaces")
    assert "Linux 5.13" in lacking(told)["landlock"]
    assert told["found"]["read"] == "No such file or directory"
    assert told["found"]["socket"] == "Permission denied"
    assert told["found"]["mount"] != "Permission denied"  # what Landlock alone hides


def test_limits_is_what_is_left_without_both_and_lets_through_what_the_others_stop(tmp_path: Path, open_folder: Path) -> None:
    told = told_by_host(tmp_path, open_folder, refused="landlock", hidden=True)
    assert (told["state"], told["receipt"]["level"]) == ("ready", "limits")
    assert set(lacking(told)) == {"landlock", "namespaces"}
    assert told["found"]["read"] == "hunter2"
    assert (told["found"]["signal"] == "worked") is not IS_ROOT
    assert told["found"]["mode"] == "Operation not permitted"  # the filters still stand


@pytest.mark.parametrize(
    ("refused", "hidden", "got"), [("", True, BY_LANDLOCK), ("landlock", False, "namespaces"), ("landlock", True, "limits")]
)
def test_level_that_is_required_and_not_to_be_had_blocks_the_plugin_with_the_cure(
    tmp_path: Path, open_folder: Path, refused: str, hidden: bool, got: str
) -> None:
    told = told_by_host(tmp_path, open_folder, refused=refused, hidden=hidden, isolation="full")
    assert (told["state"], told["receipt"]) == ("blocked", None)
    assert f"expected sandbox level full or stronger, got {got}" in told["reason"]
    assert ("apt install bubblewrap" in told["reason"]) is hidden
    assert ("Linux 5.13" in told["reason"]) is bool(refused)


def test_refusing_really_refuses() -> None:
    """The oracle of this file: what the cases are without is refused by the kernel, not by a flag."""
    code = "import os, ctypes; from tests.support.refusing import refuse; from annexe.launch.offer import landlock_abi\n"
    code += "before = landlock_abi(); refuse(['landlock', 'userns']); libc = ctypes.CDLL(None, use_errno=True)\n"
    code += "print(before > 0, landlock_abi(), libc.unshare(0x10000000), ctypes.get_errno())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "0", "-1", "1"]
    assert refuse is not None
