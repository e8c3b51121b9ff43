from __future__ import annotations

from typing import Any

import pytest

from annexe.channel import Provided
from annexe.channel.handshake import ProvidedEvent
from annexe.dispatch.provided import check_provided
from annexe.errors import ActivationError
from annexe.manifest import Manifest
from annexe.manifest.model import Permissions, Runtime


def check(asked: tuple[str, ...], handled: dict[str, ProvidedEvent]) -> None:
    permissions = Permissions(events_subscribe=asked)
    manifest = Manifest(id="keeper", version="1.0.0", runtime=Runtime(kind="python", entry="main"), permissions=permissions)
    check_provided(manifest, Provided(events=handled), hooks={}, points={})


@pytest.mark.parametrize(
    ("asked", "handled", "told"),
    [
        pytest.param(
            (),
            {"a.done": ProvidedEvent(at="main.py:5")},
            r"answers event 'a.done' \(at main.py:5\).*subscribe = \[\"a.done\"\]",
            id="more",
        ),
        pytest.param((), {"Not a name": ProvidedEvent()}, "answers event 'Not a name', .*expected", id="no name"),
        pytest.param(("a.done",), {}, r'write @plugin.on_event\("a.done"\)', id="less"),
    ],
)
def test_code_that_answers_other_events_than_its_manifest_asks_for_is_refused(asked: Any, handled: Any, told: str) -> None:
    with pytest.raises(ActivationError, match=told):
        check(asked, handled)
    check(("a.done",), {"a.done": ProvidedEvent()})
