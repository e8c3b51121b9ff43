"""Services by a contract that two real plugins share: arguments by name, answers of the types that it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.process.hosts import Doc, T, open_host, policies, run, wait_state, write_plugin

pytestmark = pytest.mark.any_user

CONTRACT = """
from __future__ import annotations

from dataclasses import dataclass

from annexe_sdk import Service


@dataclass
class Token:
    text: str
    raw: bytes
    weight: float = 1.0


class Tokenizer(Service, name="tokenizer"):
    def tokens(self, text: str, limit: int = 10, upper: bool = False) -> list[Token]: ...

    def longest(self, tokens: list[Token]) -> Token | None: ...

    def caller(self) -> str: ...
"""

PROVIDER = """
    from contract import Token, Tokenizer

    @plugin.service(Tokenizer)
    class Words:
        def tokens(self, text: str, limit: int, upper: bool, ctx):
            words = text.upper().split() if upper else text.split()
            return [Token(word, word.encode() * (20_000 if word == "long" else 1)) for word in words[:limit]]

        def longest(self, tokens: list[Token]):
            if not tokens:
                return None
            token = max(tokens, key=lambda one: len(one.text))
            return {"text": token.text if type(token.raw) is bytes else repr(token), "raw": token.raw, "new": "in a later version"}

        def caller(self, ctx):
            return ctx.caller

        def helper(self):
            return "not in the contract"
"""

WRONG_PROVIDER = """
    from contract import Tokenizer

    @plugin.service(Tokenizer)
    class Words:
        def tokens(self, text: str, limit: int, upper: bool):
            return [{"text": "a", "raw": b"a"}, {"text": 5, "raw": b"a"}]

        def longest(self, tokens):
            return {"text": "a"}

        def caller(self):
            return None
"""

# What is between the bars is left out for a ``def`` handler.
CALLER = """
    from annexe_sdk import CallFailed
    from contract import Token, Tokenizer

    @plugin.filter("t.edit")
    |async |def edit(doc, ctx):
        service, plain = ctx.service(Tokenizer), ctx.service("tokenizer")
        calls = [
            lambda: service.tokens("a b c", limit=2),
            lambda: service.tokens("a b", upper=True),
            lambda: service.longest(tokens=[Token("a", b"a"), Token("bcd", b"bcd")]),
            lambda: service.longest([]),
            lambda: service.caller(),
            lambda: service.tokens(),
            lambda: service.tokens("a", size=1),
            lambda: service.helper(),
            lambda: plain.caller(1, 2),
            lambda: plain.helper(),
        ]
        for call in calls:
            try:
                answer = call()
                doc["marks"].append(repr(|await |answer))
            except (AttributeError, CallFailed, TypeError) as error:
                doc["marks"].append(f"{type(error).__name__}: {error}")
        long = |await |service.tokens("long")
        doc["marks"].append(f"{type(long[0].raw).__name__} of {len(long[0].raw)}")
        return doc
"""

WRONG_CALLER = """
    from annexe_sdk import CallFailed
    from contract import Tokenizer

    @plugin.filter("t.edit")
    |async |def edit(doc, ctx):
        service = ctx.service(Tokenizer)
        for call in (lambda: service.tokens("a"), lambda: service.longest([]), lambda: service.caller()):
            try:
                answer = call()
                doc["marks"].append(repr(|await |answer))
            except CallFailed as error:
                doc["marks"].append(f"{error} {error.data}")
        return doc
"""

OFFERS = '[provides.services]\n"tokenizer" = { version = "1.0.0" }'
NEEDS = '[requires.services]\n"tokenizer" = { version = ">=1,<2" }\n[permissions]\nservices = ["tokenizer"]'
WAYS = [pytest.param(True, id="async"), pytest.param(False, id="def")]
CODECS = [pytest.param(("msgpack", "json"), id="msgpack"), pytest.param(("json",), id="json")]


def write_both(root: Path, provider: str, caller: str, *, is_async: bool) -> None:
    parts = caller.split("|")
    code = caller.replace("|", "") if is_async else "".join(part for part in parts if part not in ("async ", "await "))
    offering = write_plugin(root / "plugins", "words", provider, extra=OFFERS)
    calling = write_plugin(root / "plugins", "caller", code, hooks=["t.edit"], extra=NEEDS)
    for folder in (offering, calling):
        (folder / "contract.py").write_text(CONTRACT)


def marks(root: Path, codecs: tuple[str, ...]) -> list[str]:
    async def scenario() -> list[str]:
        async with open_host(root, codecs=codecs) as host, host.request(deadline_s=10) as request:
            edited: Any = await request.hooks(T).edit(Doc("text"))
            assert {plugin.codec for plugin in host.plugins} == {codecs[0]}
            return list(edited.marks)

    return run(scenario)


@pytest.mark.parametrize("codecs", CODECS)
@pytest.mark.parametrize("is_async", WAYS)
def test_a_shared_contract_gives_arguments_names_and_answers_types(tmp_path: Path, is_async: bool, codecs: tuple[str, ...]) -> None:
    write_both(tmp_path, PROVIDER, CALLER, is_async=is_async)
    said = marks(tmp_path, codecs)
    assert said[:5] == [
        "[Token(text='a', raw=b'a', weight=1.0), Token(text='b', raw=b'b', weight=1.0)]",
        "[Token(text='A', raw=b'A', weight=1.0), Token(text='B', raw=b'B', weight=1.0)]",
        "Token(text='bcd', raw=b'bcd', weight=1.0)",
        "None",
        "'caller'",
    ]
    assert said[5].startswith("TypeError: Tokenizer.tokens lacks text; it is: def tokens(self, text: str, limit: int = 10")
    assert said[6].startswith("TypeError: Tokenizer.tokens has no parameter size to be given by name; it is: def tokens(self, text: str,")
    assert said[7] == "AttributeError: the contract Tokenizer has no 'helper'; it has: tokens, longest, caller"
    assert said[8].startswith("CallFailed: invalid-params:")
    assert "caller takes 0 arguments, got 2 (main.py:" in said[8]
    assert said[9].startswith("CallFailed: method-not-found:")
    assert said[10] == "bytes of 80000"


@pytest.mark.parametrize("codecs", CODECS)
@pytest.mark.parametrize("is_async", WAYS)
def test_an_answer_that_is_not_what_the_contract_says_is_refused_with_its_place(
    tmp_path: Path, is_async: bool, codecs: tuple[str, ...]
) -> None:
    write_both(tmp_path, WRONG_PROVIDER, WRONG_CALLER, is_async=is_async)
    assert marks(tmp_path, codecs) == [
        f"invalid-result: tokenizer.{method}: at {path}: expected {expected}, got {actual} "
        f"{{'path': '{path}', 'expected': '{expected}', 'actual': '{actual}'}}"
        for method, path, expected, actual in (
            ("tokens", "$[1].text", "str", "int"),
            ("longest", "$.raw", "bytes", "nothing"),
            ("caller", "$", "str", "None"),
        )
    ]


def test_a_provider_that_lacks_a_method_of_its_contract_does_not_start(tmp_path: Path) -> None:
    lacking = """
        from contract import Tokenizer

        @plugin.service(Tokenizer)
        class Words:
            def caller(self): return ""
            def tokens(self, text, limit): return []
            def longest(self, tokens): return None
    """
    write_both(tmp_path, lacking, CALLER, is_async=False)

    async def scenario() -> str:
        async with open_host(tmp_path, policies=policies(first_delay_s=60)) as host:
            words = host.plugin("words")
            await wait_state(words, "backing-off")
            return str(words.reason)

    reason = run(scenario)
    assert "TypeError: main.py:10: Words.tokens takes (text, limit), but Tokenizer.tokens passes (text, limit, upper)" in reason


STREAMED = """
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from annexe_sdk import Service


@dataclass
class Word:
    text: str
    raw: bytes


class Tokenizer(Service, name="tokenizer"):
    def split(self, text: str, most: int = 3) -> Iterator[Word]: ...

    def join(self, words: Iterator[Word], by: str = " ") -> str: ...

    def louder(self, words: AsyncIterator[Word]) -> AsyncIterator[Word]: ...

    def wrong(self) -> Iterator[int]: ...
"""
STREAMING = """
    from contract import Tokenizer, Word
    from collections.abc import Iterator

    @plugin.service(Tokenizer)
    class Words:
        def split(self, text: str, most: int):
            for word in text.split()[:most]:
                yield Word(word, word.encode())

        def join(self, words: Iterator[Word], by: str, ctx):
            return by.join(word.text if type(word.raw) is bytes else "not bytes" for word in words)

        def louder(self, words: Iterator[Word]):
            for word in words:
                yield Word(word.text.upper(), word.raw)

        def wrong(self):
            yield 1
            yield "two"
"""
READS = """
    from annexe_sdk import CallFailed
    from contract import Tokenizer, Word

    @plugin.filter("t.edit")
    |async |def edit(doc, ctx):
        service = ctx.service(Tokenizer)
        words = [Word("a", b"a"), Word("b", b"b")]
        marks = doc["marks"]
        marks.append(repr([word |async |for word in service.split("a b c d")]))
        marks.append(repr([word.text |async |for word in service.split("a b c d", most=1)]))
        marks.append(|await |service.join(words))
        marks.append(|await |service.join(iter(words), by="-"))
        marks.append(repr([word |async |for word in service.louder(words=words)]))
        try:
            |async |for number in service.wrong():
                marks.append(repr(number))
        except CallFailed as error:
            marks.append(f"{error}")
        return doc
"""


@pytest.mark.parametrize("codecs", CODECS)
@pytest.mark.parametrize("is_async", WAYS)
def test_a_contract_says_what_streams_and_each_item_is_of_its_type(tmp_path: Path, is_async: bool, codecs: tuple[str, ...]) -> None:
    write_both(tmp_path, STREAMING, READS, is_async=is_async)
    for folder in ("words", "caller"):
        (tmp_path / "plugins" / folder / "contract.py").write_text(STREAMED)
    assert marks(tmp_path, codecs) == [
        "[Word(text='a', raw=b'a'), Word(text='b', raw=b'b'), Word(text='c', raw=b'c')]",
        "['a']",
        "a b",
        "a-b",
        "[Word(text='A', raw=b'a'), Word(text='B', raw=b'b')]",
        "1",
        "invalid-result: tokenizer.wrong: at $: expected int, got str",
    ]
