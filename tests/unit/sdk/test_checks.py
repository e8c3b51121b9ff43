from __future__ import annotations

import json
import typing
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Annotated, Any, Literal, NewType, NotRequired, Optional, TypedDict, Union

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annexe_sdk.checks import Mismatch, check_for
from annexe_sdk.codec import json_codec

AUDIO = b"\x00\xff audio"
TEXT = b64encode(AUDIO).decode()
Name = NewType("Name", str)

# For types that are made while a test runs.
LIST: Any = list
TUPLE: Any = tuple
DICT: Any = dict
UNION: Any = Union


@dataclass
class Leaf:
    name: str
    weight: float = 1.0
    size: int = field(init=False, default=7)


@dataclass
class Tree:
    leaf: Leaf
    below: list[Tree] = field(default_factory=list)
    named: dict[str, Leaf] = field(default_factory=dict)
    audio: bytes | None = None


@dataclass
class Heavy:
    name: str
    weight: float


@dataclass
class Positive:
    number: int

    def __post_init__(self) -> None:
        if self.number <= 0:
            raise ValueError("expected more than 0")


class Row(TypedDict):
    id: int
    note: NotRequired[str]
    leaf: NotRequired[Leaf]


@dataclass
class Partly:
    other: Nowhere  # type: ignore[name-defined]  # noqa: F821


@dataclass
class Days:
    days: list[date]


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        pytest.param(None, None, None, id="None"),
        pytest.param(int, 5, 5, id="int"),
        pytest.param(bool, True, True, id="bool"),
        pytest.param(float, 1.5, 1.5, id="float"),
        pytest.param(float, 1, 1, id="int for float"),
        pytest.param(str, "a", "a", id="str"),
        pytest.param(Name, "a", "a", id="another name"),
        pytest.param(Annotated[int, "of bytes"], 5, 5, id="annotated"),
        pytest.param(Any, [1, "a"], [1, "a"], id="Any"),
        pytest.param(object, {"a": 1}, {"a": 1}, id="object"),
        pytest.param(bytes, AUDIO, AUDIO, id="bytes"),
        pytest.param(bytes, TEXT, AUDIO, id="base64"),
        pytest.param(bytes, memoryview(AUDIO), AUDIO, id="bytes of a view"),
        pytest.param(memoryview, AUDIO, memoryview(AUDIO), id="view"),
        pytest.param(memoryview, TEXT, memoryview(AUDIO), id="view of base64"),
        pytest.param(Literal["a", 1, None], 1, 1, id="literal"),
        pytest.param(list, [1], [1], id="bare list"),
        pytest.param(list[int], [1, 2], [1, 2], id="list"),
        pytest.param(Sequence[bytes], [TEXT], [AUDIO], id="sequence"),
        pytest.param(Iterable[int], [], [], id="iterable"),
        pytest.param(tuple, [1], (1,), id="bare tuple"),
        pytest.param(typing.Tuple, [1], (1,), id="bare Tuple"),  # noqa: UP006
        pytest.param(tuple[()], [], (), id="empty tuple"),
        pytest.param(tuple[int, ...], [1, 2], (1, 2), id="tuple"),
        pytest.param(tuple[str, bytes, Leaf], ["a", TEXT, {"name": "b"}], ("a", AUDIO, Leaf("b")), id="places"),
        pytest.param(dict, {"a": 1}, {"a": 1}, id="bare dict"),
        pytest.param(dict[str, bytes], {"a": TEXT}, {"a": AUDIO}, id="dict"),
        pytest.param(Mapping[Literal["a"], int], {"a": 1}, {"a": 1}, id="mapping"),
        pytest.param(dict[Name, Leaf], {"a": {"name": "b"}}, {"a": Leaf("b")}, id="dict of dataclasses"),
        pytest.param(Leaf, {"name": "a", "weight": 2, "size": 9, "new": 1}, Leaf("a", 2), id="dataclass"),
        pytest.param(Tree, {"leaf": {"name": "a"}, "below": [{"leaf": {"name": "b"}}]}, Tree(Leaf("a"), [Tree(Leaf("b"))]), id="in itself"),
        pytest.param(Tree, {"leaf": {"name": "a"}, "audio": TEXT}, Tree(Leaf("a"), audio=AUDIO), id="union in a field"),
        pytest.param(Row, {"id": 1, "new": 2}, {"id": 1}, id="typed dict"),
        pytest.param(Row, {"id": 1, "note": "a", "leaf": {"name": "b"}}, {"id": 1, "note": "a", "leaf": Leaf("b")}, id="all of it"),
        pytest.param(int | None, None, None, id="union"),
        pytest.param(Optional[Leaf], {"name": "a"}, Leaf("a"), id="Optional"),  # noqa: UP045
        pytest.param(Union[str, list[int]], [1], [1], id="Union"),  # noqa: UP007
        pytest.param(list[int] | list[str], ["a"], ["a"], id="two lists"),
        pytest.param(bytes | str, TEXT, TEXT, id="text before bytes"),
        pytest.param(bytes | Literal["a"], TEXT, AUDIO, id="bytes when no other"),
        pytest.param(dict[str, Any] | Leaf, {"name": "a"}, Leaf("a"), id="dataclass before dict"),
        pytest.param(Leaf | Heavy, {"name": "a", "weight": 2.0}, Heavy("a", 2.0), id="the one that needs more"),
        pytest.param(Heavy | Leaf, {"name": "a"}, Leaf("a"), id="the one that fits"),
        pytest.param(Any | Leaf, {"name": "a"}, Leaf("a"), id="Any last"),
        pytest.param(Any | Leaf, 5, 5, id="Any"),
        pytest.param(Row | list[int], {"id": 1}, {"id": 1}, id="typed dict in a union"),
    ],
)
def test_values_become_what_the_annotation_names(annotation: Any, value: Any, expected: Any) -> None:
    converted = check_for(annotation, "here")(value)
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("annotation", "value", "where", "expected", "actual"),
    [
        pytest.param(None, 0, "$", "None", "int", id="None"),
        pytest.param(int, True, "$", "int", "bool", id="bool is no int"),
        pytest.param(int, 1.0, "$", "int", "float", id="int"),
        pytest.param(float, True, "$", "float", "bool", id="bool is no float"),
        pytest.param(float, "1", "$", "float", "str", id="float"),
        pytest.param(bool, 1, "$", "bool", "int", id="bool"),
        pytest.param(str, None, "$", "str", "None", id="str"),
        pytest.param(bytes, "é", "$", "bytes", "str that is no base64", id="no base64"),
        pytest.param(bytes, 5, "$", "bytes", "int", id="bytes"),
        pytest.param(memoryview, [], "$", "memoryview", "list", id="view"),
        pytest.param(Literal["a", 1], True, "$", "Literal['a', 1]", "True", id="literal"),
        pytest.param(Literal["a"], "b" * 50, "$", "Literal['a']", f"'{'b' * 39}…", id="long literal"),
        pytest.param(Literal["a"], [], "$", "Literal['a']", "list", id="no literal"),
        pytest.param(list[int], (1,), "$", "list[int]", "tuple", id="list"),
        pytest.param(list[int], [1, 2, "a"], "$[2]", "int", "str", id="item"),
        pytest.param(tuple[Leaf | None, ...], 5, "$", "tuple[Leaf | None, ...]", "int", id="tuple"),
        pytest.param(tuple[str, int], {}, "$", "tuple[str, int]", "dict", id="places"),
        pytest.param(tuple[str, int], ["a"], "$", "tuple[str, int] of 2 items", "1 items", id="too few"),
        pytest.param(tuple[str, int], ["a", "b"], "$[1]", "int", "str", id="place"),
        pytest.param(dict[str, int], [], "$", "dict[str, int]", "list", id="dict"),
        pytest.param(dict[str, int], {"a b": None}, "$['a b']", "int", "None", id="value"),
        pytest.param(dict[str, int], {5: 5}, "$", "a key of str", "int", id="key"),
        pytest.param(dict[Literal["a"], int], {"b": 5}, "$", "a key of Literal['a']", "'b'", id="literal key"),
        pytest.param(Leaf, [], "$", "Leaf", "list", id="dataclass"),
        pytest.param(Leaf, {"weight": 1.0}, "$.name", "str", "nothing", id="missing"),
        pytest.param(Tree, {}, "$.leaf", "Leaf", "nothing", id="missing dataclass"),
        pytest.param(Heavy | None, {"name": "a"}, "$.weight", "float", "nothing", id="missing in a union"),
        pytest.param(Row, {"note": "a"}, "$.id", "int", "nothing", id="missing key"),
        pytest.param(Row, {"id": 1, "note": None}, "$.note", "str", "None", id="not required"),
        pytest.param(
            Tree,
            {"leaf": {"name": "a"}, "below": [{"leaf": {"name": "b"}}, {"leaf": {"name": 5}}]},
            "$.below[1].leaf.name",
            "str",
            "int",
            id="deep",
        ),
        pytest.param(Tree, {"leaf": {"name": "a"}, "audio": 1}, "$.audio", "bytes | None", "int", id="union"),
        pytest.param(list[int] | Leaf, {"name": 5}, "$.name", "str", "int", id="the member that it nearly is"),
        pytest.param(Leaf | list[Leaf], [{"name": "a"}, {"name": 5}], "$[1].name", "str", "int", id="the deepest"),
        pytest.param(Positive, {"number": 0}, "$", "Positive", "what it refuses (ValueError: expected more than 0)", id="refused"),
    ],
)
def test_what_does_not_fit_is_told_by_its_place(annotation: Any, value: Any, where: str, expected: str, actual: str) -> None:
    with pytest.raises(Mismatch) as caught:
        check_for(annotation, "here")(value)
    assert (caught.value.where, caught.value.expected, caught.value.actual) == (where, expected, actual)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        pytest.param(set[int], r"an answer cannot be held against set\[int\]; what travels is None, bool,", id="set"),
        pytest.param(date, "cannot be held against date;", id="class"),
        pytest.param(list[dict[str, date]], "cannot be held against date;", id="deep"),
        pytest.param(Days, "cannot be held against date;", id="in a dataclass"),
        pytest.param(Leaf | date, "cannot be held against date;", id="in a union"),
        pytest.param(Iterator[int], r"cannot be held against Iterator\[int\];", id="stream"),
        pytest.param(Callable[[], int], "cannot be held against", id="function"),
        pytest.param(dict[int, Leaf], r"dict\[int, Leaf\]: keys travel as text; write: dict\[str, Leaf\]", id="key"),
        pytest.param(dict[Literal[1], int], "keys travel as text", id="literal key"),
        pytest.param(typing.TypeVar("T"), "cannot be held against T;", id="variable"),
        pytest.param(Partly, r"the type of Partly.other cannot be read; import what it names, also when the contract runs", id="unknown"),
    ],
)
def test_what_cannot_be_checked_is_refused_when_the_check_is_made(annotation: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"^here: .*{message}"):
        check_for(annotation, "here")


class Lost(TypedDict):
    other: Nowhere  # type: ignore[name-defined]  # noqa: F821


def test_a_typed_dict_whose_types_cannot_be_read_is_refused() -> None:
    with pytest.raises(TypeError, match="here: the types of Lost cannot be read \\(NameError: "):
        check_for(Lost, "here")


def test_an_alias_that_names_itself_is_followed() -> None:
    class TypeAliasType:
        """As Python 3.12 makes of ``type Json = ...``."""

        __name__ = "Json"

        @property
        def __value__(self) -> Any:
            return UNION[int, LIST[self], DICT[str, self]]

        def __call__(self) -> None:
            """Look like a type to ``typing``."""

    check = check_for(TypeAliasType(), "here")
    assert check([1, {"a": [2]}]) == [1, {"a": [2]}]
    with pytest.raises(Mismatch) as caught:
        check([1, {"a": [2, "b"]}])
    assert caught.value.where == "$[1].a[1]"


# Whatever is made of the types that travel comes back as it was, and one wrong leaf is found where it is.

_Pair = tuple[Any, Any]  # a type, and a value of it

_LEAVES: st.SearchStrategy[_Pair] = st.one_of(
    st.tuples(st.just(None), st.none()),
    st.tuples(st.just(bool), st.booleans()),
    st.tuples(st.just(int), st.integers(-(2**60), 2**60)),
    st.tuples(st.just(float), st.floats(allow_nan=False, allow_infinity=False)),
    st.tuples(st.just(str), st.text(max_size=5)),
    st.tuples(st.just(bytes), st.binary(max_size=5)),
    st.builds(lambda name, weight: (Leaf, Leaf(name, weight)), st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False)),
    st.builds(lambda name: (Tree, Tree(Leaf("a"), [Tree(Leaf(name))], {name: Leaf("b")}, b"\xff")), st.text(max_size=5)),
)


def _holding(inner: st.SearchStrategy[_Pair]) -> st.SearchStrategy[_Pair]:
    return st.one_of(
        inner.map(lambda pair: (LIST[pair[0]], [pair[1], pair[1]])),
        inner.map(lambda pair: (TUPLE[pair[0], ...], (pair[1],))),
        inner.map(lambda pair: (DICT[str, pair[0]], {"key": pair[1]})),
        inner.map(lambda pair: (UNION[pair[0], None], pair[1])),
        st.lists(inner, min_size=1, max_size=3).map(
            lambda pairs: (TUPLE[tuple(one for one, _ in pairs)], tuple(value for _, value in pairs))
        ),
    )


_PAIRS = st.recursive(_LEAVES, _holding, max_leaves=6)


def _both_ways(value: Any) -> list[Any]:
    return [json.loads(json_codec().encode(value)), msgspec.msgpack.decode(msgspec.msgpack.encode(value))]


@given(_PAIRS)
def test_what_travelled_is_what_was_sent(pair: _Pair) -> None:
    annotation, value = pair
    check = check_for(annotation, "here")
    for travelled in _both_ways(value):
        assert check(travelled) == value


def _places(value: Any, path: str = "$") -> Iterator[tuple[str, Any, Any]]:
    """Yield the path of each value that is in another, and what it is in."""
    pairs = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    for step, held in pairs:
        at = f"{path}.{step}" if isinstance(step, str) and step.isidentifier() else f"{path}[{step!r}]"
        yield at, value, step
        yield from _places(held, at)


@given(_PAIRS, st.data())
def test_what_is_wrong_anywhere_is_found_there(pair: _Pair, data: st.DataObject) -> None:
    annotation, value = pair
    travelled = _both_ways(value)[1]
    places = [(at, within, step) for at, within, step in _places(travelled) if not at.endswith(".size")]  # which is not read
    if not places:
        return
    at, within, step = data.draw(st.sampled_from(places))
    within[step] = date(2026, 1, 1)  # of no type that travels
    with pytest.raises(Mismatch) as caught:
        check_for(annotation, "here")(travelled)
    assert caught.value.where == at
    assert caught.value.actual == "date"
