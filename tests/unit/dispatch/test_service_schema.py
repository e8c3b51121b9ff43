"""The JSON Schema of a service: what is refused, and what does not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from annexe.capabilities.bounded_schema import RefusedSchemaError
from annexe.dispatch.service_schema import MAX_METHODS, check_service_schemas, declared_schema, service_schema
from annexe.errors import InvalidParamsError, InvalidResultError, ManifestError
from annexe.manifest import Manifest, parse_manifest
from annexe.manifest.model import ServiceOffer

WORDS = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "methods": {
        "count": {
            "description": "How many words there are.",
            "params": {"type": "array", "prefixItems": [{"type": "string"}], "items": False, "minItems": 1},
            "result": {"$ref": "#/$defs/Count", "$defs": {"Count": {"type": "integer", "minimum": 0}}},
        },
        "free": {},
    },
}


def text_of(document: Any) -> bytes:
    return json.dumps(document).encode()


def test_values_that_fit_pass_and_so_do_those_of_methods_of_which_nothing_is_said() -> None:
    schema = service_schema(text_of(WORDS))
    schema.check_params("svc.words.count", b'["a b"]', plugin="p")
    schema.check_result("svc.words.count", b"2", plugin="p")
    for method in ("svc.words.free", "svc.words.unheard-of"):
        schema.check_params(method, b'[{"any": 1}]', plugin="p")
        schema.check_result(method, b"null", plugin="p")


@pytest.mark.parametrize(
    ("raw", "path", "text"),
    [
        pytest.param(b"[7]", "$[0]", '7 is not of type "string"', id="item"),
        pytest.param(b"[]", "$", "[] has less than 1 item", id="too-few"),
        pytest.param(b'["' + b"x" * 1_048_576 + b'"]', "$", "expected at most", id="too-long"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_their_place(raw: bytes, path: str, text: str) -> None:
    with pytest.raises(InvalidParamsError, match="do not fit the schema of plugin 'p'") as caught:
        service_schema(text_of(WORDS)).check_params("svc.words.count", raw, plugin="p")
    assert (caught.value.data["path"], caught.value.plugin) == (path, "p")
    assert text in caught.value.message


def test_answer_that_does_not_fit_is_its_own_plugins_fault() -> None:
    with pytest.raises(
        InvalidResultError, match=r"plugin 'p' answered svc\.words\.count with what does not fit its own schema: at \$: -1 is"
    ):
        service_schema(text_of(WORDS)).check_result("svc.words.count", b"-1", plugin="p")


def test_what_is_too_large_to_say_where_is_refused_all_the_same() -> None:
    wide = {"anyOf": [{"enum": [f"word-{number}" for number in range(200)]}, {"type": "object"}]}
    schema = service_schema(text_of({"methods": {"m": {"params": {"type": "array", "items": wide}}}}))
    with pytest.raises(InvalidParamsError, match="too large to say where"):
        schema.check_params("svc.s.m", json.dumps(["x" * 10] * 100).encode(), plugin="p")


@pytest.mark.parametrize(
    ("document", "text"),
    [
        pytest.param(b"{", "expected JSON", id="no-json"),
        pytest.param([], "(whole): expected an object, got []", id="no-object"),
        pytest.param({}, "/methods: expected an object, got null", id="no-methods"),
        pytest.param({"methods": {}}, "/methods: expected from 1 to 256 methods, got 0", id="none"),
        pytest.param({"methods": {f"m{number}": {} for number in range(MAX_METHODS + 1)}}, "got 257", id="many"),
        pytest.param({"methods": {"a b": {}}}, "/methods/a b: expected a method name such as 'count'", id="name"),
        pytest.param({"methods": {"m": {"parms": {}}}}, "/methods/m/parms: expected one of description, params, result", id="misspelt"),
        pytest.param({"methods": {"m": {}}, "name": "x"}, "/name: expected one of $schema, description, methods, title", id="key"),
        pytest.param({"methods": {"m": []}}, "/methods/m: expected an object, got []", id="method"),
        pytest.param({"methods": {"m": {"result": {"type": "text"}}}}, "/methods/m/result", id="no-schema"),
        pytest.param({"methods": {"m": {"result": {"$ref": "http://x/"}}}}, "nothing is fetched from elsewhere", id="elsewhere"),
        pytest.param(
            {"methods": {f"m{number}": {"result": {"enum": list(range(200))}} for number in range(120)}}, "at most 20000 parts", id="large"
        ),
        pytest.param({"methods": {"m": {"result": {"maximum": 2**70}}}}, "expected JSON", id="large-number"),
    ],
)
def test_document_that_the_host_does_not_go_by_is_refused_with_its_place(document: Any, text: str) -> None:
    raw = document if isinstance(document, bytes) else text_of(document)
    for _ in range(2):  # a refusal is remembered, too
        with pytest.raises(RefusedSchemaError) as caught:
            service_schema(raw)
        assert text in str(caught.value)
    assert declared_schema(ServiceOffer(version="1.0.0", schema="s.json", schema_text=raw)) is None


def manifest_of(document: Any, *, idempotent: tuple[str, ...] = ()) -> Manifest:
    head = b'manifest-version = 1\n[plugin]\nid = "p"\nversion = "1.0.0"\n[runtime]\nkind = "python"\nentry = "main"\n'
    manifest = parse_manifest(head + b'[provides.services]\n"words" = { version = "1.0.0", schema = "s.json" }\n', source="x")
    offer = replace(manifest.provides.services["words"], schema_text=text_of(document), idempotent=idempotent)
    return replace(manifest, provides=replace(manifest.provides, services={"words": offer, "other": ServiceOffer(version="1.0.0")}))


def test_manifest_with_schemas_that_are_fine_passes() -> None:
    manifest = manifest_of(WORDS, idempotent=("count",))
    check_service_schemas(manifest, source="x")
    offers = manifest.provides.services
    declared = declared_schema(offers["words"])
    assert declared is not None and declared.document == WORDS
    assert declared_schema(offers["other"]) is None


def test_manifest_with_a_schema_that_is_refused_or_lacks_a_method_is_refused() -> None:
    with pytest.raises(ManifestError) as caught:
        check_service_schemas(manifest_of({}), source="x")
    assert caught.value.data["problems"] == ["the schema s.json of service 'words' is refused: /methods: expected an object, got null"]
    with pytest.raises(ManifestError) as caught:
        check_service_schemas(manifest_of(WORDS, idempotent=("count", "split")), source="x")
    assert caught.value.data["problems"] == ["service 'words': 'split' is idempotent, and its schema s.json does not have it"]
