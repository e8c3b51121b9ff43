# mypy: disable-error-code="empty-body"
from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from typing import Any, assert_type

import pytest

from annexe_sdk import AsyncContext, CallFailed, Context, Plugin, Service
from annexe_sdk.context import ServiceClient
from annexe_sdk.contract import contract_of
from annexe_sdk.typed import _checking
from tests.unit.sdk.host_end import HostEnd, served


@dataclass
class Token:
    text: str
    raw: bytes = b""


class Tokenizer(Service, name="tokenizer"):
    class Nested(dict[str, int]):
        """Found by its name alone, though it cannot be checked."""

    def tokens(self, text: str, limit: int = 10, upper: bool = False) -> list[Token]: ...

    def anything(self, value: Any = None) -> Any: ...

    def nowhere(self) -> Nowhere: ...  # type: ignore[name-defined]  # noqa: F821

    def of_unknown(self, value: Nowhere, /) -> int: ...  # type: ignore[name-defined]  # noqa: F821

    def of_unknown_items(self, values: Iterator[Nowhere]) -> int: ...  # type: ignore[name-defined]  # noqa: F821

    def nested(self) -> Nested: ...


class Later(Service, name="tokenizer"):
    async def tokens(self, text: str, limit: int = 10) -> list[Token]: ...


def what_type_checkers_see(ctx: Context) -> None:
    """Never run: mypy reads it."""
    assert_type(ctx.service(Tokenizer), Tokenizer)
    assert_type(ctx.service(Tokenizer, key="a").tokens("a", limit=1), list[Token])
    assert_type(ctx.service("tokenizer"), ServiceClient)
    ctx.service(Tokenizer).tokens(5)  # type: ignore[arg-type]
    ctx.service(5)  # type: ignore[call-overload]


async def what_type_checkers_see_of_the_awaited(ctx: AsyncContext) -> None:
    """Never run: mypy reads it."""
    assert_type(await ctx.service(Later).tokens("a"), list[Token])


def plugin_of(work: Any, *, is_async: bool) -> Plugin:
    """Return a plugin that does work with its ctx, in a handler of either kind, and answers what came of it."""
    plugin = Plugin()

    def told(error: Exception) -> Any:
        return [type(error).__name__, str(error), getattr(error, "data", None)]

    def do(value: str, ctx: Context) -> Any:
        try:
            return work(ctx)
        except Exception as error:
            return told(error)

    async def do_async(value: str, ctx: AsyncContext) -> Any:
        try:
            answer = work(ctx)
            return await answer if isinstance(answer, Awaitable) else answer
        except Exception as error:
            return told(error)

    plugin.first_result("t.do")(do_async if is_async else do)
    return plugin


def done(host: HostEnd, *answers: Any) -> tuple[list[list[Any]], Any]:
    """Have the work done, answering what is asked; return what was asked, and the result."""
    ident = host.call("hook.t.do", ["a"])
    asked = []
    for answer in answers:
        message = host.read()
        asked.append(message[2:])
        host.answer(message, answer)
    response = host.answered(ident)
    assert response[2] is None, response
    return asked, response[3]


WAYS = [pytest.param(True, id="async"), pytest.param(False, id="def")]
CONTRACTS = [pytest.param(Tokenizer, id="of def"), pytest.param(Later, id="of async def")]


@pytest.mark.parametrize("is_async", WAYS)
@pytest.mark.parametrize("contract", CONTRACTS)
def test_a_call_sends_a_list_and_returns_what_the_contract_says(contract: Any, is_async: bool) -> None:
    seen = []

    async def later(answer: Any) -> Any:
        seen.append(await answer)

    def work(ctx: Context) -> Any:
        answer = ctx.service(contract, key="k").tokens("a b", limit=3)
        return later(answer) if is_async else seen.append(answer)

    with served(plugin_of(work, is_async=is_async)) as host:
        asked, _ = done(host, [{"text": "a", "raw": "/w==", "new": 1}])
    assert [(method, params, meta["key"]) for method, params, meta in asked] == [("svc.tokenizer.tokens", ["a b", 3], "k")]
    assert seen == [[Token("a", b"\xff")]]


@pytest.mark.parametrize("is_async", WAYS)
def test_a_wrong_answer_fails_the_call_with_its_place(is_async: bool) -> None:
    with served(plugin_of(lambda ctx: ctx.service(Tokenizer).tokens("a"), is_async=is_async)) as host:
        for _ in range(2):  # made, and kept
            asked, result = done(host, [{"text": "a"}] * 3 + [{"text": 5}])
            assert asked[0][1] == ["a"], "no default travels"
            assert result == [
                "CallFailed",
                "invalid-result: tokenizer.tokens: at $[3].text: expected str, got int",
                {"path": "$[3].text", "expected": "str", "actual": "int"},
            ]


@pytest.mark.parametrize("is_async", WAYS)
@pytest.mark.parametrize(
    ("work", "message"),
    [
        pytest.param(lambda ctx: ctx.service(Tokenizer).tokens(), "TypeError: Tokenizer.tokens lacks text", id="too few"),
        pytest.param(
            lambda ctx: ctx.service(Tokenizer).tokens("a", 1, True, 2), "TypeError: Tokenizer.tokens takes 3 arguments", id="many"
        ),
        pytest.param(
            lambda ctx: ctx.service(Tokenizer).tokens("a", size=1), "TypeError: Tokenizer.tokens has no parameter size", id="name"
        ),
        pytest.param(
            lambda ctx: ctx.service(Tokenizer).other(), "AttributeError: the contract Tokenizer has no 'other'; it has: ", id="method"
        ),
        pytest.param(lambda ctx: ctx.service(Tokenizer)._own(), "AttributeError: _own", id="private"),
        pytest.param(lambda ctx: ctx.service(dict), "TypeError: expected the name of a service or its contract", id="no contract"),
        pytest.param(lambda ctx: ctx.service("tokenizer")._own(), "AttributeError: _own", id="private of one by name"),
        pytest.param(
            lambda ctx: ctx.service("tokenizer").count(text="a"),
            "TypeError: svc.tokenizer.count: pass arguments by position, or give ctx.service the contract",
            id="named to one by name",
        ),
        pytest.param(
            lambda ctx: ctx.service(Tokenizer).nested(),
            "Tokenizer.nested: an answer cannot be held against Nested; what travels is",
            id="class",
        ),
        pytest.param(
            lambda ctx: ctx.service(Tokenizer).of_unknown_items([]),
            "the type of values of Tokenizer.of_unknown_items cannot be read (NameError: name 'Nowhere' is not defined)",
            id="unknown items",
        ),
        pytest.param(
            lambda ctx: ctx.service(Tokenizer).nowhere(),
            "what Tokenizer.nowhere returns cannot be read (NameError: name 'Nowhere' is not defined); import what it names",
            id="unknown",
        ),
    ],
)
def test_what_is_wrong_with_a_call_is_told_before_anything_is_sent(work: Any, message: str, is_async: bool) -> None:
    with served(plugin_of(work, is_async=is_async)) as host:
        asked, (kind, text, _) = done(host)
    assert asked == []
    assert message in f"{kind}: {text}"


def test_an_error_of_the_hosts_is_the_callers_as_it_came() -> None:
    with served(plugin_of(lambda ctx: ctx.service(Tokenizer).anything(), is_async=False)) as host:
        ident = host.call("hook.t.do", ["a"])
        message = host.asked("svc.tokenizer.anything")
        host.send(1, message[1], {"code": "unavailable", "message": "nobody offers it", "data": {"service": "tokenizer"}}, None, {})
        assert host.answered(ident)[3] == ["CallFailed", "unavailable: nobody offers it", {"service": "tokenizer"}]


def test_a_client_lists_the_contracts_methods() -> None:
    context = Context(None, None)  # type: ignore[arg-type]
    assert {"tokens", "anything"} <= set(dir(context.service(Tokenizer)))


def test_a_check_is_made_once_and_kept() -> None:
    class Counter(Service, name="counter"):
        def count(self) -> int: ...

    class Fake(Context):
        def _ask(self, method: str, params: Any, key: str | None = None) -> Any:
            return 5

    client, method = Fake(None, None).service(Counter), contract_of(Counter).methods["count"]  # type: ignore[arg-type]
    assert method.check is None
    assert client.count() == 5
    check = method.check
    assert check is not None
    assert client.count() == 5
    assert method.check is check
    with pytest.raises(CallFailed, match=r"invalid-result: counter.count: at \$: expected int, got str"):
        check("a")


def test_annotations_may_be_text_or_not() -> None:
    written = """
class Counter(Service, name="counter"):
    class Inner(Token):
        pass
    def text(self) -> "list[Inner]": ...
    def nested(self) -> list["Token"]: ...
    def plain(self) -> list[Token]: ...
"""
    names: dict[str, Any] = {"Service": Service, "Token": Token, "__name__": __name__}
    exec(compile(written, __file__, "exec", dont_inherit=True), names)

    class Fake(Context):
        def _ask(self, method: str, params: Any, key: str | None = None) -> Any:
            return [{"text": "a"}]

    client: Any = Fake(None, None).service(names["Counter"])  # type: ignore[arg-type]
    assert client.text() == [names["Counter"].Inner("a")]
    assert client.nested() == client.plain() == [Token("a")]


def test_nothing_is_imported_for_contracts_before_a_call_uses_one() -> None:
    code = """
import json, sys
from annexe_sdk import Context, Plugin, Service
from annexe_sdk import runner
class Tokenizer(Service, name="tokenizer"):
    def count(self, text: str) -> int: ...
class Fake(Context):
    def _ask(self, method, params, key=None): return 5
ctx = Fake(None, None)
plain = ctx.service("tokenizer").count("a")
before = sorted({"annexe_sdk.checks", "annexe_sdk.convert", "annexe_sdk.typed", "dataclasses", "inspect", "typing"} & set(sys.modules))
print(json.dumps([plain, before, ctx.service(Tokenizer).count("a")]))
"""
    ran = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout) == [5, [], 5]


def test_parameter_whose_type_is_unknown_here_is_no_stream_and_keeps_nobody_from_calling() -> None:
    method = contract_of(Tokenizer).methods["of_unknown"]
    assert _checking(contract_of(Tokenizer), method)(5) == 5
    assert method.direction is None
