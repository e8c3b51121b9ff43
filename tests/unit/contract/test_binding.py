from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from annexe.contract import CodecName, MethodDefinition, bind, capability_definition, decode_params, wire_params
from annexe.errors import InvalidParamsError
from tests.unit.contract.models import Company, Point


class Orders:
    name = "orders"

    async def find(self, id: int, label: str = "any", at: Point | None = None) -> None: ...

    async def nothing(self) -> None: ...

    async def plain(self, id: int, label: str) -> None: ...

    async def model(self, company: Company) -> None: ...

    async def upload(self, name: str, parts: AsyncIterator[bytes]) -> None: ...


METHODS = capability_definition(Orders).methods
FIND = METHODS["find"]
CODECS: tuple[CodecName, ...] = ("msgpack", "json")


def raw(value: Any, codec: CodecName) -> bytes:
    return msgspec.msgpack.encode(value) if codec == "msgpack" else msgspec.json.encode(value)


@pytest.mark.parametrize(
    ("args", "kwargs", "bound"),
    [
        pytest.param((1,), {}, (1, "any", None), id="defaults"),
        pytest.param((1, "b"), {"at": Point(1)}, (1, "b", Point(1)), id="both"),
        pytest.param((), {"label": "b", "id": 1}, (1, "b", None), id="by-name"),
        pytest.param((1, None), {}, (1, None, None), id="none-given"),
    ],
)
def test_bind_gives_one_value_for_each_parameter_in_order(args: tuple[Any, ...], kwargs: dict[str, Any], bound: tuple[Any, ...]) -> None:
    assert bind(FIND.params, args, kwargs) == bound


def test_bind_of_all_by_position_returns_the_arguments_themselves() -> None:
    args = (1, "b", None)
    assert bind(FIND.params, args, {}) is args


@pytest.mark.parametrize(
    ("args", "kwargs", "parameter", "told"),
    [
        pytest.param((), {}, "id", "needs parameter 'id'", id="missing"),
        pytest.param((1, 2, 3, 4), {}, "", "expected at most 3 arguments, got 4", id="too-many"),
        pytest.param((1,), {"name": 1}, "name", "has no parameter 'name', expected id, label, at", id="unknown"),
        pytest.param((1,), {"id": 1}, "id", "got parameter 'id' by position and by name", id="twice"),
    ],
)
def test_bind_refuses_arguments_that_do_not_fit(args: tuple[Any, ...], kwargs: dict[str, Any], parameter: str, told: str) -> None:
    with pytest.raises(InvalidParamsError) as caught:
        bind(FIND.params, args, kwargs, method=FIND.method)
    assert (caught.value.data["method"], caught.value.data["parameter"]) == ("cap.orders.find", parameter)
    assert caught.value.message == f"cap.orders.find: {told}."


def test_bind_without_parameters_refuses_a_name() -> None:
    with pytest.raises(InvalidParamsError, match="the call: has no parameter 'a', expected none"):
        bind((), (), {"a": 1})


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    ("sent", "values"),
    [
        pytest.param([1], (1, "any", None), id="array"),
        pytest.param([1, "b", {"x": 2}], (1, "b", Point(2)), id="full-array"),
        pytest.param({"at": {"x": 2}, "id": 1}, (1, "any", Point(2)), id="map"),
    ],
)
def test_params_from_a_plugin_become_typed_values(sent: Any, values: tuple[Any, ...], codec: CodecName) -> None:
    assert decode_params(FIND, raw(sent, codec), codec) == values
    assert decode_params(METHODS["nothing"], raw([], codec), codec) == ()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    ("sent", "parameter", "path", "expected", "actual"),
    [
        pytest.param([1, "b", {"x": -1}], "at", "$.x", "int >= 0", "something else", id="inside"),
        pytest.param({"id": "a"}, "id", "$", "int", "str", id="type"),
        pytest.param(7, "", "$", "object | array", "int", id="neither-array-nor-map"),
    ],
)
def test_params_of_the_wrong_type_are_refused(sent: Any, parameter: str, path: str, expected: str, actual: str, codec: CodecName) -> None:
    with pytest.raises(InvalidParamsError) as caught:
        decode_params(FIND, raw(sent, codec), codec)
    facts = caught.value.data
    assert (facts["method"], facts["parameter"], facts["path"]) == ("cap.orders.find", parameter, path)
    assert (set(facts["expected"].split(" | ")), facts["actual"]) == (set(expected.split(" | ")), actual)


@pytest.mark.parametrize(("bad", "codec"), [(b"[" * 100_000, "json"), (b"\x91" * 100_000, "msgpack"), (b"\xc1", "msgpack"), (b"", "json")])
def test_params_that_cannot_be_decoded_are_refused(bad: bytes, codec: CodecName) -> None:
    with pytest.raises(InvalidParamsError) as caught:
        decode_params(FIND, bad, codec)
    assert (caught.value.data["parameter"], caught.value.data["path"]) == ("", "$")


def test_native_arguments_go_to_the_wire_as_they_are() -> None:
    values = (1, "b")
    assert wire_params(METHODS["plain"].params, values) is values


def test_arguments_are_converted_where_their_type_needs_it_and_streams_left_out() -> None:
    assert wire_params(METHODS["model"].params, (Company(title="a"),)) == ({"title": "a"},)
    assert wire_params(METHODS["upload"].params, ("a", object())) == ("a",)


def test_argument_that_cannot_be_sent_is_refused() -> None:
    definition: MethodDefinition = FIND
    with pytest.raises(InvalidParamsError) as caught:
        wire_params(definition.params, (1, "b", Point(1, math.nan)), method=definition.method)
    assert caught.value.data == {
        "method": "cap.orders.find",
        "parameter": "at",
        "path": "$.y",
        "expected": "a finite number",
        "actual": "nan",
    } | {"method": caught.value.data["method"]}
