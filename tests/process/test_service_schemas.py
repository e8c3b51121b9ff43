"""Schemas that plugins declare for their services: shown to authors, and held against calls that the host decodes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from annexe.channel.messages import JSON
from annexe.cli import main
from tests.process.hosts import connection_of, open_host, run, write_plugin
from tests.process.test_services import called, write_caller

pytestmark = pytest.mark.any_user

WORDS = """
@plugin.service("tokenizer")
class Tokenizer:
    def count(self, text):
        return len(text.split())
    def echo(self, value):
        return value
"""
CONTRACT = """
from annexe_sdk import Service

class Tokenizer(Service, name="tokenizer"):
    def count(self, text: str) -> int: ...
    def echo(self, value: str) -> str: ...
"""


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert main(["schema", *arguments]) == code
    told = capsys.readouterr()
    return json.loads(told.out) if code == 0 else told.err


def write_words(root: Path, schema: str, *, plugin: str = "words") -> None:
    offers = '[provides.services]\n"tokenizer" = { version = "1.0.0", schema = "schemas/tokenizer.json" }\n'
    folder = write_plugin(root / "plugins", plugin, WORDS, extra=offers)
    (folder / "schemas").mkdir(exist_ok=True)
    (folder / "schemas" / "tokenizer.json").write_text(schema)


def contract_file(root: Path) -> str:
    path = root / "tokenizer_contract.py"
    path.write_text(CONTRACT)
    return str(path)


def test_schema_of_a_contract_is_declared_shown_and_held_against_calls_between_codecs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contract = contract_file(tmp_path)
    document = printed(capsys, contract, "--service", "tokenizer")
    assert printed(capsys, contract)["services"] == {"tokenizer": document}
    assert "no contract of service 'speech' is there; there are: tokenizer" in printed(capsys, contract, "--service", "speech", code=11)
    write_words(tmp_path, json.dumps(document))
    write_caller(tmp_path)

    async def scenario() -> None:
        async with open_host(tmp_path, control=True) as host:
            state = ("--state", str(tmp_path / "state"))
            assert await asyncio.to_thread(printed, capsys, "--service", "tokenizer", *state) == document
            assert "no plugin offers service 'speech'" in await asyncio.to_thread(
                lambda: printed(capsys, "--service", "speech", *state, code=23)
            )
            assert await called(host, "echo", 7) == ["7"]  # one codec: the host looks at nothing
            connection_of(host, "words").codec = JSON
            assert await called(host, "count", "a b") == ["2"]
            refused = await called(host, "echo", 7)
            assert refused[1] == "invalid-params"
            assert "the arguments of svc.tokenizer.echo do not fit the schema of plugin 'words': at $[0]: 7 is not of type" in refused[2]
            assert not connection_of(host, "words").open_calls

    run(scenario)


def test_answer_that_does_not_fit_is_refused_with_its_place(tmp_path: Path) -> None:
    document = {"methods": {"echo": {"result": {"type": "object", "properties": {"n": {"type": "integer"}}}}}}
    write_words(tmp_path, json.dumps(document))
    write_caller(tmp_path)

    async def scenario() -> None:
        async with open_host(tmp_path) as host:
            connection_of(host, "caller").codec = JSON
            assert await called(host, "echo", {"n": 1}) == [repr({"n": 1})]
            refused = await called(host, "echo", {"n": "one"})
            assert refused[1] == "invalid-result"
            assert "plugin 'words' answered svc.tokenizer.echo with what does not fit its own schema: at $.n: " in refused[2]
            assert await called(host, "echo", {"n": 2}) == [repr({"n": 2})]

    run(scenario)


def test_schema_that_is_none_keeps_its_plugin_from_running_and_nobody_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_words(tmp_path, '{"methods": {"count": {"result": {"type": "text"}}}}')
    write_plugin(tmp_path / "plugins", "plain", WORDS, extra='[provides.services]\n"tokenizer" = { version = "1.0.0" }\n')
    write_plugin(tmp_path / "plugins", "needy", "", extra='[requires.plugins]\n"words" = ">=1"\n')
    write_caller(tmp_path)

    async def scenario() -> None:
        async with open_host(tmp_path, control=True) as host:
            words, needy = host.plugin("words"), host.plugin("needy").reason
            # All in one line: commands show of several lines the problems alone.
            assert needy.startswith("it requires plugin 'words' >=1: ") and "would, and is blocked: " in needy and "\n" not in needy
            assert words.state == "blocked"
            assert "the schema schemas/tokenizer.json of service 'tokenizer' is refused: /methods/count/result" in words.reason
            assert await called(host, "count", "a b") == ["2"]
            told = await asyncio.to_thread(lambda: printed(capsys, "--service", "tokenizer", "--state", str(tmp_path / "state"), code=11))
            assert "declares no schema of service 'tokenizer'" in told
            write_words(tmp_path, '{"methods": {"count": {}}}')
            await words.restart()
            assert words.state == "ready"

    run(scenario)
