"""Start one plugin as a host would and let it say what it finds in its own process."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from annexe.cli.doctor_checks import Check
    from annexe.sandbox import Receipt

__all__ = ["checks_of", "plugin_checks"]

_TIMEOUT_S = 60.0
# By the name of their layer: as lacks are called, so that a wall has one name whether it stands or not.
_WALLS = {
    "namespaces": "namespaces",
    "landlock": "landlock",
    "system calls": "seccomp",
    **{limit: limit for limit in ("memory", "cpu", "tasks")},
}
_GROUPS_MEND = "run the host as root, or as a service of systemd with Delegate=yes, or in a systemd user session; see FOUND"
_OPEN_FILES = 37  # no default anywhere, so that it can only come from the manifest

_MANIFEST = f"""
manifest-version = 1
[plugin]
id = "doctor"
version = "1.0.0"
name = "doctor"
[runtime]
kind = "python"
entry = "probe"
[resources]
open-files = {_OPEN_FILES}
"""
_PROBE = """
import importlib.util, os, resource, sys
from annexe_sdk import Plugin

plugin = Plugin()


@plugin.on_activate
def tell(ctx):
    try:
        with open("/proc/self/status") as file:
            status = dict(line.rstrip("\\n").split(":\\t", 1) for line in file if ":\\t" in line)
    except OSError:
        status = {}
    ctx.log.info(
        "doctor",
        uid=os.getuid(),
        python=sys.executable,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        memory=resource.getrlimit(resource.RLIMIT_DATA)[0],
        no_new_privileges=status.get("NoNewPrivs", ""),
        msgspec=importlib.util.find_spec("msgspec") is not None,
    )


if __name__ == "__main__":
    plugin.run()
"""


def plugin_checks() -> list[Check]:
    """Start the plugin and return what came of it."""
    from annexe.cli.doctor_checks import Check
    from annexe.errors import AnnexeError

    with tempfile.TemporaryDirectory(prefix="annexe-doctor-") as aside:
        folder = Path(aside) / "plugins" / "doctor"
        folder.mkdir(parents=True)
        (folder / "plugin.toml").write_text(_MANIFEST)
        (folder / "probe.py").write_text(_PROBE)
        try:
            reason, receipt, told = asyncio.run(_start(Path(aside)))
        except (AnnexeError, TimeoutError, OSError) as error:
            return [Check("plugin start", "failed", str(error) or type(error).__name__, "see the message")]
    if receipt is None or told is None:
        return [Check("plugin start", "failed", reason, "see the message; `annexe show doctor` has nothing on it, this was a trial")]
    return list(checks_of(receipt, told))


async def _start(aside: Path) -> tuple[str, Receipt | None, dict[str, Any] | None]:
    """Return why the plugin is in its state, its receipt if it runs, and what it logged."""
    from annexe.host.host import Host

    async with asyncio.timeout(_TIMEOUT_S):
        async with Host(plugins=aside / "plugins", state_dir=aside / "state", control=False) as host:
            plugin = host.plugin("doctor")
            records = await asyncio.to_thread(host.logs.tail, "doctor", 100)
            told = next((record["fields"] for record in records if record["message"] == "doctor"), None)
            return plugin.reason, plugin.receipt, told


def checks_of(receipt: Receipt, told: dict[str, Any]) -> Iterator[Check]:
    """Yield what a plugin that started tells of this machine.

    Args:
        receipt: Its receipt.
        told: What it found in its own process.
    """
    from annexe.cli.doctor_checks import Check

    yield Check("plugin start", "ok", f"a plugin started at isolation level {receipt.level}, tree kill {receipt.tree_kill}")
    yield _python(receipt, told)
    yield _user(receipt, told)
    if told["open_files"] == _OPEN_FILES and told["memory"] > 0:
        yield Check("resource limits", "ok", "set and read back inside the plugin")
    else:
        yield Check("resource limits", "failed", f"open files are {told['open_files']}, expected {_OPEN_FILES}", "run the host on Linux")
    if told["no_new_privileges"] == "1":
        yield Check("prctl", "ok", "no new privileges, as the kernel tells it of the plugin; the death signal is set with it")
    else:
        yield Check("prctl", "warning", "new privileges are not refused, and plugins may outlive a killed host", "run the host on Linux")
    if told["msgspec"]:
        yield Check("msgspec", "ok", "plugins speak MessagePack")
    else:
        yield Check("msgspec", "warning", f"{told['python']} cannot load it; calls go as JSON", "run host and plugins with one Python")
    yield from _walls(receipt)
    if receipt.tree_kill != "hard":
        yield Check("tree kill", "warning", "a child that hides on purpose can outlive its plugin", "run the host as root, as a service")


def _walls(receipt: Receipt) -> Iterator[Check]:
    """Yield a line for each wall: those that stand around the plugin, as the kernel tells it, and those that cannot be had here."""
    from annexe.cli.doctor_checks import Check

    for layer in receipt.layers:
        if layer.name in _WALLS and layer.state == "on":
            yield Check(f"wall: {_WALLS[layer.name]}", "ok", f"{layer.detail}" + ("; read back from the kernel" if layer.confirmed else ""))
    for lack in receipt.lacks:
        yield Check(f"wall: {lack.wall}", "warning", lack.why, lack.cure or (_GROUPS_MEND if lack.wall == "cgroup" else ""))
    if receipt.level == "full":
        yield Check("isolation", "ok", "level full: plugins of other people can be run")
    else:
        yield Check("isolation", "warning", f"level {receipt.level} is the strongest here; a plugin that requires more does not start")


def _python(receipt: Receipt, told: dict[str, Any]) -> Check:
    from annexe.cli.doctor_checks import Check

    # Not the host's own where users of plugins cannot reach that: it is found and works, so there is nothing to mend.
    fallback = next((note for note in receipt.notes if "is used, since:" in note), None)
    return Check("plugin python", "ok", fallback or f"plugins run with {told['python'] or 'the host its own'}")


def _user(receipt: Receipt, told: dict[str, Any]) -> Check:
    from annexe.cli.doctor_checks import Check

    own = os.geteuid()
    if told["uid"] != own:
        return Check("plugin user", "ok", f"each plugin gets a user of its own; this one was {told['uid']}")
    if own == 0:
        return Check("plugin user", "failed", "the plugin ran as root", "run the host on Linux, or as another user than root")
    if receipt.walls.keep_files and receipt.walls.keep_processes:
        return Check("plugin user", "ok", f"plugins share the host's user ({own}), whose files and processes their walls keep from them")
    found = f"plugins share the host's user ({own}): they can read its files, the control token included"
    return Check("plugin user", "warning", found, "run the host as root, as a service, so that each plugin gets a user of its own")
