# mypy: disable-error-code="empty-body"
from __future__ import annotations

import enum
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, ClassVar

import pytest

from annexe.contract import (
    REQUIRED,
    ExtensionPoint,
    HookKind,
    HookSpec,
    capability_definition,
    check_distinct,
    definition_of,
    hook,
)
from annexe.errors import ContractError
from tests.unit.contract.models import ChatRequest, Reply, Tree


class Chat(HookSpec, name="chat", revision=3):
    limit: ClassVar[int] = 3

    @hook.filter(budget_ms=50, on_failure="closed", responds=Reply)
    async def on_request(self, request: ChatRequest, tenant: str = "none") -> ChatRequest: ...

    @hook.stream_filter(budget_ms=5.5)
    def on_chunks(self, chunks: AsyncIterator[str], model: str) -> AsyncIterator[str]: ...

    @hook.action
    async def on_start(self) -> None: ...

    @hook.first_result(on_failure="closed")
    async def answer(self, request: ChatRequest) -> Reply | None: ...

    @hook.observer
    async def on_error(self, error: str) -> None: ...

    def _private(self) -> None: ...


class SpeechToText(ExtensionPoint, name="speech-to-text", revision=2):
    async def transcribe(self, audio: bytes, language: str = "en") -> str: ...

    def words(self, audio: AsyncIterable[bytes], language: str) -> AsyncIterator[str]: ...

    async def warm_up(self) -> None: ...


class Orders:
    name: ClassVar[str] = "orders"

    async def find(self, id: int, deep: bool = False) -> dict[str, int]:
        return {"id": id}


def test_hook_spec_defines_names_kinds_and_options() -> None:
    spec = definition_of(Chat)
    assert (spec.name, spec.revision, list(spec.hooks)) == ("chat", 3, ["on_request", "on_chunks", "on_start", "answer", "on_error"])
    assert [definition.kind for definition in spec.hooks.values()] == [
        HookKind.FILTER,
        HookKind.STREAM_FILTER,
        HookKind.ACTION,
        HookKind.FIRST_RESULT,
        HookKind.OBSERVER,
    ]
    request = spec.hooks["on_request"]
    assert (request.spec, request.name, request.qualified, request.method) == (
        "chat",
        "on_request",
        "chat.on_request",
        "hook.chat.on_request",
    )
    assert (request.revision, request.budget_s, request.on_failure) == (3, 0.05, "closed")
    assert request.responds is not None
    assert request.responds.annotation is Reply
    assert request.result is not None
    assert request.result.annotation is ChatRequest
    assert [(param.name, param.type.annotation, param.default) for param in request.params] == [
        ("request", ChatRequest, REQUIRED),
        ("tenant", str, "none"),
    ]


def test_hook_without_options_has_the_defaults() -> None:
    start = definition_of(Chat).hooks["on_start"]
    assert (start.budget_s, start.on_failure, start.responds, start.result, start.params) == (None, "open", None, None, ())


def test_stream_filter_has_the_types_of_its_items() -> None:
    chunks = definition_of(Chat).hooks["on_chunks"]
    assert chunks.stream_in is not None
    assert chunks.stream_out is not None
    assert (chunks.stream_in.annotation, chunks.stream_out.annotation, chunks.result) == (str, str, None)
    assert [(param.name, param.is_stream) for param in chunks.params] == [("chunks", True), ("model", False)]
    assert chunks.budget_s == 0.0055


def test_extension_point_defines_methods_and_streams() -> None:
    point = definition_of(SpeechToText)
    assert (point.name, point.revision, list(point.methods)) == ("speech-to-text", 2, ["transcribe", "words", "warm_up"])
    transcribe, words, warm_up = point.methods.values()
    assert transcribe.method == "ext.speech-to-text.transcribe"
    assert transcribe.result is not None
    assert (transcribe.result.annotation, transcribe.stream_in, transcribe.stream_out) == (str, None, None)
    assert words.stream_in is not None
    assert words.stream_out is not None
    assert (words.stream_in.annotation, words.stream_out.annotation, words.result) == (bytes, str, None)
    assert warm_up.result is None


def test_capability_defines_methods() -> None:
    orders = capability_definition(Orders)
    assert (orders.name, list(orders.methods)) == ("orders", ["find"])
    assert orders.methods["find"].method == "cap.orders.find"
    assert [param.default for param in orders.methods["find"].params] == [REQUIRED, False]


def test_definition_is_made_once_and_not_shared_with_a_derived_class() -> None:
    class More(Chat, name="more-chat"):
        @hook.action
        async def on_end(self) -> None: ...

    assert definition_of(Chat) is definition_of(Chat)
    more = definition_of(More)
    assert (more.name, more.revision) == ("more-chat", 1)
    assert list(more.hooks) == [*definition_of(Chat).hooks, "on_end"]
    assert more.hooks["on_start"].method == "hook.more-chat.on_start"


def test_decorated_method_stays_the_function_it_was() -> None:
    async def on_start(self: object) -> None: ...

    assert hook.action(on_start) is on_start
    assert hook.mark_of(on_start) == hook.HookMark(kind=HookKind.ACTION)
    assert hook.mark_of(Chat._private) is None


@pytest.mark.parametrize("contract", [Chat, SpeechToText])
def test_contract_has_no_instances(contract: type[HookSpec] | type[ExtensionPoint]) -> None:
    with pytest.raises(TypeError, match="pass the class itself"):
        contract()


def test_two_contracts_of_one_name_are_refused() -> None:
    class Chat2(HookSpec, name="chat"):
        @hook.action
        async def on_start(self) -> None: ...

    class ChatPoint(ExtensionPoint, name="chat"):
        async def say(self) -> None: ...

    check_distinct([definition_of(Chat), definition_of(ChatPoint), capability_definition(Orders)])
    with pytest.raises(ContractError) as caught:
        check_distinct([definition_of(Chat), definition_of(Chat2)])
    assert caught.value.data == {"contract": "chat", "method": ""}


# What follows holds one mistake each.


def bad_name() -> Any:
    class Bad(HookSpec, name="Not_Good"): ...


def no_name() -> Any:
    class Bad(ExtensionPoint): ...


def long_name() -> Any:
    class Bad(HookSpec, name="a" * 65): ...


def revision_zero() -> Any:
    class Bad(HookSpec, name="bad", revision=0): ...


def revision_text() -> Any:
    class Bad(ExtensionPoint, name="bad", revision="1"): ...


def revision_bool() -> Any:
    class Bad(ExtensionPoint, name="bad", revision=True): ...


def twice() -> Any:
    class Bad(HookSpec, name="bad"):
        @hook.action
        async def one(self) -> None: ...

        @hook.observer  # type: ignore[no-redef]
        async def one(self) -> None: ...  # noqa: F811


def two_decorators() -> Any:
    class Bad(HookSpec, name="bad"):
        @hook.action
        @hook.observer
        async def one(self) -> None: ...


def decorated_property() -> Any:
    class Bad(HookSpec, name="bad"):
        @hook.action  # type: ignore[prop-decorator]
        @property
        def one(self) -> None: ...


def budget_zero() -> Any:
    class Bad(HookSpec, name="bad"):
        @hook.action(budget_ms=0)
        async def one(self) -> None: ...


def budget_endless() -> Any:
    class Bad(HookSpec, name="bad"):
        @hook.observer(budget_ms=float("inf"))
        async def one(self) -> None: ...


def unknown_policy() -> Any:
    class Bad(HookSpec, name="bad"):
        @hook.first_result(on_failure="ajar")  # type: ignore[call-overload, untyped-decorator]
        async def one(self) -> None: ...


@pytest.mark.parametrize(
    ("define", "method", "told"),
    [
        pytest.param(bad_name, "", "name is 'Not_Good'; write class Bad(..., name=", id="bad-name"),
        pytest.param(no_name, "", "its name is ''", id="no-name"),
        pytest.param(long_name, "", "at most 64 characters", id="long-name"),
        pytest.param(revision_zero, "", "its revision is 0; write a whole number from 1", id="revision-zero"),
        pytest.param(revision_text, "", "its revision is '1'", id="revision-text"),
        pytest.param(revision_bool, "", "its revision is True", id="revision-bool"),
        pytest.param(twice, "one", "defined twice; give each hook or method a name of its own", id="twice"),
        pytest.param(two_decorators, "one", "two hook decorators; keep one", id="two-decorators"),
        pytest.param(budget_zero, "one", "budget_ms is 0; write milliseconds above 0", id="budget-zero"),
        pytest.param(budget_endless, "one", "budget_ms is inf", id="budget-endless"),
        pytest.param(unknown_policy, "one", "on_failure is 'ajar'; write 'open' or 'closed'", id="unknown-policy"),
    ],
)
def test_mistake_in_the_class_statement_is_refused_at_once(define: Any, method: str, told: str) -> None:
    with pytest.raises(ContractError) as caught:
        define()
    assert caught.value.data == {"contract": "Bad", "method": method}
    assert told in caught.value.message


def test_decorator_on_something_else_is_refused() -> None:
    with pytest.raises(ContractError, match=r"@hook\.action decorates something that is not a method; put it directly above async def"):
        decorated_property()


class NotMarked(HookSpec, name="bad"):
    async def one(self) -> None: ...


class Empty(HookSpec, name="bad"): ...


class NotAsync(HookSpec, name="bad"):
    @hook.action
    def one(self) -> None: ...


class NoParamType(HookSpec, name="bad"):
    @hook.action
    async def one(self, value) -> None: ...  # type: ignore[no-untyped-def]


class NoResultType(HookSpec, name="bad"):
    @hook.action
    async def one(self, value: str): ...  # type: ignore[no-untyped-def]


class VarArgs(HookSpec, name="bad"):
    @hook.action
    async def one(self, *values: str) -> None: ...


class KeywordOnly(HookSpec, name="bad"):
    @hook.action
    async def one(self, *, one: str) -> None: ...


class NamedCtx(HookSpec, name="bad"):
    @hook.action
    async def one(self, ctx: str) -> None: ...


class UnknownType(HookSpec, name="bad"):
    @hook.action
    async def one(self, value: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


class UnsupportedType(HookSpec, name="bad"):
    @hook.action
    async def one(self, value: set[str]) -> None: ...


class WrongDefault(HookSpec, name="bad"):
    @hook.action
    async def one(self, value: str = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013


class UnsendableDefault(HookSpec, name="bad"):
    @hook.action
    async def one(self, value: str = object()) -> None: ...  # type: ignore[assignment]


class HugeDefault(HookSpec, name="bad"):
    @hook.action
    async def one(self, value: int = 2**64) -> None: ...


class FilterChangesType(HookSpec, name="bad"):
    @hook.filter
    async def one(self, request: ChatRequest) -> Tree: ...


class FilterWithoutParams(HookSpec, name="bad"):
    @hook.filter
    async def one(self) -> str: ...


class FilterReturnsNothing(HookSpec, name="bad"):
    @hook.filter
    async def one(self, request: str) -> None: ...


class FilterStreams(HookSpec, name="bad"):
    @hook.filter
    def one(self, chunks: AsyncIterator[str]) -> AsyncIterator[str]: ...


class StreamFilterTakesValue(HookSpec, name="bad"):
    @hook.stream_filter
    def one(self, chunks: str) -> AsyncIterator[str]: ...


class StreamFilterGivesValue(HookSpec, name="bad"):
    @hook.stream_filter
    async def one(self, chunks: AsyncIterator[str]) -> str: ...


class StreamFilterWithoutParams(HookSpec, name="bad"):
    @hook.stream_filter
    def one(self) -> AsyncIterator[str]: ...


class StreamFilterChangesType(HookSpec, name="bad"):
    @hook.stream_filter
    def one(self, chunks: AsyncIterator[str]) -> AsyncIterator[bytes]: ...


class StreamDefault(HookSpec, name="bad"):
    @hook.stream_filter
    def one(self, chunks: AsyncIterator[str] = None) -> AsyncIterator[str]: ...  # type: ignore[assignment]  # noqa: RUF013


class ActionReturns(HookSpec, name="bad"):
    @hook.action
    async def one(self) -> str: ...


class ObserverReturns(HookSpec, name="bad"):
    @hook.observer
    async def one(self) -> str: ...


class FirstResultNeverNone(HookSpec, name="bad"):
    @hook.first_result
    async def one(self) -> str: ...


class FirstResultNothing(HookSpec, name="bad"):
    @hook.first_result
    async def one(self) -> None: ...


class RespondsUnsupported(HookSpec, name="bad"):
    @hook.filter(responds=complex)
    async def one(self, value: str) -> str: ...


class StaticHook(HookSpec, name="bad"):
    @staticmethod
    async def one() -> None: ...


class BadMethodName(HookSpec, name="bad"):
    @hook.action
    async def oneTwo(self) -> None: ...


class HookInPoint(ExtensionPoint, name="bad"):
    @hook.action
    async def one(self) -> None: ...


class EmptyPoint(ExtensionPoint, name="bad"): ...


class TwoStreams(ExtensionPoint, name="bad"):
    async def one(self, left: AsyncIterator[str], right: AsyncIterator[str]) -> None: ...


class SyncPoint(ExtensionPoint, name="bad"):
    def one(self) -> str: ...


@pytest.mark.parametrize(
    ("contract", "told"),
    [
        (NotMarked, "not marked as a hook; write one of @hook.filter, @hook.stream_filter"),
        (NotAsync, "it is not async; write async def one(...)"),
        (NoParamType, "parameter 'value' has no type; write value: and its type"),
        (NoResultType, "its result has no type; write what it returns"),
        (VarArgs, "parameter 'values' cannot be given by position and by name"),
        (KeywordOnly, "write plain parameters, without *, ** and /"),
        (NamedCtx, "parameter 'ctx' has a name that plugins need"),
        (UnknownType, "'Nowhere' is not defined); define or import it at module level"),
        (UnsupportedType, "parameter 'value' is declared set[str], which holds the type set; write list[...]"),
        (WrongDefault, "parameter 'value' has a default that is not of its type"),
        (UnsendableDefault, "parameter 'value' has a default that is not of its type"),
        (HugeDefault, "parameter 'value' has a default that is not of its type"),
        (FilterChangesType, "returns another type than its first parameter has; write the same type for both"),
        (FilterWithoutParams, "write the same type for both"),
        (FilterReturnsNothing, "write the same type for both"),
        (FilterStreams, "@hook.filter does not stream; write @hook.stream_filter"),
        (StreamFilterTakesValue, "write (self, chunks: AsyncIterator[T]) -> AsyncIterator[T]"),
        (StreamFilterGivesValue, "write (self, chunks: AsyncIterator[T]) -> AsyncIterator[T]"),
        (StreamFilterWithoutParams, "write (self, chunks: AsyncIterator[T]) -> AsyncIterator[T]"),
        (StreamFilterChangesType, "gives other items than it takes"),
        (StreamDefault, "is a stream and has a default; leave the default out"),
        (ActionReturns, "@hook.action returns nothing; write -> None, or @hook.filter"),
        (ObserverReturns, "@hook.observer returns nothing"),
        (FirstResultNeverNone, "must be able to find nothing; write -> T | None"),
        (FirstResultNothing, "write -> T | None"),
        (RespondsUnsupported, "responds is declared complex"),
        (StaticHook, "it is a staticmethod; write async def"),
        (BadMethodName, "write lower-case words joined by _"),
        (HookInPoint, "leave the @hook decorator out, or derive from HookSpec"),
        (TwoStreams, "takes more than one stream; take one AsyncIterator"),
        (SyncPoint, "it is not async; write async def one(...)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_mistake_in_a_method_is_refused_with_class_method_and_what_to_write(contract: type[HookSpec], told: str) -> None:
    with pytest.raises(ContractError) as caught:
        definition_of(contract)
    method = "oneTwo" if contract is BadMethodName else "one"
    assert caught.value.data == {"contract": contract.__name__, "method": method}
    assert caught.value.message.startswith(f"{contract.__name__}.{method}: ")
    assert told in caught.value.message


@pytest.mark.parametrize("contract", [Empty, EmptyPoint])
def test_contract_without_methods_is_refused(contract: type[HookSpec]) -> None:
    with pytest.raises(ContractError, match="write at least one") as caught:
        definition_of(contract)
    assert caught.value.data == {"contract": contract.__name__, "method": ""}


def test_bare_stream_carries_anything() -> None:
    class Bare(HookSpec, name="bare"):
        @hook.stream_filter
        def pass_on(self, items: AsyncIterator) -> AsyncIterator: ...  # type: ignore[type-arg]

    stream_in = definition_of(Bare).hooks["pass_on"].stream_in
    assert stream_in is not None
    assert stream_in.annotation is Any


class NoName:
    async def find(self) -> None: ...


class NoMethods:
    name = "none"


class SyncMethod:
    name = "sync"

    def find(self) -> None: ...


class WithProperty:
    name = "property"

    @property
    def size(self) -> int:
        return 1


class Kind(enum.Enum):
    A = "a"


@pytest.mark.parametrize(
    ("capability", "method", "told"),
    [
        (NoName, "", 'write name: ClassVar[str] = "my-name"'),
        (NoMethods, "", "write at least one async def"),
        (SyncMethod, "find", "write async def find(...)"),
        (WithProperty, "size", "it is a property; write async def, or begin its name with an underscore"),
    ],
)
def test_mistake_in_a_capability_is_refused(capability: type, method: str, told: str) -> None:
    with pytest.raises(ContractError) as caught:
        capability_definition(capability)
    assert caught.value.data == {"contract": capability.__name__, "method": method}
    assert told in caught.value.message
