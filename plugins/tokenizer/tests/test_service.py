"""The service, as its callers have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizer.contract import Tokenizer

from annexe.errors import InvalidParamsError
from annexe.testing import PluginRunner

FOLDER = Path(__file__).parents[1]


def test_service_counts_by_its_contract() -> None:
    with PluginRunner(FOLDER) as runner:
        words = runner.service(Tokenizer)
        assert words.count("one two") == words.count("one two", "gpt-4o") == 2
        assert words.count_messages([{"role": "user", "content": "one"}], model="gpt-4o") == 5


def test_service_adds_to_each_message_what_its_configuration_says() -> None:
    with PluginRunner(FOLDER, config={"per_message": 0}) as runner:
        assert runner.service(Tokenizer).count_messages([{"content": "one"}] * 2) == 2


@pytest.mark.parametrize(("method", "argument"), [("count", 5), ("count", None), ("count_messages", "text")])
def test_service_says_what_it_takes(method: str, argument: Any) -> None:
    with PluginRunner(FOLDER) as runner, pytest.raises(TypeError, match="expected"):
        getattr(runner.service("tokenizer"), method)(argument)
    with PluginRunner(FOLDER) as runner, pytest.raises(InvalidParamsError):
        getattr(runner.service("tokenizer"), method)()
