from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from annexe_sdk import Context, Plugin
from annexe_sdk.convert import converter
from annexe_sdk.plugin import Handler


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
