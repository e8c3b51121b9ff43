"""Errors over the control socket: what is told there is what is raised here."""

from __future__ import annotations

from typing import Any

import pytest

from annexe import errors
from annexe.errors import AnnexeError, CallTimeoutError, HostError, RevisionMismatchError
from annexe.host.control_wire import error_from_dict

CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, AnnexeError)]


@pytest.mark.parametrize("cls", CLASSES)
def test_error_of_every_class_comes_back_as_it_was(cls: type[AnnexeError]) -> None:
    told = {"code": cls.code, "message": "it failed", "plugin": "one", "data": {"fact": [1, "two"]}}
    error = error_from_dict(told)
    assert type(error) is cls
    assert (error.message, str(error), error.plugin) == ("it failed", "it failed", "one")
    assert error.data == {"fact": [1, "two"]} and error.fact == [1, "two"]  # type: ignore[attr-defined]
    assert error.as_dict() == told


def test_facts_of_an_error_are_told() -> None:
    error = RevisionMismatchError(plugin="one", contract="chat.on_request", expected=2, actual=1)
    told = error.as_dict()
    assert told["data"] == {"contract": "chat.on_request", "expected": 2, "actual": 1}
    back = error_from_dict(told)
    assert isinstance(back, RevisionMismatchError) and (back.expected, back.actual) == (2, 1)


@pytest.mark.parametrize(
    ("told", "cls", "data"),
    [
        ({"code": "of-a-later-version", "message": "new"}, HostError, {}),
        ({}, HostError, {}),
        ({"code": "deadline-exceeded", "message": "late", "plugin": 5, "data": "no map"}, CallTimeoutError, {}),
        ({"code": "host-error", "data": {"message": "x", "plugin": "y", "self": 1, "args": [], "kept": 2}}, HostError, {"kept": 2}),
    ],
)
def test_what_is_told_oddly_is_still_an_error(told: dict[str, Any], cls: type[AnnexeError], data: dict[str, Any]) -> None:
    error = error_from_dict(told)
    assert type(error) is cls
    assert (error.plugin, error.data) == (None, data)
    assert error.args == (told.get("message", ""),) or error.args == ()
