# mypy: disable-error-code="empty-body"
from __future__ import annotations

import datetime
import decimal
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NotRequired, get_type_hints, is_typeddict

import msgspec
import pydantic
import pytest

from annexe.contract import ExtensionPoint, HookSpec, Place, capability_definition, definition_of, export_stub, hook, value_type
from annexe.contract.stub_types import StubTypes
from tests.unit.contract import models
from tests.unit.contract.models import Account, Camel, ChatRequest, Color, Row, Tree
from tests.unit.contract.test_specs import Chat, Orders, SpeechToText


def loaded(stub: str) -> types.ModuleType:
    module = types.ModuleType("stub")
    exec(compile(stub, "stub.py", "exec", dont_inherit=True), module.__dict__)
    return module


def expression(annotation: Any) -> tuple[str, str]:
    types_ = StubTypes()
    text = types_.expression(value_type(annotation, Place("X", "y"), role="it").schema())
    return text, "\n".join(types_.lines)


def test_stub_of_a_spec_is_a_module_with_types_and_signatures() -> None:
    stub = export_stub(definition_of(Chat))
    module = loaded(stub)
    hints = get_type_hints(module.on_request)
    assert is_typeddict(hints["request"])
    assert hints["return"] is hints["request"] is module.ChatRequest
    assert hints["ctx"].__name__ == "Context"
    fields = get_type_hints(module.ChatRequest, vars(module), include_extras=True)
    assert (fields["model"], fields["messages"].__args__) == (str, (module.Message,))
    assert fields["color"] == NotRequired[Literal["blue", "red"]]
    assert get_type_hints(module.on_chunks)["return"] == Iterator[str]
    assert get_type_hints(module.answer)["return"] == module.Reply | None
    assert get_type_hints(module.on_start)["return"] is type(None)
    assert '# plugin.toml, under [provides.hooks]: "chat.on_request" = { revision = 3 }' in stub
    assert '# @plugin.filter("chat.on_request")' in stub
    assert "# Respond carries Reply." in stub
    assert "tenant: str, ctx: Context" in stub


def test_stub_of_an_extension_point_is_the_class_to_implement() -> None:
    stub = export_stub(definition_of(SpeechToText))
    point = loaded(stub).SpeechToText
    assert get_type_hints(point.transcribe)["audio"] == bytes | str
    assert "def words(self, audio: Iterator[bytes | str], language: str, ctx: Context) -> Iterator[str]: ..." in stub


def test_stub_of_several_contracts_is_one_module_that_has_each_type_once() -> None:
    stub = export_stub(definition_of(Chat), definition_of(SpeechToText), capability_definition(Orders), definition_of(Chat))
    module = loaded(stub)
    assert module.SpeechToText
    assert module.Orders
    assert "Hooks of 'chat', revision 3; Extension point 'speech-to-text', revision" in str(module.__doc__)
    assert stub.count("class Reply(TypedDict") == 1


def test_stub_of_a_capability_has_defaults_and_no_context() -> None:
    stub = export_stub(capability_definition(Orders))
    assert loaded(stub).Orders
    assert "def find(self, id: int, deep: bool = ...) -> dict[str, int]: ..." in stub


class Custom(pydantic.BaseModel):
    anything: dict[str, Any]
    fixed: Literal["only"] = "only"
    pair: tuple[int, str] = (1, "a")
    rest: pydantic.JsonValue = None


Names = pydantic.RootModel[list[str]]


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (str | None, "str | None"),
        (list[int] | dict[str, bool], "list[int] | dict[str, bool]"),
        (float, "float"),
        (Any, "Any"),
        (list, "list[Any]"),
        (list[Any], "list[Any]"),
        (dict[str, Any], "dict[str, Any]"),
        (tuple[int, str], "list[Any]"),
        (Literal["a", 1, None], "Literal[None, 1, 'a']"),
        (Color, "Literal['blue', 'red']"),
        (datetime.datetime, "str"),
        (decimal.Decimal, "str"),
        (Row, "list[Any]"),
        (Names, "list[str]"),
        (Annotated[int, msgspec.Meta(extra_json_schema={"type": "integer"})], "int"),
    ],
    ids=str,
)
def test_type_has_its_expression(annotation: Any, text: str) -> None:
    written, lines = expression(annotation)
    assert set(written.split(" | ")) == set(text.split(" | "))
    assert lines == ""


def test_recursive_class_is_defined_once() -> None:
    text, lines = expression(Tree)
    assert text == "Tree"
    assert lines.count("class Tree(TypedDict):") == 1
    assert "children: NotRequired[list[Tree]]" in lines


def test_field_that_is_no_identifier_makes_the_functional_form() -> None:
    text, lines = expression(Camel)
    assert text == "Camel"
    assert "Camel = TypedDict(\"Camel\", {\n    'first-name': 'str',\n})" in lines


def test_pydantic_model_becomes_a_class() -> None:
    _, lines = expression(Custom)
    assert "anything: dict[str, Any]" in lines
    assert "fixed: NotRequired[Literal['only']]" in lines
    assert "rest: NotRequired[Any]" in lines


def test_two_classes_of_one_name_get_two_names() -> None:
    class Company(pydantic.BaseModel):
        size: int

    class Both(HookSpec, name="both"):
        @hook.action
        async def one(self, left: models.Company, right: models.Company, third: Account) -> None: ...

    types_ = StubTypes()
    place = Place("X", "y")
    assert types_.expression(value_type(models.Company, place, role="it").schema()) == "Company"
    assert types_.expression(value_type(Company, place, role="it").schema()) == "Company_"
    assert types_.expression(value_type(models.Company, place, role="it").schema()) == "Company"
    assert loaded(export_stub(definition_of(Both))).Company


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        pytest.param({"const": "a"}, "Literal['a']", id="const"),
        pytest.param({"oneOf": [{"type": "string"}, {"type": "null"}]}, "str | None", id="one-of"),
        pytest.param({"$ref": "#/$defs/A", "$defs": {"A": {"type": "array", "items": {"$ref": "#/$defs/A"}}}}, "list[Any]", id="recursive"),
        pytest.param({"not": {}}, "Any", id="unknown"),
        pytest.param({"type": ["string", "null"]}, "Any", id="list-of-types"),
    ],
)
def test_schema_from_elsewhere_has_its_expression(schema: dict[str, Any], text: str) -> None:
    assert StubTypes().expression(schema) == text


@pytest.mark.parametrize(("title", "name"), [("Box[int]", "Box_int"), ("class", "T_class"), ("1st", "T_1st")])
def test_title_that_is_no_identifier_becomes_one(title: str, name: str) -> None:
    types_ = StubTypes()
    assert types_.expression({"type": "object", "title": title, "properties": {}}) == name
    assert types_.lines[-2:] == [f"class {name}(TypedDict):", "    pass"]


def test_stub_of_an_empty_point_needs_no_types() -> None:
    class Ping(ExtensionPoint, name="ping"):
        async def ping(self) -> None: ...

    assert "TypedDict):" not in export_stub(definition_of(Ping))
    assert loaded(export_stub(definition_of(Ping))).Ping


def test_chat_request_keeps_its_optional_fields() -> None:
    _, lines = expression(ChatRequest)
    assert "temperature: NotRequired[float | None]" in lines
