from __future__ import annotations

import asyncio
import subprocess
import sys
import typing
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, Optional, Union

import pytest

from annexe_sdk import Context, Event, Plugin
from annexe_sdk.convert import converter
from annexe_sdk.life import _has_rich_annotations
from annexe_sdk.plugin import Handler, Misfit
from tests.unit.sdk.host_end import served


def test_every_decorator_registers_under_the_wire_name_with_its_kind() -> None:
    plugin = Plugin()
    for kind in ("filter", "stream_filter", "action", "first_result", "observer"):
        getattr(plugin, kind)(f"chat.on_{kind}")(lambda value: value)

    @plugin.extension("speech-to-text")
    class Speech:
        rate = 16_000

        def transcribe(self, audio: bytes) -> str:
            return ""

        def _private(self) -> None: ...

    provided = plugin.provides()
    assert {name: facts["kind"] for name, facts in provided["hooks"].items()} == {
        f"chat.on_{kind}": kind for kind in ("filter", "stream_filter", "action", "first_result", "observer")
    }
    assert provided["hooks"]["chat.on_filter"]["at"].startswith("test_plugin.py:")
    assert list(provided["extensions"]["speech-to-text"]["methods"]) == ["transcribe"]


def test_a_handler_of_events_is_told_by_its_topic() -> None:
    plugin = Plugin()

    @plugin.on_event("order.paid")
    def paid(event: Event) -> None: ...

    assert list(plugin.provides()["events"]) == ["order.paid"]
    assert plugin.provides()["events"]["order.paid"]["at"].startswith("test_plugin.py:")
    convert = plugin.handlers["event.order.paid"].convert
    assert convert is not None
    (event,) = convert({"topic": "order.paid", "value": 7, "publisher": None, "time": 1.5, "more": 1})  # type: ignore[arg-type]
    assert repr(event) == "Event(topic='order.paid', value=7, publisher=None, time=1.5)"
    for wrong in ([1], {"topic": "order.paid"}, None):
        with pytest.raises(Misfit, match="an event is a map of topic, value, publisher and time"):
            convert(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"event 'order\.paid' is registered twice"):
        plugin.on_event("order.paid")(paid)
    for name in ("paid", 5, paid):
        with pytest.raises(TypeError, match=r'@plugin.on_event\("redaction.done"\)'):
            plugin.on_event(name)  # type: ignore[arg-type]


def test_a_hook_answered_twice_names_both_places() -> None:
    plugin = Plugin()
    plugin.filter("chat.on_text")(lambda value: value)
    with pytest.raises(ValueError, match=r"hook 'chat.on_text' is registered twice, at test_plugin.py:\d+ and at test_plugin.py:\d+"):
        plugin.filter("chat.on_text")(lambda value: value)


@pytest.mark.parametrize("given", ["on_text", 5, lambda value: value])
def test_a_decorator_without_the_name_of_a_hook_says_how_to_write_it(given: Any) -> None:
    with pytest.raises(TypeError, match=r'@plugin.filter\("chat.on_request"\)'):
        Plugin().filter(given)


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(TypeError, match="not a function"):
        Plugin().filter("chat.on_text")(print)


async def is_async(value: Any, ctx: Context) -> None: ...


async def is_async_generator(chunks: AsyncIterator[str]) -> AsyncIterator[str]:
    yield ""


def is_generator(chunks: Iterator[str], ctx: Context) -> Iterator[str]:
    yield ""


def is_plain(ctx_like: Any) -> None: ...


@pytest.mark.parametrize(
    ("function", "facts"),
    [
        (is_async, (True, False, True)),
        (is_async_generator, (True, True, False)),
        (is_generator, (False, True, True)),
        (is_plain, (False, False, False)),
    ],
)
def test_what_a_function_is_is_read_from_its_code(function: Any, facts: tuple[bool, bool, bool]) -> None:
    handler = Handler("filter", function)
    assert (handler.is_async, handler.is_generator, handler.wants_ctx) == facts


def test_one_async_function_makes_the_plugin_async() -> None:
    plugin = Plugin()
    plugin.filter("chat.on_text")(is_plain)
    assert not plugin.is_async
    plugin.on_configure(is_async)
    assert plugin.is_async


def test_importing_the_sdk_imports_nothing_heavy() -> None:
    heavy = "{'asyncio', 'json', 'threading', 'msgspec', 'inspect', 'typing', 'dataclasses', 'socket', 'logging'}"
    code = (
        f"import sys; before = set(sys.modules); import annexe_sdk, annexe_sdk.runner; print(sorted((set(sys.modules) - before) & {heavy}))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


# Conversion by annotations.


@dataclass
class Leaf:
    name: str
    weight: float = 1.0


@dataclass
class Tree:
    leaf: Leaf
    leaves: list[Leaf] = field(default_factory=list)
    named: dict[str, Leaf] = field(default_factory=dict)
    maybe: Leaf | None = None
    below: list[Tree] = field(default_factory=list)


def takes_tree(tree: Tree, label: str, ctx: Context) -> None: ...


def takes_many(trees: list[Leaf], pairs: tuple[Leaf, ...], either: Leaf | None) -> None: ...


def takes_plain(text: str, values: dict[str, int]) -> None: ...


def converted(function: Any, *params: Any) -> list[Any]:
    convert = converter(Handler("filter", function))
    assert convert is not None
    return convert(list(params))


def test_dataclasses_are_built_all_the_way_down() -> None:
    leaf = {"name": "a", "unknown": 1}
    tree, label = converted(
        takes_tree, {"leaf": leaf, "leaves": [leaf], "named": {"x": leaf}, "maybe": leaf, "below": [{"leaf": leaf}]}, "label"
    )
    assert tree == Tree(Leaf("a"), [Leaf("a")], {"x": Leaf("a")}, Leaf("a"), [Tree(Leaf("a"))])
    assert label == "label"


def test_lists_tuples_and_unions_are_followed() -> None:
    assert converted(takes_many, [{"name": "a"}], [{"name": "b", "weight": 2.0}], None) == [[Leaf("a")], (Leaf("b", 2.0),), None]


def test_what_does_not_fit_is_passed_on_as_it_came() -> None:
    assert converted(takes_tree, "no tree", 5) == ["no tree", 5]
    assert converted(takes_many, "no list", 5, "no leaf") == ["no list", 5, "no leaf"]


def test_plain_annotations_need_no_conversion() -> None:
    assert converter(Handler("filter", takes_plain)) is None


def annotated(**types: Any) -> Any:
    """Return a function with these annotations."""
    function = eval(f"lambda {', '.join(types)}: ({', '.join(types)},)")
    function.__annotations__ = types
    return function


LEAF = {"name": "a"}
AUDIO = b"\x00\xff\xfe audio"
TEXT = b64encode(AUDIO).decode()


@pytest.mark.parametrize("union", [Leaf | None, Optional[Leaf], Union[None, Leaf], "Leaf | None", "Optional[Leaf]"], ids=str)  # noqa: UP007, UP045
def test_unions_are_followed_however_they_are_written(union: Any) -> None:
    function = annotated(value=union)
    assert converted(function, LEAF) == [Leaf("a")]
    assert converted(function, None) == [None]


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="there the type of all unions is called Union; the test above has it")
def test_unions_are_followed_whatever_their_type_is_called() -> None:
    class_of_old: Any = typing._UnionGenericAlias  # type: ignore[attr-defined]
    union = type("Union", (class_of_old,), {}, _root=True)(Union, (Leaf, type(None)))
    assert type(union).__name__ == "Union"
    assert converted(annotated(value=union), LEAF) == [Leaf("a")]


class Deferred:
    """A function whose annotations raise when they are read, as from Python 3.14 on where a name in them is for type checkers alone."""

    def __init__(self, function: Any) -> None:
        self.__code__ = function.__code__
        self.__globals__ = function.__globals__
        self.__call = function

    def __call__(self, *args: Any) -> Any:
        return self.__call(*args)

    @property
    def __annotations__(self) -> dict[str, Any]:  # type: ignore[override]
        raise NameError("name 'Nowhere' is not defined")


def test_annotations_that_cannot_be_read_do_not_keep_a_plugin_from_its_start() -> None:
    plugin = Plugin()
    plugin.filter("chat.on_text")(Deferred(lambda text: text.upper()))
    with served(plugin) as host:
        assert host.result("hook.chat.on_text", ["a"]) == "A"


@dataclass
class Partly:
    leaf: Leaf
    other: Nowhere  # type: ignore[name-defined]  # noqa: F821
    audio: bytes = b""


def test_fields_whose_types_cannot_be_found_are_passed_on_and_the_others_converted() -> None:
    value = {"leaf": LEAF, "other": {"x": 1}, "audio": TEXT}
    assert converted(annotated(value=Partly), value) == [Partly(Leaf("a"), {"x": 1}, AUDIO)]


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (bytes, TEXT, AUDIO),
        (bytes, AUDIO, AUDIO),
        (bytes, "", b""),
        (bytes, "no base64", "no base64"),
        (bytes, "é", "é"),
        (bytes, 5, 5),
        (bytes | None, TEXT, AUDIO),
        (bytes | None, None, None),
        (Leaf | bytes, TEXT, AUDIO),
        (Leaf | bytes, LEAF, Leaf("a")),
        (list[bytes], [TEXT, AUDIO], [AUDIO, AUDIO]),
        (dict[str, bytes], {"a": TEXT}, {"a": AUDIO}),
        (tuple[bytes, ...], [TEXT, TEXT], (AUDIO, AUDIO)),
        (tuple[str, bytes, Leaf], [TEXT, TEXT, LEAF], (TEXT, AUDIO, Leaf("a"))),
        (tuple[str, bytes], [TEXT], [TEXT]),
        ("bytes", TEXT, AUDIO),
    ],
)
def test_bytes_are_made_of_base64_text_where_bytes_are_annotated(annotation: Any, value: Any, expected: Any) -> None:
    function = annotated(value=annotation)
    assert converted(function, value) == [expected]
    assert _has_rich_annotations(function)


def test_union_of_bytes_and_text_leaves_text_alone() -> None:
    assert converter(Handler("filter", annotated(value=bytes | str))) is None


def test_items_of_streams_are_converted_as_they_come() -> None:
    def streamed(leaves: Iterator[Leaf], first: Leaf, ctx: Context) -> None: ...
    async def streamed_async(leaves: AsyncIterator[Leaf], first: Leaf) -> None: ...

    leaves, first = converted(streamed, iter([LEAF, "no leaf"]), LEAF)
    assert [first, *leaves] == [Leaf("a"), Leaf("a"), "no leaf"]
    assert converted(streamed, [LEAF], LEAF)[0] == [LEAF], "a list is no stream"

    async def items() -> AsyncIterator[Any]:
        yield LEAF

    async def collected() -> list[Any]:
        leaves, first = converted(streamed_async, items(), LEAF)
        return [first, *[leaf async for leaf in leaves]]

    assert asyncio.run(collected()) == [Leaf("a"), Leaf("a")]


@pytest.mark.parametrize(
    ("annotation", "is_rich"),
    [
        (dict[str, Any], False),
        ("dict[str, Any]", False),
        ("typing.Any | None", False),
        (int | None, False),
        (Optional[str], False),  # noqa: UP045
        (tuple[int, ...], False),
        (Iterator[str], False),
        ("AsyncIterator[dict[str, Any]]", False),
        (None, False),
        (Leaf, True),
        ("Leaf", True),
        (list[Leaf], True),
        ("list[Leaf]", True),
        (dict[str, list[Leaf]], True),
        ("tuple[str, bytes]", True),
        (Iterator[bytes], True),
    ],
)
def test_what_it_takes_to_convert_is_imported_only_for_annotations_that_need_it(annotation: Any, is_rich: bool) -> None:
    assert _has_rich_annotations(annotated(value=annotation, ctx=Context)) == is_rich
    function = annotated(value=int)
    function.__annotations__["return"] = annotation
    assert not _has_rich_annotations(function)
