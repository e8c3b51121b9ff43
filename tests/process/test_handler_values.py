"""What a plugin's author gives and gets, in both codecs: real plugins, whose interpreter can or cannot load msgspec."""

# mypy: disable-error-code="empty-body"
from __future__ import annotations

from pathlib import Path

import pytest

from annexe.errors import RejectedError
from tests.process.hosts import Doc, T, connection_of, open_host, run, steps, write_plugin

pytestmark = pytest.mark.any_user

KINDS = [pytest.param("def", id="def"), pytest.param("async def", id="async def")]


@pytest.fixture(params=["msgpack", "json"])
def codec(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the codec that hosts and plugins of this test agree on."""
    if request.param == "json":
        monkeypatch.setattr("annexe.launch.runtime._is_compiled", lambda _: False)
    return str(request.param)


BAD_REJECTS = """
from datetime import timedelta
from decimal import Decimal

class Half(Reject):
    def __init__(self):
        pass

@plugin.filter("t.edit")
KIND edit(doc, ctx):
    if doc["text"] == "half":
        raise Half
    if doc["text"] == "changed":
        error = Reject("full", "no room")
        error.retry_after_s = object()
        raise error
    raise Reject("full", "no room", status=429, retry_after_s=eval(doc["text"]))
"""


@pytest.mark.parametrize("kind", KINDS)
def test_refusal_that_cannot_be_sent_fails_the_call_and_not_the_plugin(tmp_path: Path, codec: str, kind: str) -> None:
    write_plugin(tmp_path / "plugins", "alpha", BAD_REJECTS.replace("KIND", kind), hooks=["t.edit"])
    wrong = {
        "half": "Half: , which cannot be sent (AttributeError: ",
        "changed": "Reject: no room, which cannot be sent (CodecError: ",
        "float('inf')": "ValueError: Reject: retry_after_s: expected 0 to 31536000 seconds, got inf (at main.py:",
        "timedelta(seconds=2)": "TypeError: Reject: retry_after_s: expected a number of seconds or None, got datetime.timedelta(",
        "Decimal(2)": "TypeError: Reject: retry_after_s: expected a number of seconds or None, got Decimal('2') (at main.py:",
    }

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            assert connection_of(host, "alpha").codec.name == codec
            pid = host.plugin("alpha").pid
            for text, reason in wrong.items():
                async with host.request(id=text) as request:
                    assert await request.hooks(T).edit(Doc(text)) == Doc(text)  # the failure policy is open
                assert steps(host, text) == [("alpha", "failed")]
                assert reason in host.explain(text)["steps"][0]["reason"]
                with pytest.raises(RejectedError) as rejected:
                    await host.hooks(T).edit(Doc("2"))
                assert (rejected.value.status, rejected.value.retry_after_s) == (429, 2)
            assert host.plugin("alpha").pid == pid

    run(scenario)
