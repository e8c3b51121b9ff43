"""A contract of a service as JSON Schema."""

# mypy: disable-error-code="empty-body"
from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, make_dataclass
from datetime import date
from typing import Any, Literal, NotRequired, TypedDict

import jsonschema_rs
import pytest

from annexe_sdk import Service
from annexe_sdk.checks import Mismatch, check_for
from annexe_sdk.service_schema import DIALECT, schema_of

TUPLE: Any = tuple


@dataclass
class Word:
    text: str
    at: int
    kind: Literal["noun", "verb"] = "noun"
    below: list[Word] = field(default_factory=list)


class Options(TypedDict):
    limit: int
    locale: NotRequired[str]


class Tokenizer(Service, name="tokenizer"):
    def count(self, text: str, limit: int = 10) -> int:
        """How many words there are."""

    def words(self, texts: list[str], options: Options | None = None) -> list[Word]: ...

    def pair(self) -> tuple[int, str]: ...

    def table(self) -> dict[str, float]: ...

    def raw(self, audio: bytes) -> bytes | None: ...

    def anything(self, value: Any) -> tuple[int, ...]: ...

    def tale(self, chunks: Iterator[Word], loud: bool) -> str: ...

    async def tell(self, about: str) -> AsyncIterator[bytes]: ...


SCHEMA = schema_of(Tokenizer)["methods"]


def bare(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in ("$schema", "$id")}


def test_arguments_are_a_list_whose_end_may_be_left_out() -> None:
    assert bare(SCHEMA["count"]["params"]) == {
        "type": "array",
        "prefixItems": [{"type": "string", "title": "text"}, {"type": "integer", "title": "limit"}],
        "items": False,
        "minItems": 1,
        "maxItems": 2,
    }
    assert SCHEMA["count"]["description"] == "How many words there are."
    assert bare(SCHEMA["pair"]["params"]) == {"type": "array", "items": False, "minItems": 0, "maxItems": 0}
    assert (SCHEMA["count"]["result"]["$schema"], SCHEMA["count"]["result"]["$id"]) == (DIALECT, "urn:annexe:svc.tokenizer.count:result")


def test_types_become_schemas_of_what_travels() -> None:
    assert bare(SCHEMA["pair"]["result"])["prefixItems"] == [{"type": "integer"}, {"type": "string"}]
    assert bare(SCHEMA["table"]["result"]) == {"type": "object", "additionalProperties": {"type": "number"}}
    assert bare(SCHEMA["raw"]["result"]) == {"anyOf": [{"type": "string", "contentEncoding": "base64"}, {"type": "null"}]}
    assert bare(SCHEMA["anything"]["result"]) == {"type": "array", "items": {"type": "integer"}}
    words = SCHEMA["words"]["result"]
    assert words["items"] == {"$ref": "#/$defs/Word"}
    assert words["$defs"]["Word"]["required"] == ["text", "at"]
    assert words["$defs"]["Word"]["properties"]["below"] == {"type": "array", "items": {"$ref": "#/$defs/Word"}}
    assert SCHEMA["words"]["params"]["$defs"]["Options"]["required"] == ["limit"]


def test_streams_are_described_by_their_items() -> None:
    tale, tell = SCHEMA["tale"], SCHEMA["tell"]
    assert tale["params"]["prefixItems"] == [{"type": "boolean", "title": "loud"}]
    assert (tale["params"]["minItems"], tale["stream_in"]["$ref"], bare(tale["result"])) == (1, "#/$defs/Word", {"type": "string"})
    assert "stream_out" not in tale and "result" not in tell
    assert bare(tell["stream_out"]) == {"type": "string", "contentEncoding": "base64"}


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ([], True),
        ([{"text": "a", "at": 1}], True),
        ([{"text": "a", "at": 1, "below": [{"text": "b", "at": 2, "kind": "verb"}]}], True),
        ([{"text": "a", "at": 1, "newer": True}], True),
        ([{"text": "a"}], False),
        ([{"text": "a", "at": "1"}], False),
        ([{"text": "a", "at": 1, "kind": "other"}], False),
        ([{"text": "a", "at": 1, "below": [{"text": 3, "at": 1}]}], False),
        ({}, False),
    ],
)
def test_schema_admits_what_the_check_of_answers_takes(value: Any, fits: bool) -> None:
    assert jsonschema_rs.validator_for(SCHEMA["words"]["result"]).is_valid(value) is fits
    check = check_for(list[Word], "here")
    try:
        check(value)
    except Mismatch:
        assert not fits
    else:
        assert fits


def test_what_is_no_contract_or_does_not_travel_is_refused() -> None:
    class Calendar(Service, name="calendar"):
        def today(self) -> date: ...

    with pytest.raises(TypeError, match=r"Calendar\.today: an answer cannot be held against date"):
        schema_of(Calendar)
    with pytest.raises(TypeError, match="expected the name of a service or its contract"):
        schema_of(Word)


def test_two_classes_of_one_name_are_told_apart() -> None:
    first, second = make_dataclass("Same", [("value", int)]), make_dataclass("Same", [("value", str)])

    class Both(Service, name="both"):
        def ask(self, one: Any) -> Any: ...

    Both._annexe_contract.methods["ask"].function.__annotations__.update({"one": first, "return": TUPLE[first, second]})
    assert sorted(schema_of(Both)["methods"]["ask"]["result"]["$defs"]) == ["Same", "Same1"]
