"""A process that was started by hand takes the place of an installed plugin, and the installed one is back when it goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from annexe import Host
from annexe.record import EventKind
from tests.process.attached import attached, write
from tests.process.hosts import Doc, T, events, open_host, run

pytestmark = pytest.mark.any_user


async def who(host: Host, text: str = "x") -> tuple[str, int]:
    """Return who answers, and in which process."""
    name, pid = (await host.hooks(T).strict(Doc(text))).marks
    return name, int(pid)


def by_hand(root: Path, **fields: str) -> Path:
    """Write the same plugin as somebody has it in an editor; return its file."""
    return write(root / "mine", who="by hand", **fields) / "main.py"


@pytest.mark.both_users
def test_a_process_takes_the_place_of_the_installed_one_which_is_back_when_it_is_killed(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path)
        async with open_host(tmp_path, control=True) as host:
            assert (await who(host))[0] == "installed"
            async with attached(tmp_path, by_hand(tmp_path)) as (operator, process):
                assert await who(host) == ("by hand", process.pid)
                assert host.plugin("p").pid == process.pid
                process.kill()
                await operator.news("detached")
                assert (await who(host))[0] == "installed"
                assert (await operator.news("back"))["plugin_state"] == "ready"
            assert [event.facts["pid"] for event in events(host, EventKind.ATTACHED, "p")] == [process.pid]
            assert len(events(host, EventKind.DETACHED, "p")) == 1
            assert not events(host, EventKind.PLUGIN_EXITED, "p")

    run(scenario)
