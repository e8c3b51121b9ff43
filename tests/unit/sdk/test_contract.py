# mypy: disable-error-code="empty-body"
from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import wraps
from itertools import product
from typing import Any

import pytest

from annexe_sdk import Plugin, Service
from annexe_sdk.contract import Contract, contract_of
from tests.unit.sdk.host_end import served


class Tokenizer(Service, name="tokenizer"):
    """A contract with a constant, a type of its own and what is private to it."""

    RATE = 16_000

    class Token:
        text: str

    def count(self, text: str, limit: int = 10, upper: bool = False) -> int: ...

    def tokens(self, text: str, /, kind: str = "word") -> list[Token]: ...

    async def close(self) -> None: ...

    def _private(self) -> None: ...


class Wider(Tokenizer, name="wider"):
    def more(self, names: list[str]) -> dict[str, int]: ...


def made(body: str, head: str = "class Bad(Service, name='bad'):") -> Any:
    """Run a definition as if its first line were the tenth of a file."""
    names = {"Service": Service, "Tokenizer": Tokenizer, "__name__": "bad"}
    exec(compile("\n" * 9 + f"{head}\n {body}", "/somewhere/bad.py", "exec", dont_inherit=True), names)
    return names


def test_a_contract_knows_its_methods_and_nothing_else() -> None:
    contract = contract_of(Tokenizer)
    assert (contract.name, contract.title, list(contract.methods)) == ("tokenizer", "Tokenizer", ["count", "tokens", "close"])
    count = contract.methods["count"]
    assert (count.names, count.required, count.defaults) == (("text", "limit", "upper"), 1, (10, False))
    assert [method.signature() for method in contract.methods.values()] == [
        "def count(self, text: str, limit: int = 10, upper: bool = False) -> int",
        "def tokens(self, text: str, /, kind: str = 'word') -> list[Token]",
        "async def close(self) -> None",
    ]


def test_a_contract_may_be_made_of_another() -> None:
    contract = contract_of(Wider)
    assert (contract.name, list(contract.methods)) == ("wider", ["count", "tokens", "close", "more"])


@pytest.mark.parametrize(
    ("body", "head", "message"),
    [
        pytest.param(
            "def f(self) -> int: ...",
            "class Bad(Service):",
            'bad.py:10: Bad has no name; write: class Bad(Service, name="the-service")',
            id="no name",
        ),
        pytest.param("def f(self) -> int: ...", "class Bad(Service, name=''):", "bad.py:10: Bad has the name ''; write: class", id="empty"),
        pytest.param("def f(self) -> int: ...", "class Bad(Service, name=5):", "bad.py:10: Bad has the name 5; write: class", id="no text"),
        pytest.param("x = 1", "", "bad.py:10: Bad has no methods; write: def count(self, text: str) -> int: ...", id="no methods"),
        pytest.param(
            "def f(self, a, b: int = 1): ...", "", "of a, what it returns; write: def f(self, a: ..., b: int = 1) -> ...", id="types"
        ),
        pytest.param(
            "def f(self): ...", "", "bad.py:11: Bad.f does not say the type of what it returns; write: def f(self) -> ...", id="type"
        ),
        pytest.param("def f() -> int: ...", "", "bad.py:11: Bad.f has no self; write: def f(self, ...)", id="no self"),
        pytest.param("def f(self=1) -> int: ...", "", "Bad.f has no self", id="self with a default"),
        pytest.param("def f(self, *args: int) -> int: ...", "", "bad.py:11: Bad.f takes any number of arguments; write: each", id="*args"),
        pytest.param("def f(self, **named: int) -> int: ...", "", "Bad.f takes any number of arguments", id="**named"),
        pytest.param("def f(self, *, a: int) -> int: ...", "", "Bad.f has parameters after *, but arguments travel as a list", id="*"),
        pytest.param("def f(self, ctx: int) -> int: ...", "", "Bad.f has a parameter ctx, which no caller passes", id="ctx"),
        pytest.param("def f(self) -> int: yield 1", "", "Bad.f yields, but a contract only says what there is", id="generator"),
        pytest.param("@staticmethod\n def f() -> int: ...", "", "Bad.f is no method that can be called", id="static"),
        pytest.param("@classmethod\n def f(cls) -> int: ...", "", "Bad.f is no method that can be called", id="of the class"),
        pytest.param("@property\n def f(self) -> int: ...", "", "Bad.f is no method that can be called; write: def f(self", id="property"),
        pytest.param("f = print", "", "Bad.f is no method that can be called", id="no function"),
    ],
)
def test_a_definition_that_cannot_be_called_says_where_it_is_and_what_to_write(body: str, head: str, message: str) -> None:
    with pytest.raises(TypeError) as caught:
        made(body, head or "class Bad(Service, name='bad'):")
    assert message in str(caught.value)


def test_annotations_that_are_no_text_are_told_as_they_were_written() -> None:
    written = "def f(self, a: int, b: list[int], c: int | None = None, d: 'Later' = 1) -> None"
    contract = made(f"{written}: ...")["Bad"]
    assert contract_of(contract).methods["f"].signature() == written.replace("'", "")


@pytest.mark.parametrize("given", [5, int, Service, object(), None])
def test_what_is_no_contract_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match=r"expected the name of a service or its contract, a class made as: class Tokenizer\(Service"):
        contract_of(given)
    with pytest.raises(TypeError, match="expected the name of a service or its contract"):
        Plugin().service(given)


def test_a_class_that_implements_a_contract_is_none() -> None:
    class Words(Tokenizer): ...

    with pytest.raises(TypeError, match="Words has no name of its own: it implements Tokenizer; give that"):
        contract_of(Words)


def test_annotations_that_cannot_be_read_yet_are_looked_at_when_they_are_needed() -> None:
    class Deferred:
        """As from Python 3.14 on, where a name is defined further down."""

        def __init__(self, function: Any) -> None:
            self.__code__, self.__defaults__ = function.__code__, None

        def __call__(self) -> None: ...

        @property
        def __annotations__(self) -> dict[str, Any]:  # type: ignore[override]
            raise NameError("name 'Later' is not defined")

    cls = type("Late", (), {"f": Deferred(lambda self, a: a)})
    assert Contract(cls, "late").methods["f"].signature() == "def f(self, a: ...) -> ..."


def test_making_a_contract_imports_nothing_more() -> None:
    code = """
import sys
import annexe_sdk, annexe_sdk.runner
assert "annexe_sdk.contract" not in sys.modules
plugin = annexe_sdk.Plugin()
@plugin.service("plain")
class Plain:
    def count(self, text): return 1
assert "annexe_sdk.contract" not in sys.modules
before = set(sys.modules)
from annexe_sdk import Service
class Tokenizer(Service, name="tokenizer"):
    def count(self, text: str, limit: int = 10) -> int: ...
@plugin.service(Tokenizer)
class Words:
    def count(self, text, limit): return 1
print(sorted(set(sys.modules) - before))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "['annexe_sdk.contract']"


# Arguments.


def test_arguments_are_bound_as_python_binds_them() -> None:
    def count(text: Any, limit: Any = 10, upper: Any = False) -> list[Any]:
        return [text, limit, upper]

    def tokens(text: Any, /, kind: Any = "word") -> list[Any]:
        return [text, kind]

    tried = fitted = 0
    for name, function in (("count", count), ("tokens", tokens)):
        method = contract_of(Tokenizer).methods[name]
        for number in range(5):
            for given in product((False, True), repeat=5):
                keys = [key for key, there in zip(("text", "limit", "upper", "kind", "other"), given, strict=True) if there]
                args, named = tuple(range(number)), {key: f"by {key}" for key in keys}
                tried += 1
                try:
                    expected = function(*args, **named)
                except TypeError:
                    with pytest.raises(TypeError, match=rf"^Tokenizer\.{name} .*; it is: def {name}\(self, text: str,"):
                        method.bind(args, named)
                else:
                    bound = method.bind(args, named)
                    assert [*bound, *method.defaults[len(bound) - method.required :]] == expected
                    assert len(bound) == max([number, *(method.names.index(key) + 1 for key in keys)]), "no default at the end travels"
                    fitted += 1
    assert (tried, fitted) == (320, 14)


@pytest.mark.parametrize(
    ("args", "named", "message"),
    [
        pytest.param((), {}, "lacks text", id="too few"),
        pytest.param((), {"limit": 1}, "lacks text", id="a gap"),
        pytest.param((1, 2, 3, 4), {}, "takes 3 arguments, got 4", id="too many"),
        pytest.param((1,), {"text": 1}, "got text twice, by position and by name", id="twice"),
        pytest.param((1,), {"size": 1}, "has no parameter size to be given by name", id="unknown"),
    ],
)
def test_wrong_arguments_are_named(args: tuple[Any, ...], named: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError) as caught:
        contract_of(Tokenizer).methods["count"].bind(args, named)
    says = "def count(self, text: str, limit: int = 10, upper: bool = False) -> int"
    assert str(caught.value) == f"Tokenizer.count {message}; it is: {says}"


def test_what_can_only_be_given_by_position_is_not_taken_by_name() -> None:
    bind = contract_of(Tokenizer).methods["tokens"].bind
    with pytest.raises(TypeError, match=r"Tokenizer\.tokens lacks text"):
        bind((), {"text": "a"})
    with pytest.raises(TypeError, match="has no parameter text to be given by name"):
        bind(("a",), {"text": "a"})


# Providers.


class Small(Service, name="small"):
    def count(self, text: str, limit: int = 10) -> int: ...


def own(function: Any) -> Any:
    """Return a provider's class with this method."""
    return type("Words", (), {"count": function})


def passing(function: Any) -> Any:
    @wraps(function)
    def inner(*args: Any) -> Any:
        return function(*args)

    return inner


FITTING = [
    pytest.param(lambda self, text, limit: [text, limit], id="as it is"),
    pytest.param(lambda self, text, limit=5: [text, limit], id="a default of its own"),
    pytest.param(lambda self, text, limit, ctx: [text, limit], id="ctx"),
    pytest.param(lambda self, text, limit=5, ctx=None: [text, limit] if ctx else [], id="ctx with a default"),
    pytest.param(lambda self, _text, _limit: [_text, _limit], id="unused"),
    pytest.param(lambda self, *args: list(args), id="any number"),
    pytest.param(lambda self, text, *rest: [text, *rest], id="any more"),
    pytest.param(staticmethod(lambda text, limit: [text, limit]), id="static"),
    pytest.param(classmethod(lambda cls, text, limit: [text, limit]), id="of the class"),
    pytest.param(passing(lambda self, text, limit: [text, limit]), id="wrapped"),
]


@pytest.mark.parametrize("function", FITTING)
def test_a_provider_gets_what_the_contract_says_whatever_its_caller_left_out(function: Any) -> None:
    plugin = Plugin()
    plugin.service(Small)(own(function))
    with served(plugin) as host:
        assert host.result("svc.small.count", ["a"]) == ["a", 10]
        assert host.result("svc.small.count", ["a", 3]) == ["a", 3]
        for params in ([], ["a", 1, 2], {"text": "a"}, None):
            error = host.error("svc.small.count", params)
            assert (error["code"], "count takes " in error["message"]) == ("invalid-params", True)


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda self, text: 1, id="too few"),
        pytest.param(lambda self, text, limit, more: 1, id="too many"),
        pytest.param(lambda self, text, limit, more=1: 1, id="one more with a default"),
        pytest.param(lambda self, limit, text: 1, id="another order"),
        pytest.param(lambda self, text, size: 1, id="another name"),
        pytest.param(lambda self, ctx, text, limit: 1, id="ctx first"),
        pytest.param(lambda self, text, limit, *, more: 1, id="more by name"),
        pytest.param(lambda self, other, *rest: 1, id="another name and any more"),
        pytest.param(lambda self, text, ctx, *rest: 1, id="ctx before any more"),
    ],
)
def test_a_provider_that_does_not_take_what_the_contract_passes_is_refused(function: Any) -> None:
    message = (
        r"^test_contract.py:\d+: Words.count takes \(.*\), but Small.count passes \(text, limit\); write: def count\(self, text: str, "
    )
    with pytest.raises(TypeError, match=message):
        Plugin().service(Small)(own(function))


class Streaming(Service, name="streaming"):
    def said(self, text: str) -> Iterator[str]: ...


def test_a_provider_that_does_not_yield_where_the_contract_gives_a_stream_is_refused() -> None:
    class Words:
        def said(self, text: str) -> Any:
            return text.split()

    message = (
        r"^test_contract.py:\d+: Words.said yields nothing, but Streaming.said gives a stream; "
        r"write: def said\(self, text: str\) -> Iterator\[str\], and yield each item in it$"
    )
    with pytest.raises(TypeError, match=message):
        Plugin().service(Streaming)(Words)


def test_a_contract_whose_types_cannot_be_read_yet_says_no_stream() -> None:
    class Late(Service, name="late"):
        def said(self, text: str) -> Iterator[str]: ...

    method = contract_of(Late).methods["said"]
    assert method.says_stream()
    del method.function.__annotations__["return"]
    assert method.says_stream() is False


class Inherits(Small):
    pass


@pytest.mark.parametrize("cls", [type("Words", (), {}), type("Words", (), {"count": 5}), Inherits], ids=["none", "no method", "the stub"])
def test_a_provider_without_a_method_of_the_contract_is_refused(cls: Any) -> None:
    cls.__module__ = __name__
    message = (
        rf"^test_contract.py:\d+: {cls.__name__} has no 'count' of the contract Small; write: def count\(self, text: str, limit: int = 10\)"
    )
    with pytest.raises(TypeError, match=message):
        Plugin().service(Small)(cls)


def test_a_provider_may_be_a_subclass_and_offers_the_contracts_methods_alone() -> None:
    plugin = Plugin()

    @plugin.service(Small)
    class Words(Small):
        def count(self, text: str, limit: int = 10) -> int:
            return len(text)

        def helper(self) -> None: ...

    assert list(plugin.provides()["services"]["small"]["methods"]) == ["count"]
    assert plugin.handlers["svc.small.count"].kind == "service"
    with pytest.raises(ValueError, match="method 'count' of service small is registered twice"):
        plugin.service(Small)(Words)


# Arguments of services without a contract.


@pytest.mark.parametrize(
    ("function", "fit", "unfit"),
    [
        pytest.param(lambda self, a, b=2: [a, b], {(1,): [1, 2], (1, 3): [1, 3]}, [(), (1, 2, 3)], id="a default"),
        pytest.param(lambda self, a, b=2, ctx=None: [a, b, ctx is None], {(1,): [1, 2, False]}, [(), (1, 2, 3)], id="ctx after a default"),
        pytest.param(lambda self, a, ctx: [a], {(1,): [1]}, [(), (1, 2)], id="ctx"),
        pytest.param(lambda self, a, *rest: [a, *rest], {(1,): [1], (1, 2, 3): [1, 2, 3]}, [()], id="any more"),
        pytest.param(lambda self: [], {(): []}, [(1,)], id="none"),
    ],
)
def test_arguments_that_do_not_fit_are_the_callers_fault(function: Any, fit: dict[Any, Any], unfit: list[Any]) -> None:
    plugin = Plugin()
    plugin.service("plain")(own(function))
    with served(plugin) as host:
        for params, result in fit.items():
            assert host.result("svc.plain.count", list(params)) == result
        for params in unfit:
            error = host.error("svc.plain.count", list(params))
            assert error["code"] == "invalid-params"
            assert error["message"].startswith("count takes ")
            assert f"got {len(params)} (test_contract.py:" in error["message"]
        assert host.error("svc.plain.count", {"a": 1})["message"] == "count takes a list of arguments, got dict"


def test_arguments_that_do_not_fit_are_not_dropped_where_others_are_converted() -> None:
    plugin = Plugin()

    @plugin.service("plain")
    class Plain:
        def double(self, data: bytes, times: int = 2) -> bytes:
            return data * times

        def many(self, data: bytes, *rest: str) -> list[Any]:
            return [data.decode(), *rest]

        async def later(self, data: bytes) -> str:
            return data.decode()

    with served(plugin) as host:
        assert host.result("svc.plain.double", ["YQ=="]) == "YWE="
        assert host.result("svc.plain.many", ["YQ==", "b", "c"]) == ["a", "b", "c"]
        assert host.result("svc.plain.later", ["YQ=="]) == "a"
        assert host.error("svc.plain.double", ["YQ==", 2, 3])["code"] == "invalid-params"
        assert host.error("svc.plain.later", [])["message"].startswith("later takes 1 argument, got 0 (test_contract.py:")


def test_a_type_error_of_the_providers_own_stays_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(self: Any, text: str) -> Iterator[str]:
        raise TypeError("broken takes 1 argument")

    plugin = Plugin()
    plugin.service("plain")(own(broken))
    with served(plugin) as host:
        assert host.error("svc.plain.count", ["a"])["code"] == "plugin-raised"
    assert "broken takes 1 argument" in capsys.readouterr().err
