"""Services in tests of plugins: others', played by the test, and the plugin's own."""

# mypy: disable-error-code="empty-body"
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from annexe.errors import ActivationError, InvalidParamsError, MethodNotFoundError, PluginUnavailableError
from annexe.testing import PluginRunner
from annexe_sdk import AsyncContext, CallFailed, Context, PermissionDenied, Plugin, Reject, Service
from annexe_sdk.codec import CodecError


@dataclass
class Token:
    text: str
    tags: list[str] = field(default_factory=list)


class Tokenizer(Service, name="tokenizer"):
    def count(self, text: str, model: str = "m-1") -> int: ...
    def tokens(self, text: str) -> list[Token]: ...


class FakeTokenizer:
    """Plays the service; some of it as ``async def``."""

    size = 3

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def count(self, text: str, model: str = "m-1") -> int:
        self.seen.append((text, model))
        return len(text.split())

    async def tokens(self, text: str) -> list[Token]:
        return [Token(word) for word in text.split()]

    def who(self, ctx: Context) -> Any:
        return [ctx.caller, ctx.request_id, ctx.key, ctx.deadline_s is not None]

    async def whose(self, ctx: AsyncContext) -> Any:
        await ctx.kv.set("used", 1)
        return ctx.caller

    def echo(self, value: Any) -> Any:
        self.seen.append(value)
        return value

    def first(self, token: Token) -> str:
        return token.text

    def refuses(self) -> None:
        raise Reject("no-words", "there are none", status=404, retry_after_s=7)

    def raises(self) -> None:
        raise ValueError("not today")

    def gone(self) -> None:
        raise PluginUnavailableError("plugin 'words' is stopped", plugin="words", method="svc.tokenizer.gone")

    def odd(self) -> Any:
        return object()


def call_by_name(plugin: Plugin, *, is_async: bool) -> None:
    def use(what: str, *args: Any, ctx: Context) -> Any:
        return getattr(ctx.service("tokenizer"), what)(*args)

    async def use_async(what: str, args: list[Any], ctx: AsyncContext) -> Any:
        return await use(what, *args, ctx=ctx)

    plugin.first_result("t.use")(use_async if is_async else lambda what, args, ctx: use(what, *args, ctx=ctx))


@pytest.fixture(params=[False, True], ids=["def", "async def"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Have a plugin call a method of the service by its name; return what it got."""
    plugin = Plugin()
    call_by_name(plugin, is_async=request.param)

    def ask(what: str, *args: Any, target: object = None, **services: object) -> Any:
        with PluginRunner(plugin, services=services or {"tokenizer": target or FakeTokenizer()}) as runner:
            return runner.request(id="r-1", key="ann").call("t.use", what, list(args))

    return ask


def failure(ask: Callable[..., Any], what: str, *args: Any, **more: Any) -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        ask(what, *args, **more)
    return caught.value


def test_played_service_answers_by_its_methods(ask: Callable[..., Any]) -> None:
    assert ask("count", "one two") == 2
    assert ask("tokens", "one two") == [{"text": "one", "tags": []}, {"text": "two", "tags": []}]
    assert ask("who") == ["plugin", "r-1", "ann", True]
    assert ask("whose") == "plugin"


def test_what_a_played_service_gets_and_gives_makes_the_trip_over_the_wire(ask: Callable[..., Any]) -> None:
    fake, given = FakeTokenizer(), {"a": (1, 2)}
    assert ask("echo", given, target=fake) == {"a": [1, 2]}
    assert fake.seen == [{"a": [1, 2]}]
    assert ask("first", Token("one")) == "one"  # built anew, by the annotation


def test_lambda_and_callable_object_of_a_played_service_are_called_too(ask: Callable[..., Any]) -> None:
    class Count:
        def __call__(self, text: str) -> int:
            return len(text)

    fake = FakeTokenizer()
    fake.count = Count()  # type: ignore[method-assign, assignment]
    assert ask("count", "abc", target=fake) == 3
    assert failure(ask, "count", target=fake).code == "invalid-params"


def test_refusal_of_a_played_service_is_told_with_its_facts(ask: Callable[..., Any]) -> None:
    refused = failure(ask, "refuses")
    assert (refused.code, refused.message) == ("rejected", "there are none")
    assert refused.data == {"hook": "svc.tokenizer.refuses", "reject_code": "no-words", "status": 404, "retry_after_s": 7}


def test_error_of_a_played_service_is_told_with_its_place(ask: Callable[..., Any]) -> None:
    raised = failure(ask, "raises")
    assert raised.code == "plugin-raised"
    assert raised.message.startswith("plugin 'test', svc.tokenizer.raises: ValueError: not today (at test_services.py:")
    assert isinstance(raised.__cause__, ValueError)


@pytest.mark.parametrize(
    ("what", "args", "code", "text"),
    [
        pytest.param("gone", (), "unavailable", "plugin 'words' is stopped", id="an error of the host's"),
        pytest.param("nothing", (), "method-not-found", "plugin 'test' has no 'svc.tokenizer.nothing'; methods of", id="unknown method"),
        pytest.param("size", (), "method-not-found", "there: count, echo, first, gone, odd, raises, refuses, tokens, who", id="no method"),
        pytest.param("count", (), "invalid-params", "missing a required argument: 'text'", id="too few"),
        pytest.param("count", ("a", "b", "c"), "invalid-params", "too many positional arguments", id="too many"),
        pytest.param("who", ("a",), "invalid-params", "", id="in the place of ctx"),
        pytest.param("odd", (), "invalid-result", "plugin 'test', svc.tokenizer.odd: ", id="what cannot be sent"),
    ],
)
def test_what_goes_wrong_at_a_played_service_is_told_as_a_host_does(
    ask: Callable[..., Any], what: str, args: tuple[Any, ...], code: str, text: str
) -> None:
    failed = failure(ask, what, *args)
    assert failed.code == code
    assert text in failed.message


def test_service_that_nobody_plays_is_unavailable(ask: Callable[..., Any]) -> None:
    failed = failure(ask, "count", "a", other=FakeTokenizer())
    assert failed.code == "unavailable"
    assert failed.message == "no plugin offers service 'tokenizer' to plugin 'plugin'; to play it, pass services={'tokenizer': …}"


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
def test_arguments_that_cannot_be_sent_fail_where_they_are(is_async: bool) -> None:
    plugin = Plugin()

    def use(ctx: Context) -> Any:
        return ctx.service("tokenizer").echo(object())

    async def use_async(ctx: AsyncContext) -> Any:
        return await use(ctx)

    plugin.action("t.use")(use_async if is_async else use)
    with PluginRunner(plugin, services={"tokenizer": FakeTokenizer()}) as runner, pytest.raises(CodecError):
        runner.call("t.use")


def test_class_in_the_place_of_an_object_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="expected an object whose methods answer, got the class FakeTokenizer; make one"):
        PluginRunner(Plugin(), services={"tokenizer": FakeTokenizer})


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
def test_typed_calls_of_a_played_service_have_the_contracts_types(is_async: bool) -> None:
    plugin, fake = Plugin(), FakeTokenizer()

    def use(what: str, ctx: Context) -> Any:
        tokenizer = ctx.service(Tokenizer)
        return tokenizer.tokens("a b") if what == "tokens" else tokenizer.count(model="m-2", text="a b c")

    async def use_async(what: str, ctx: AsyncContext) -> Any:
        answer: Any = use(what, ctx)
        return await answer

    results: list[Any] = []
    plugin.action("t.use")(_appending(use_async, results) if is_async else lambda what, ctx: results.append(use(what, ctx)))
    with PluginRunner(plugin, services={"tokenizer": fake}) as runner:
        runner.call("t.use", "tokens")
        runner.call("t.use", "count")
        assert results == [[Token("a"), Token("b")], 3]
        assert fake.seen == [("a b c", "m-2")]
        fake.count = lambda *_: "three"  # type: ignore[method-assign, assignment]
        with pytest.raises(CallFailed, match=r"tokenizer\.count: at \$: expected int, got str"):
            runner.call("t.use", "count")


def _appending(function: Callable[..., Any], results: list[Any]) -> Callable[..., Any]:
    async def append(what: str, ctx: AsyncContext) -> None:
        results.append(await function(what, ctx))

    return append


MANIFEST = """
manifest-version = 1
[plugin]
id = "sample"
version = "0.1.0"
[runtime]
kind = "python"
entry = "sample_services"
[provides.hooks]
"t.use" = { revision = 1 }
[requires.services]
"tokenizer" = { version = ">=1,<2" }
"""
CODE = """
from annexe_sdk import Plugin
plugin = Plugin()

@plugin.first_result("t.use")
def use(text, ctx):
    return ctx.service("tokenizer").count(text)
"""
OWN = """
@plugin.service("shout")
class Shout:
    def up(self, text):
        return text.upper()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plugin.toml").write_text(MANIFEST + '[permissions]\nservices = ["tokenizer"]\n')
    (tmp_path / "sample_services.py").write_text(CODE)
    return tmp_path


def test_folder_without_the_right_is_refused_with_the_line(folder: Path) -> None:
    with PluginRunner(folder, services={"tokenizer": FakeTokenizer()}) as runner:
        assert runner.call("t.use", "a b") == 2
    with PluginRunner(folder) as runner, pytest.raises(CallFailed, match=r"service 'tokenizer' >=1,<2 to plugin 'sample'"):
        runner.call("t.use", "a b")
    (folder / "plugin.toml").write_text(MANIFEST)
    with PluginRunner(folder, services={"tokenizer": FakeTokenizer()}) as runner, pytest.raises(PermissionDenied) as refused:
        runner.call("t.use", "a b")
    assert refused.value.data == {"permission": "services:tokenizer", "manifest_line": 'services = ["tokenizer"]'}


def test_folder_that_offers_what_it_does_not_declare_is_refused(folder: Path) -> None:
    (folder / "sample_services.py").write_text(CODE + OWN)
    with pytest.raises(ActivationError, match=r"answers service 'shout', which plugin.toml does not declare"), PluginRunner(folder):
        pass
    (folder / "plugin.toml").write_text(MANIFEST + '[provides.services]\n"shout" = { version = "1.0.0" }\n')
    with PluginRunner(folder) as runner:
        assert runner.service("shout").up("a") == "A"
    (folder / "sample_silent.py").write_text(CODE)
    (folder / "plugin.toml").write_text((folder / "plugin.toml").read_text().replace("sample_services", "sample_silent"))
    with pytest.raises(ActivationError, match=r"declares service 'shout', but the code does not"), PluginRunner(folder):
        pass


@pytest.fixture(params=[False, True], ids=["def", "async def"])
def provider(request: pytest.FixtureRequest) -> Plugin:
    plugin = Plugin()

    if request.param:

        @plugin.service(Tokenizer)
        class Awaited:
            async def count(self, text: str, model: str, ctx: AsyncContext) -> Any:
                await ctx.kv.increment(model)
                return [ctx.caller, ctx.key] if text == "who" else len(text.split())

            async def tokens(self, text: str) -> list[Token]:
                return [Token(text)]

    else:

        @plugin.service(Tokenizer)
        class Words:
            def count(self, text: str, model: str, ctx: Context) -> Any:
                ctx.kv.increment(model)
                if text == "refuse":
                    raise Reject("no", "not today")
                return [ctx.caller, ctx.key] if text == "who" else len(text.split())

            def tokens(self, text: str) -> list[Token]:
                return [Token(text)]

    return plugin


def test_own_service_is_called_by_its_name_and_by_its_contract(provider: Plugin) -> None:
    with PluginRunner(provider) as runner:
        words = runner.service("tokenizer")
        assert (words.count("a b"), words.count("a", "m-2")) == (2, 1)
        assert words.tokens("a") == [{"text": "a", "tags": []}]
        assert runner.service(Tokenizer).count(text="a b c", model="m-2") == 3
        assert runner.service(Tokenizer).tokens("a") == [Token("a")]
        assert runner.kv == {"m-1": 1, "m-2": 2}
        request = runner.request(key="ann", caller="limiter")
        assert request.service("tokenizer").count("who") == ["limiter", "ann"]
        with pytest.raises(CallFailed, match="expected int, got list"):
            request.service(Tokenizer).count("who")


def test_own_service_called_wrongly_says_so(provider: Plugin) -> None:
    with PluginRunner(provider) as runner:
        words = runner.service("tokenizer")
        with pytest.raises(InvalidParamsError, match="count takes 1 to 2 arguments, got 0"):
            words.count()
        with pytest.raises(TypeError, match="by position"):
            words.count(text="a")
        with pytest.raises(TypeError, match=r"Tokenizer\.count lacks text"):
            runner.service(Tokenizer).count(words="a")  # type: ignore[call-arg]
        with pytest.raises(MethodNotFoundError, match=r"does not answer svc.tokenizer.sing; it answers: svc.tokenizer.count, svc"):
            words.sing()
        with pytest.raises(MethodNotFoundError, match=r"does not answer service 'other'; it answers: svc.tokenizer.count"):
            runner.service("other")
        with pytest.raises(TypeError, match="expected the name of a service or its contract"):
            runner.service(Token)  # type: ignore[type-var]


def test_refusal_of_an_own_service_reaches_the_test_as_it_is() -> None:
    plugin = Plugin()

    @plugin.service("door")
    class Door:
        def open(self) -> None:
            raise Reject("no", "not today", status=418)

    with PluginRunner(plugin) as runner, pytest.raises(Reject) as refused:
        runner.service("door").open()
    assert refused.value.status == 418


def test_own_service_of_one_plugin_plays_for_another(provider: Plugin) -> None:
    caller = Plugin()
    call_by_name(caller, is_async=False)
    with PluginRunner(provider) as words, PluginRunner(caller, services={"tokenizer": words.service("tokenizer")}) as runner:
        assert runner.call("t.use", "count", ["a b"]) == 2
        for what, code in {"sing": "method-not-found", "count": "invalid-params"}.items():
            with pytest.raises(CallFailed) as failed:
                runner.call("t.use", what, [])
            assert failed.value.code == code


class FakeModel:
    """Plays a service that streams; some of it as ``async def``."""

    def words(self, text: str, ctx: Context) -> Any:
        for word in text.split():
            yield [word, ctx.caller]

    async def upper(self, chunks: Any) -> Any:
        async for chunk in chunks:
            yield chunk.upper()

    def total(self, numbers: Any, start: int = 0) -> int:
        return start + int(sum(numbers))

    def breaks(self) -> Any:
        yield 1
        raise Reject("no-more", "that was all")

    def plain(self) -> int:
        return 1


def test_services_that_the_test_plays_stream() -> None:
    plugin = Plugin()

    @plugin.extension("work")
    class Work:
        def both(self, ctx: Context) -> Any:
            model = ctx.service("model")
            return [list(model.words.stream("a b")), list(model.upper.stream(items=["x", "y"])), model.total.send([1, 2], 10)]

        async def awaited(self, ctx: AsyncContext) -> Any:
            model = ctx.service("model")
            said = [item async for item in model.words.stream("a b")], [item async for item in model.upper.stream(items=["x", "y"])]
            return [*said, await model.total.send([1, 2], 10)]

        def breaks(self, ctx: Context) -> Any:
            for _ in ctx.service("model").breaks.stream():
                pass

        def plain(self, ctx: Context) -> Any:
            return list(ctx.service("model").plain.stream())

    with PluginRunner(plugin, services={"model": FakeModel()}) as runner:
        work = runner.extension("work")
        expected = [[["a", "plugin"], ["b", "plugin"]], ["X", "Y"], 13]
        assert work.both() == work.awaited() == expected
        with pytest.raises(CallFailed, match="that was all"):
            work.breaks()
        with pytest.raises(CallFailed, match="it yields nothing"):
            work.plain()


def test_own_service_that_streams_is_tried_as_others_have_it() -> None:
    plugin = Plugin()

    @plugin.service("model")
    class Model:
        def words(self, text: str) -> Any:
            yield from text.split()

        async def upper(self, chunks: Any) -> Any:
            async for chunk in chunks:
                yield chunk.upper()

        def total(self, numbers: Any) -> int:
            return int(sum(numbers))

    with PluginRunner(plugin) as runner:
        model = runner.service("model")
        assert list(model.words.stream("a b")) == ["a", "b"]
        assert list(model.upper.stream(items=["x"])) == ["X"]
        assert model.total.send([1, 2]) == 3
        with pytest.raises(InvalidParamsError, match="yields nothing"):
            model.total.stream(items=[1])
        with pytest.raises(InvalidParamsError, match=r"ask for it as a stream: runner\.service\('model'\)\.words\.stream\(…\)"):
            model.words("a b")


class Echo(Service, name="echo"):
    def words(self, text: str) -> Iterator[Token]: ...
    def upper(self, chunks: Iterator[str]) -> Iterator[str]: ...
    def total(self, numbers: Iterator[int], start: int = 0) -> int: ...


@pytest.fixture
def streaming() -> Plugin:
    plugin = Plugin()

    @plugin.service(Echo)
    class Streams:
        def words(self, text: str) -> Any:
            for word in text.split():
                yield Token(word)

        def upper(self, chunks: Any) -> Any:
            for chunk in chunks:
                yield chunk.upper()

        def total(self, numbers: Any, start: int) -> int:
            return start + int(sum(numbers))

    return plugin


def test_own_service_that_streams_has_the_contracts_types(streaming: Plugin) -> None:
    with PluginRunner(streaming) as runner:
        echo = runner.service(Echo)
        assert list(echo.words("a b")) == [Token("a"), Token("b")]
        assert list(echo.upper(iter(["x"]))) == ["X"]
        assert echo.total(iter([1, 2]), start=4) == 7


@pytest.mark.parametrize("of", [pytest.param("echo", id="by-name"), pytest.param(Echo, id="by-contract")])
def test_own_service_of_one_plugin_streams_to_another(streaming: Plugin, of: Any) -> None:
    caller = Plugin()

    @caller.extension("work")
    class Work:
        def plain(self, ctx: Context) -> Any:
            echo = ctx.service("echo")
            return [list(echo.words.stream("a b")), list(echo.upper.stream(items=["x"])), echo.total.send([1, 2], 4)]

        async def awaited(self, ctx: AsyncContext) -> Any:
            echo = ctx.service("echo")
            said = [item async for item in echo.words.stream("a b")], [item async for item in echo.upper.stream(items=["x"])]
            return [*said, await echo.total.send([1, 2], 4)]

    with PluginRunner(streaming) as other, PluginRunner(caller, services={"echo": other.service(of)}) as runner:
        work = runner.extension("work")
        assert work.plain() == work.awaited() == [[{"text": "a", "tags": []}, {"text": "b", "tags": []}], ["X"], 7]
