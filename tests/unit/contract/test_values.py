from __future__ import annotations

import datetime
import enum
import json
import math
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, Literal

import jsonschema_rs
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from annexe.contract import CodecName, InvalidValueError, Place, ValueType, value_type
from annexe.errors import ContractError
from annexe_sdk.wire import MAX_NESTING
from tests.unit.contract import models
from tests.unit.contract.models import (
    Account,
    Camel,
    ChatRequest,
    Circle,
    Color,
    Company,
    Event,
    Label,
    Loose,
    Maybe,
    Message,
    Mixed,
    PickyRequest,
    Point,
    Reply,
    Row,
    Strict,
    Ticket,
    Tree,
)

PLACE = Place("Chat", "on_request")
CODECS: tuple[CodecName, ...] = ("msgpack", "json")


def made(annotation: Any) -> ValueType:
    return value_type(annotation, PLACE, role="the result")


def encoded(value: Any, codec: CodecName) -> bytes:
    return msgspec.msgpack.encode(value) if codec == "msgpack" else msgspec.json.encode(value)


def refusal(annotation: Any, raw: bytes, codec: CodecName) -> InvalidValueError:
    with pytest.raises(InvalidValueError) as caught:
        made(annotation).decoder(codec)(raw)
    return caught.value


TEXT = st.text(max_size=8)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
INT64 = st.integers(-(2**63), 2**64 - 1)
MESSAGES = st.builds(Message, role=st.sampled_from(["user", "assistant"]), content=TEXT, weight=FINITE)
TREES = st.recursive(
    st.builds(Tree, name=TEXT), lambda below: st.builds(Tree, name=TEXT, children=st.lists(below, max_size=3)), max_leaves=6
)
PLAIN = st.recursive(
    st.none() | st.booleans() | INT64 | FINITE | TEXT,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(TEXT, below, max_size=3),
    max_leaves=8,
)
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    ChatRequest: st.builds(
        ChatRequest,
        model=TEXT,
        messages=st.lists(MESSAGES, max_size=3),
        temperature=st.none() | FINITE,
        tags=st.dictionaries(TEXT, TEXT, max_size=3),
        attachment=st.binary(max_size=8),
        color=st.sampled_from(Color),
    ),
    Tree: TREES,
    Event: st.builds(
        Event,
        at=st.datetimes(timezones=st.just(datetime.UTC)),
        id=st.uuids(),
        price=st.decimals(allow_nan=False, allow_infinity=False),
        payload=st.binary(max_size=8),
    ),
    Reply: st.fixed_dictionaries({"text": TEXT}, optional={"score": FINITE}),
    Mixed: st.builds(
        Mixed,
        pair=st.tuples(INT64, FINITE),
        numbers=st.lists(FINITE, max_size=3).map(tuple),
        either=FINITE | st.none() | st.lists(FINITE, max_size=2) | st.dictionaries(TEXT, FINITE, max_size=2),
        shape=st.builds(Circle, radius=FINITE) | st.builds(Label, text=TEXT) | TEXT,
        documented=FINITE,
    ),
    Point: st.builds(Point, x=st.integers(0, 2**64 - 1), y=FINITE),
    Maybe: st.builds(Maybe) | st.builds(Maybe, ratio=FINITE),
    Camel: st.builds(Camel, first_name=TEXT),
    Row: st.recursive(st.builds(Row, id=INT64), lambda below: st.builds(Row, id=INT64, below=st.lists(below, max_size=2)), max_leaves=4),
    Any: PLAIN,
    Account: st.builds(Account, name=TEXT.filter(lambda name: name != "key"), age=st.integers(0, 2**63), rate=FINITE, token=st.just(b"ab")),
}
TYPES = [pytest.param(kind, id=getattr(kind, "__name__", str(kind))) for kind in VALUES]
FAST = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("kind", TYPES)
@FAST
@given(data=st.data())
def test_value_sent_and_read_back_is_equal_in_both_codecs(kind: Any, data: st.DataObject) -> None:
    value = data.draw(VALUES[kind])
    declared = made(kind)
    wire = declared.to_wire(value)
    for codec in CODECS:
        assert declared.decoder(codec)(encoded(wire, codec)) == value
    assert declared.from_builtins(msgspec.to_builtins(wire, builtin_types=(bytes,))) == value


@pytest.mark.parametrize("kind", TYPES)
@FAST
@given(data=st.data())
def test_schema_accepts_every_value_that_is_sent_as_json(kind: Any, data: st.DataObject) -> None:
    declared = made(kind)
    instance = json.loads(encoded(declared.to_wire(data.draw(VALUES[kind])), "json"))
    jsonschema_rs.Draft202012Validator(declared.schema()).validate(instance)


@pytest.mark.parametrize("kind", TYPES)
@FAST
@given(plain=PLAIN | st.fixed_dictionaries({}, optional={"name": PLAIN, "text": PLAIN, "x": PLAIN, "children": PLAIN, "age": PLAIN}))
def test_codecs_agree_on_any_plain_content(kind: Any, plain: Any) -> None:
    declared = made(kind)
    outcomes = []
    for codec in CODECS:
        try:
            outcomes.append(("value", declared.decoder(codec)(encoded(plain, codec))))
        except InvalidValueError as error:
            outcomes.append(("refused", error.path))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("kind", TYPES)
@FAST
@given(raw=st.binary(max_size=64))
def test_any_bytes_give_a_value_or_the_one_error(kind: Any, codec: CodecName, raw: bytes) -> None:
    try:
        made(kind).decoder(codec)(raw)
    except InvalidValueError as error:
        assert error.path.startswith("$")


@pytest.mark.parametrize(
    ("kind", "value", "path", "expected", "actual"),
    [
        pytest.param(list[PickyRequest], [{"text": 1}], "$[0].text", "str", "int", id="type"),
        pytest.param(dict[str, int], {"a": "b"}, "$[...]", "int", "str", id="value-of-dict"),
        pytest.param(int | None, "a", "$", "int | null", "str", id="union"),
        pytest.param(Tree, {}, "$", "an object with the field name", "an object without it", id="missing-field"),
        pytest.param(Strict, {"a": 1, "b": 1}, "$", "an object without unknown fields", "the field b", id="unknown-field"),
        pytest.param(Color, "green", "$", "one of 'red', 'blue'", "'green'", id="enum"),
        pytest.param(Literal["a", "b"], "c", "$", "one of 'a', 'b'", "'c'", id="literal"),
        pytest.param(Point, {"x": -1}, "$.x", "int >= 0", "something else", id="constraint"),
        pytest.param(uuid.UUID, "x", "$", "UUID", "Invalid UUID", id="text-of-a-kind"),
        pytest.param(list[uuid.UUID], ["x"], "$[0]", "a valid value", "Invalid UUID", id="text-of-a-kind-inside"),
        pytest.param(list[PickyRequest], [{"text": "value"}], "$[0]", "a valid value", "not this text", id="own-check-value-error"),
        pytest.param(PickyRequest, {"text": "key"}, "$", "PickyRequest", "KeyError: 'no such text'", id="own-check-any-error"),
    ],
)
@pytest.mark.parametrize("codec", CODECS)
def test_wrong_value_is_refused_with_path_expected_and_actual(
    kind: Any, value: Any, path: str, expected: str, actual: str, codec: CodecName
) -> None:
    error = refusal(kind, encoded(value, codec), codec)
    assert (error.path, error.expected, error.actual) == (path, expected, actual)
    assert str(error) == f"at {path}: expected {expected}, got {actual}"


@dataclass
class Dish:
    course: Literal["starter", "main"] | None = None
    colours: dict[str, list[Color]] = field(default_factory=dict)
    size: tuple[int, Literal["g", "kg"]] = (1, "g")


@pytest.mark.parametrize(
    ("value", "path", "expected"),
    [
        pytest.param({"course": "sweet"}, "$[0].course", "one of 'main', 'starter'", id="field"),
        pytest.param({"colours": {"of": ["red", "green"]}}, "$[0].colours[...][1]", "one of 'red', 'blue'", id="dict-and-list"),
        pytest.param({"size": [1, "lb"]}, "$[0].size[1]", "one of 'g', 'kg'", id="tuple"),
    ],
)
@pytest.mark.parametrize("codec", CODECS)
def test_values_that_are_declared_further_down_are_named(value: Any, path: str, expected: str, codec: CodecName) -> None:
    error = refusal(list[Dish | None], encoded([value], codec), codec)
    assert (error.path, error.expected) == (path, expected)


def test_many_declared_values_are_named_only_in_part() -> None:
    many = enum.Enum("many", {f"name_{number}": f"value {number}" for number in range(100)})  # type: ignore[misc]
    error = refusal(many, msgspec.json.encode("other"), "json")
    assert error.expected.startswith("one of 'value 0', 'value 1'") and len(error.expected) == 200


def test_what_is_sent_in_place_of_a_dataclass_is_named_by_its_type_alone() -> None:
    with pytest.raises(InvalidValueError) as caught:
        made(Priced).to_wire({"price": 1.0})
    assert (caught.value.expected, caught.value.actual) == ("Priced", "dict")


@dataclass
class Priced:
    price: float
    items: list[float]


def test_key_of_the_wrong_type_is_refused_at_the_key() -> None:
    error = refusal(dict[str, int], msgspec.msgpack.encode({1: 1}), "msgpack")
    assert (error.path, error.expected, error.actual) == ("$[key]", "str", "int")


def test_long_value_is_quoted_only_in_part() -> None:
    error = refusal(Color, msgspec.json.encode("x" * 10_000), "json")
    assert len(error.actual) == 200
    assert error.actual.endswith("…")


@pytest.mark.parametrize(
    ("raw", "codec", "actual"),
    [
        pytest.param(b'{"a":', "json", "Input data was truncated", id="truncated-json"),
        pytest.param(b"\xa5ab", "msgpack", "Input data was truncated", id="truncated-msgpack"),
        pytest.param(b'"\xff"', "json", "UnicodeDecodeError", id="not-utf-8-json"),
        pytest.param(b"\xa1\xff", "msgpack", "UnicodeDecodeError", id="not-utf-8-msgpack"),
        pytest.param(b"[" * 100_000, "json", "RecursionError", id="deep-json"),
        pytest.param(b"\x91" * 100_000, "msgpack", "RecursionError", id="deep-msgpack"),
    ],
)
@pytest.mark.parametrize("kind", [Any, Account], ids=["native", "pydantic"])
def test_malformed_bytes_are_refused_at_the_root(kind: Any, raw: bytes, codec: CodecName, actual: str) -> None:
    error = refusal(kind, raw, codec)
    assert error.path == "$"
    assert actual in error.actual


@pytest.mark.parametrize("buffer", [bytes, bytearray, memoryview, msgspec.Raw])
@pytest.mark.parametrize("kind", [Tree, Company], ids=["native", "pydantic"])
def test_decoder_takes_every_kind_of_buffer(kind: Any, buffer: Any) -> None:
    value = {"name": "a", "title": "a"}
    for codec in CODECS:
        assert made(kind).decoder(codec)(buffer(encoded(value, codec))) == made(kind).from_builtins(value)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("kind", "wrap", "path"),
    [
        pytest.param(float, lambda bad: bad, "$", id="float"),
        pytest.param(Any, lambda bad: {"a": [1.0, bad]}, "$['a'][1]", id="any"),
        pytest.param(list[float], lambda bad: [0.5, bad], "$[1]", id="list"),
        pytest.param(dict[str, float | None], lambda bad: {"a": None, "b": bad}, "$['b']", id="dict"),
        pytest.param(ChatRequest, lambda bad: ChatRequest("m", [Message("user", "a"), Message("user", "b", bad)]), "$.messages[1].weight"),
        pytest.param(Reply, lambda bad: {"text": "", "score": bad}, "$.score", id="typed-dict"),
        pytest.param(Maybe, lambda bad: Maybe(bad), "$.ratio", id="struct"),
        pytest.param(Mixed, lambda bad: Mixed((1, bad), (), None, ""), "$.pair[1]", id="tuple"),
        pytest.param(Mixed, lambda bad: Mixed((1, 0.5), (0.5, bad), None, ""), "$.numbers[1]", id="tuple-of-any-length"),
        pytest.param(Mixed, lambda bad: Mixed((1, 0.5), (), {"k": bad}, ""), "$.either['k']", id="union-dict"),
        pytest.param(Mixed, lambda bad: Mixed((1, 0.5), (), [bad], ""), "$.either[0]", id="union-list"),
        pytest.param(Mixed, lambda bad: Mixed((1, 0.5), (), None, Circle(bad)), "$.shape.radius", id="union-struct"),
        pytest.param(Mixed, lambda bad: Mixed((1, 0.5), (), None, "", bad), "$.documented", id="annotated"),
        pytest.param(Account, lambda bad: Account(name="a", age=1, rate=bad), "$['rate']", id="pydantic"),
    ],
)
def test_number_that_is_not_finite_is_refused_by_sender_and_receiver(kind: Any, wrap: Any, path: str, bad: float) -> None:
    declared = made(kind)
    with pytest.raises(InvalidValueError) as caught:
        declared.to_wire(wrap(bad))
    assert (caught.value.path, caught.value.expected, caught.value.actual) == (path, "a finite number", str(bad))
    raw = msgspec.msgpack.encode(wrap(bad).model_dump() if kind is Account else wrap(bad))
    assert refusal(kind, raw, "msgpack").path == path


@pytest.mark.parametrize(
    ("kind", "raw", "path"),
    [
        pytest.param(int, b"%d" % 2**64, "$", id="int"),
        pytest.param(Loose, b'{"extra": null, "count": %d}' % -(2**63 + 1), "$.count", id="field"),
        pytest.param(Loose, b'{"extra": [%d]}' % 2**70, "$.extra[0]", id="any"),
        pytest.param(int | list[int], b"[%d]" % 2**64, "$[0]", id="union"),
        pytest.param(int | list[int], b"%d" % 2**64, "$", id="union-int"),
        pytest.param(Account, b'{"name": "a", "age": %d}' % 2**64, "$['age']", id="pydantic"),
    ],
)
def test_integer_that_messagepack_cannot_carry_is_refused_in_json(kind: Any, raw: bytes, path: str) -> None:
    error = refusal(kind, raw, "json")
    assert (error.path, error.expected) == (path, "an integer of at most 64 bits")


@pytest.mark.parametrize(
    ("value", "path", "actual"),
    [
        pytest.param({"a": b"x"}, "$.extra['a']", "bytes", id="bytes"),
        pytest.param([datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)], "$.extra[0]", "datetime", id="instant"),
        pytest.param({1: "a"}, "$.extra[key]", "int", id="key"),
    ],
)
def test_untyped_place_takes_plain_json_only(value: Any, path: str, actual: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        made(Loose).to_wire(Loose(value))
    assert (caught.value.path, caught.value.actual) == (path, actual)
    assert refusal(Loose, msgspec.msgpack.encode(Loose(value)), "msgpack").path == path


@pytest.mark.parametrize(
    "items",
    [[], ["a", None, True], [1.5] * 3, [1, 2**64 - 1, -(2**63)], [1, 1.5, "a", [None]], [True, 1]],
    ids=["none", "still", "f", "i", "all", "b"],
)
def test_list_in_an_untyped_place_may_hold_any_scalars(items: list[Any]) -> None:
    assert made(Loose).to_wire(Loose(items)).extra == items


@pytest.mark.parametrize(
    ("items", "path"),
    [
        ([1.5, float("nan")], "$.extra[1]"),
        ([1, 2, 2**64], "$.extra[2]"),
        ([-(2**63) - 1], "$.extra[0]"),
        (["a", b"b"], "$.extra[1]"),
        ([None, 1, float("inf")], "$.extra[2]"),
    ],
)
def test_list_in_an_untyped_place_names_the_item_that_cannot_travel(items: list[Any], path: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        made(Loose).to_wire(Loose(items))
    assert caught.value.path == path


def test_untyped_place_in_a_union_takes_plain_json() -> None:
    declared = made(list[int | Any])
    assert declared.decoder("msgpack")(msgspec.msgpack.encode([1, "a", None])) == [1, "a", None]
    assert refusal(list[int | Any], msgspec.msgpack.encode([b"x"]), "msgpack").path == "$[0]"


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


def tree(levels: int) -> dict[str, Any]:
    # A tree's object and its list of children are a level each.
    value: dict[str, Any] = {"name": "leaf"}
    for _ in range(levels):
        value = {"name": "", "children": [value]}
    return value


@pytest.mark.parametrize("codec", CODECS)
def test_nesting_is_taken_up_to_the_limit_and_refused_beyond(codec: CodecName) -> None:
    limit = f"at most {MAX_NESTING} levels of nesting"
    assert made(Any).decoder(codec)(encoded(nested(MAX_NESTING), codec)) == nested(MAX_NESTING)
    assert refusal(Any, encoded(nested(MAX_NESTING + 1), codec), codec).expected == limit
    assert isinstance(made(Tree).decoder(codec)(encoded(tree(31), codec)), Tree)
    assert refusal(Tree, encoded(tree(32), codec), codec).expected == limit
    with pytest.raises(InvalidValueError, match=limit):
        made(Any).to_wire(nested(MAX_NESTING + 1))
    with pytest.raises(InvalidValueError, match=limit):
        made(Tree).from_builtins(tree(MAX_NESTING))


@pytest.mark.parametrize(
    ("kind", "native"),
    [
        pytest.param(str, True, id="text"),
        pytest.param(bytes | None, True, id="bytes"),
        pytest.param(list[PickyRequest], True, id="no-floats"),
        pytest.param(Camel, True, id="renamed"),
        pytest.param(float, False, id="float"),
        pytest.param(Any, False, id="any"),
        pytest.param(Tree, False, id="recursive"),
        pytest.param(Event, False, id="instant"),
        pytest.param(Company, False, id="pydantic"),
    ],
)
def test_native_says_that_nothing_is_to_be_done_before_encoding(kind: Any, native: bool) -> None:
    assert made(kind).native is native


def test_native_value_goes_to_the_wire_as_it_is() -> None:
    value = [PickyRequest("a")]
    assert made(list[PickyRequest]).to_wire(value) is value


def test_instant_goes_to_the_wire_as_text_and_bytes_as_bytes() -> None:
    at = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    event = Event(at, uuid.UUID(int=1), Decimal("1.50"), b"\xff")
    wire = made(Event).to_wire(event)
    assert wire == {"at": "2026-01-02T00:00:00Z", "id": str(uuid.UUID(int=1)), "price": "1.50", "payload": b"\xff"}


@pytest.mark.parametrize(
    ("kind", "admits"),
    [(None | int, True), (Any, True), (Literal["a", None], True), (Company | None, True), (int, False), (Tree, False), (Company, False)],
)
def test_admits_none_tells_whether_none_is_a_value(kind: Any, admits: bool) -> None:
    assert made(kind).admits_none is admits


@pytest.mark.parametrize("kind", [ChatRequest, Mixed, Event, Company], ids=str)
def test_value_of_another_type_is_refused_by_the_sender(kind: Any) -> None:
    with pytest.raises(InvalidValueError) as caught:
        made(kind).to_wire(object())
    assert (caught.value.path, caught.value.expected) == ("$", kind.__name__)
    assert caught.value.actual.startswith("object")


def test_bytes_are_base64_in_json_and_bin_in_messagepack() -> None:
    declared = made(bytes)
    assert declared.decoder("json")(b'"/w=="') == b"\xff"
    assert declared.decoder("msgpack")(b"\xc4\x01\xff") == b"\xff"
    assert declared.schema() == {"type": "string", "contentEncoding": "base64"}


def test_pydantic_validator_decides_and_the_error_has_its_words() -> None:
    raw = msgspec.json.encode({"name": "a", "age": 1, "friends": [{"name": "b", "age": -1}]})
    error = refusal(Account, raw, "json")
    assert error.path == "$.friends[0].age"
    assert error.expected == "Input should be greater than or equal to 0"
    assert error.actual == "int -1"


def test_pydantic_missing_field_is_refused() -> None:
    error = refusal(Account | Company, msgspec.msgpack.encode({}), "msgpack")
    assert (error.path, error.actual) == ("$.Account.name", "nothing")


def test_pydantic_validator_that_raises_anything_is_refused() -> None:
    error = refusal(Account, msgspec.json.encode({"name": "key", "age": 1}), "json")
    assert (error.path, error.expected, error.actual) == ("$", "Account", "KeyError: 'no such name'")


def test_pydantic_model_inside_a_dataclass_is_validated() -> None:
    ticket = Ticket(Account(name="a", age=1), "n")
    declared = made(Ticket)
    for codec in CODECS:
        assert declared.decoder(codec)(encoded(declared.to_wire(ticket), codec)) == ticket
    assert refusal(Ticket, b'{"account": {"name": "a", "age": -1}}', "json").path == "$.account.age"


def test_pydantic_value_that_json_cannot_say_is_refused_by_the_sender() -> None:
    with pytest.raises(InvalidValueError) as caught:
        made(Account).to_wire(Account(name="a", age=1, token=b"\xff"))
    assert caught.value.expected == "Account"


class Shade(enum.Enum):
    HALF = 0.5


class WithPydantic(msgspec.Struct):
    account: Account


class Unfinished(msgspec.Struct):
    later: Missing  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("kind", "told", "instead"),
    [
        pytest.param(set[int], "holds the type set", "write list[...]", id="set"),
        pytest.param(list[frozenset[str]], "holds the type frozenset", "write list[...]", id="frozenset"),
        pytest.param(bytearray, "holds the type bytearray", "write bytes", id="bytearray"),
        pytest.param(complex, "holds the type complex", "write a dataclass", id="other-class"),
        pytest.param(dict[int, str], "a dict whose keys are not str", "write dict[str, ...]", id="keys"),
        pytest.param(ChatRequest | Tree, "cannot be sent", "write types that JSON can tell apart", id="two-dataclasses"),
        pytest.param(Shade, "cannot be sent", "write types", id="enum-of-floats"),
        pytest.param(WithPydantic, "cannot be sent", "write types", id="pydantic-in-struct"),
        pytest.param(Unfinished, "'Missing' is not defined", "define or import it at module level", id="unknown-name"),
    ],
)
def test_type_no_contract_can_use_is_refused_with_what_to_write(kind: Any, told: str, instead: str) -> None:
    with pytest.raises(ContractError) as caught:
        made(kind)
    assert caught.value.data == {"contract": "Chat", "method": "on_request"}
    assert caught.value.message.startswith("Chat.on_request: the result is declared ")
    assert told in caught.value.message
    assert instead in caught.value.message


def test_name_is_the_annotation_without_its_modules() -> None:
    assert made(Annotated[list[Tree] | None, "note"]).name == "Annotated[list[Tree] | None, 'note']"
    assert models.__name__ not in made(dict[str, Account]).name


@dataclass
class _Inner:
    word: str = "w"


@dataclass
class _Defaulted:
    text: str
    name: str = "world"
    inner: list[_Inner] = field(default_factory=list)
    maybe: _Inner | None = None


@dataclass(frozen=True)
class _FrozenDefaulted:
    text: str
    name: str = "world"


@pytest.mark.parametrize("codec", ["msgpack", "json"])
def test_defaults_of_a_partial_dataclass_travel_on(codec: CodecName) -> None:
    encode = msgspec.msgpack.encode if codec == "msgpack" else msgspec.json.encode
    partial = {"text": "hi", "inner": [{}], "maybe": {}}
    value = value_type(_Defaulted, Place("T"), role="result").decoder(codec)(encode(partial))
    assert value == _Defaulted("hi", inner=[_Inner()], maybe=_Inner())
    assert msgspec.to_builtins(value) == {"text": "hi", "name": "world", "inner": [{"word": "w"}], "maybe": {"word": "w"}}
    frozen = value_type(_FrozenDefaulted, Place("T"), role="result").decoder(codec)(encode({"text": "hi"}))
    assert msgspec.to_builtins(frozen) == {"text": "hi", "name": "world"}


def test_numbers_that_are_no_numbers_are_named_where_they_are_sent() -> None:
    numbers = value_type(list[float], Place("T"), role="result")
    with pytest.raises(InvalidValueError) as infinite:
        numbers.to_wire([1.0, math.inf])
    assert (infinite.value.path, infinite.value.expected) == ("$[1]", "a finite number")
    with pytest.raises(InvalidValueError) as text:
        numbers.to_wire([1.0, "two"])
    assert (text.value.path, text.value.expected) == ("$", "list[float]")


@dataclass
class _Two:
    left: float
    right: float


def test_two_numbers_of_an_object_are_looked_at_together() -> None:
    two = value_type(_Two, Place("T"), role="result")
    assert two.to_wire(_Two(1.0, 2.0)) == _Two(1.0, 2.0)
    with pytest.raises(InvalidValueError) as error:
        two.to_wire(_Two(1.0, math.nan))
    assert error.value.path == "$.right"
