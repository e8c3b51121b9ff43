"""What is obeyed, and that each fault is the one it says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from chaos.command import commanded
from chaos.faults import FAULTS
from chaos.plugin import obey, obey_in_stream
from chaos.streams import STREAM_FAULTS

from annexe_sdk import Reject, Respond

HERE = Path(__file__).resolve().parent.parent


def request(content: Any, role: str = "user") -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": role, "content": content, "extra": {}}], "stream": False, "temperature": None, "extra": {}}


def context(**config: Any) -> Any:
    log = SimpleNamespace(warning=lambda *_args, **_fields: None)
    return SimpleNamespace(config=config, state={}, log=log, unchanged="unchanged")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("chaos: crash", "crash"),
        ("  chaos:stream-stall\nplease", "stream-stall"),
        ("chaos: nope", "nope"),
        ("chaos: crash_2", None),
        ("no chaos: crash", None),
        ("chaos:", None),
        ([{"type": "text", "text": "chaos: crash"}], None),
        (None, None),
    ],
)
def test_commanded_by_content(content: Any, expected: str | None) -> None:
    assert commanded(request(content)) == expected


def test_commanded_by_anyone_but_the_user_is_nothing() -> None:
    assert commanded(request("chaos: crash", role="assistant")) is None
    assert commanded({"messages": []}) is None


def test_obey_when_not_enabled_does_nothing() -> None:
    assert obey(request("chaos: crash"), context()) == "unchanged"


def test_obey_an_unknown_fault_refuses_and_names_the_known() -> None:
    with pytest.raises(Reject) as caught:
        obey(request("chaos: nope"), context(enabled=True))
    assert (caught.value.code, caught.value.status) == ("unknown-fault", 400)
    assert "crash" in caught.value.message
    assert "stream-stall" in caught.value.message


def test_faults_are_many_and_all_in_the_readme() -> None:
    readme = (HERE / "README.md").read_text()
    assert len(FAULTS) + len(STREAM_FAULTS) >= 12
    for name, fault in (FAULTS | STREAM_FAULTS).items():
        assert f"| `{name}` | {(fault.__doc__ or '').split('. ')[0].rstrip('.')}" in readme


@pytest.mark.parametrize(("kind", "status"), [("crash", -signal.SIGSEGV), ("abort", -signal.SIGABRT), ("exit", 3), ("exit-clean", 0)])
def test_obey_ending_faults_end_the_process(kind: str, status: int) -> None:
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\nfrom chaos.faults import FAULTS; FAULTS[{kind!r}]({{}}, None)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], cwd=HERE, env=environment, check=False).returncode == status


@pytest.mark.parametrize("kind", ["none", "wrong-type", "wrong-shape", "deep", "nan", "state", "slow"])
def test_obey_answering_faults_answer(kind: str) -> None:
    ctx = context(enabled=True, slow_s=0)
    good = request(f"chaos: {kind}")
    assert obey(good, ctx) != good
    assert kind != "state" or len(ctx.state["x"]) > 64 * 1024


def test_obey_raise_and_recursion_raise() -> None:
    with pytest.raises(RuntimeError, match="asked to raise"):
        obey(request("chaos: raise"), context(enabled=True))
    with pytest.raises(RecursionError):
        obey(request("chaos: recursion"), context(enabled=True))


def test_obey_reject_and_respond_answer_as_plugins_may() -> None:
    with pytest.raises(Reject) as rejected:
        obey(request("chaos: reject"), context(enabled=True))
    assert rejected.value.status == 418
    with pytest.raises(Respond) as responded:
        obey(request("chaos: respond"), context(enabled=True))
    assert responded.value.value["choices"][0]["finish_reason"] == "stop"


def test_obey_in_stream_lets_the_beginning_pass() -> None:
    chunks = [{"choices": [number]} for number in range(5)]
    ctx = context(enabled=True)
    assert obey(request("chaos: stream-raise"), ctx) == "unchanged"
    out = obey_in_stream(iter(chunks), ctx)
    assert [next(out) for _ in range(3)] == chunks[:3]
    with pytest.raises(RuntimeError, match="asked to raise"):
        next(out)


def test_obey_in_stream_without_command_changes_nothing() -> None:
    chunks = [{"choices": [number]} for number in range(5)]
    assert list(obey_in_stream(iter(chunks), context(enabled=True))) == chunks
