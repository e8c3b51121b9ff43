# mypy: disable-error-code="empty-body"
from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from annexe.contract import ExtensionPoint, HookSpec, capability_definition, definition_of, export_schema, hook
from tests.unit.contract.models import Account, ChatRequest, Message
from tests.unit.contract.test_specs import Chat, Orders, SpeechToText

OWNER = Account(name="a", age=1)
EXPORTED = export_schema([definition_of(Chat), definition_of(SpeechToText), capability_definition(Orders)])


def test_export_is_json_and_says_its_format() -> None:
    assert json.loads(json.dumps(EXPORTED)) == EXPORTED
    assert (EXPORTED["format"], EXPORTED["dialect"]) == (1, "https://json-schema.org/draft/2020-12/schema")
    assert (list(EXPORTED["hook_specs"]), list(EXPORTED["extensions"]), list(EXPORTED["capabilities"])) == (
        ["chat"],
        ["speech-to-text"],
        ["orders"],
    )


def test_export_of_a_hook_holds_all_an_author_needs() -> None:
    spec = EXPORTED["hook_specs"]["chat"]
    request = spec["hooks"]["on_request"]
    assert spec["revision"] == 3
    assert {key: request[key] for key in ("hook", "kind", "on_failure", "budget_ms", "method", "stream_in", "stream_out")} == {
        "hook": "chat.on_request",
        "kind": "filter",
        "on_failure": "closed",
        "budget_ms": 50.0,
        "method": "hook.chat.on_request",
        "stream_in": None,
        "stream_out": None,
    }
    assert [(param["name"], param["required"], param.get("default")) for param in request["params"]] == [
        ("request", True, None),
        ("tenant", False, "none"),
    ]
    assert request["result"]["$defs"]["ChatRequest"]["required"] == ["model", "messages"]
    assert request["responds"]["$defs"]["Reply"]["required"] == ["text"]


def test_export_of_streams_has_the_items_and_not_the_parameter() -> None:
    chunks = EXPORTED["hook_specs"]["chat"]["hooks"]["on_chunks"]
    assert [param["name"] for param in chunks["params"]] == ["model"]
    assert (chunks["stream_in"]["type"], chunks["stream_out"]["type"], chunks["result"]) == ("string", "string", None)
    assert chunks["budget_ms"] == pytest.approx(5.5)


def test_export_of_extensions_and_capabilities_has_their_methods() -> None:
    transcribe = EXPORTED["extensions"]["speech-to-text"]["methods"]["transcribe"]
    assert EXPORTED["extensions"]["speech-to-text"]["revision"] == 2
    assert transcribe["method"] == "ext.speech-to-text.transcribe"
    assert transcribe["params"][0]["schema"]["contentEncoding"] == "base64"
    find = EXPORTED["capabilities"]["orders"]["methods"]["find"]
    assert (find["method"], find["params"][1]["default"], find["result"]["type"]) == ("cap.orders.find", False, "object")


def all_schemas(exported: Any) -> list[dict[str, Any]]:
    if isinstance(exported, dict):
        own = [exported] if "$id" in exported else []
        return own + [found for value in exported.values() for found in all_schemas(value)]
    if isinstance(exported, list):
        return [found for value in exported for found in all_schemas(value)]
    return []


def test_every_exported_schema_stands_alone_and_has_an_id_of_its_own() -> None:
    schemas = all_schemas(EXPORTED)
    assert len({schema["$id"] for schema in schemas}) == len(schemas) == 19
    for schema in schemas:
        jsonschema_rs.Draft202012Validator(schema)


def test_exported_schema_accepts_a_value_and_refuses_another() -> None:
    validator = jsonschema_rs.Draft202012Validator(EXPORTED["hook_specs"]["chat"]["hooks"]["on_request"]["params"][0]["schema"])
    value = json.loads(msgspec.json.encode(ChatRequest("m", [Message("user", "a")])))
    assert validator.is_valid(value)
    value["messages"][0]["role"] = "nobody"
    assert not validator.is_valid(value)


def test_default_of_bytes_is_exported_as_base64_and_of_a_model_as_an_object() -> None:
    class Files(ExtensionPoint, name="files"):
        async def save(self, content: bytes = b"\xff", owner: Account = OWNER) -> None: ...

    params = export_schema([definition_of(Files)])["extensions"]["files"]["methods"]["save"]["params"]
    assert params[0]["default"] == "/w=="
    assert params[1]["default"]["name"] == "a"


def test_pydantic_model_is_exported_by_its_own_schema() -> None:
    class People(HookSpec, name="people"):
        @hook.filter
        async def check(self, account: Account) -> Account: ...

    result = export_schema([definition_of(People)])["hook_specs"]["people"]["hooks"]["check"]["result"]
    assert result["$defs"]["Account"]["properties"]["age"]["minimum"] == 0
