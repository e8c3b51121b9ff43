"""What a call does not do again: look for its plugin on disk, load it, or work out who comes when."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from annexe.dispatch import dispatcher
from tests.process.hosts import Doc, T, open_host, run, write_plugin

pytestmark = pytest.mark.any_user

MARK = """
loaded = time.monotonic_ns()

@plugin.filter("t.edit")
def edit(doc):
    doc["marks"].append(str(loaded))
    return doc
"""


def test_calls_need_no_folder_and_load_nothing_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        folder = write_plugin(tmp_path / "plugins", "alpha", MARK, hooks=["t.edit"])
        async with open_host(tmp_path) as host:
            pid = host.plugin("alpha").pid
            first = (await host.hooks(T).edit(Doc("x"))).marks
            shutil.rmtree(folder)
            assert [(await host.hooks(T).edit(Doc("x"))).marks for _ in range(3)] == [first] * 3
            assert (host.plugin("alpha").pid, host.plugin("alpha").state) == (pid, "ready")

    run(scenario)


def test_order_is_worked_out_when_a_plugin_comes_and_not_in_a_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worked_out: list[str] = []

    def counted(name: str) -> None:
        real = getattr(dispatcher, name)

        def arrange(*args: Any) -> Any:
            worked_out.append(name)
            return real(*args)

        monkeypatch.setattr(dispatcher, name, arrange)

    counted("order_implementations")
    counted("_placed")

    async def scenario() -> None:
        write_plugin(tmp_path / "plugins", "alpha", MARK, hooks=["t.edit"])
        async with open_host(tmp_path) as host:
            assert worked_out
            before = len(worked_out)
            for _ in range(3):
                assert len((await host.hooks(T).edit(Doc("x"))).marks) == 1
            assert len(worked_out) == before
            write_plugin(tmp_path / "plugins", "beta", MARK, hooks={"t.edit": 'before = ["alpha"]'})
            await host.scan()
            assert len(worked_out) > before
            assert len((await host.hooks(T).edit(Doc("x"))).marks) == 2

    run(scenario)
