"""Configuration against a schema that a plugin wrote."""

from __future__ import annotations

import http.server
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from annexe.capabilities.config import ConfigService, PluginConfig, schema_of
from annexe.capabilities.config_schema import MAX_SCHEMA_BYTES, MAX_VALUE_BYTES, ConfigSchema
from annexe.errors import ConfigInvalidError, ConflictError
from annexe.storage.store import Store
from tests.unit.record.clocks import START_AT, StillClock


def schema(document: Any) -> ConfigSchema:
    return ConfigSchema(document, plugin="a", source="config.schema.json")


def refusal(document: Any) -> list[dict[str, str]]:
    with pytest.raises(ConfigInvalidError) as caught:
        schema(document)
    assert caught.value.plugin == "a"
    assert caught.value.data["what"] == "schema"
    assert caught.value.data["source"] == "config.schema.json"
    problems: list[dict[str, str]] = caught.value.data["problems"]
    assert all(problem["message"] in str(caught.value) for problem in problems)
    return problems


PORT = {"type": "integer", "minimum": 1, "maximum": 65535, "default": 8080}


def test_value_gets_the_defaults_it_says_nothing_about() -> None:
    fitting = schema(
        {
            "type": "object",
            "properties": {
                "port": PORT,
                "name": {"type": "string", "default": "x"},
                "tls": {"$ref": "#/$defs/tls"},
                "peers": {
                    "type": "array",
                    "items": {"type": "object", "properties": {"port": {"$ref": "#/properties/port"}, "up": {"default": True}}},
                },
                "open": True,
            },
            "$defs": {"tls": {"type": "object", "properties": {"versions": {"default": ["1.3"]}}}},
        }
    )
    written = {"name": "y", "tls": {}, "peers": [{}, {"up": False}], "open": [1]}

    completed = fitting.complete(written)

    assert completed == {"port": 8080, "name": "y", "tls": {"versions": ["1.3"]}, "peers": [{"up": True}, {"up": False}], "open": [1]}
    assert written == {"name": "y", "tls": {}, "peers": [{}, {"up": False}], "open": [1]}


def test_defaults_belong_to_whoever_got_them() -> None:
    fitting = schema({"properties": {"list": {"default": [1]}}})
    fitting.complete({})["list"].append(2)

    assert fitting.complete({}) == {"list": [1]}


def test_default_that_does_not_fit_is_found() -> None:
    with pytest.raises(ConfigInvalidError) as caught:
        schema({"properties": {"port": PORT | {"default": 0}}}).complete({})

    assert [problem["path"] for problem in caught.value.data["problems"]] == ["/port"]


def test_value_that_does_not_fit_is_told_every_problem_with_its_path() -> None:
    fitting = schema(
        {
            "type": "object",
            "properties": {"port": PORT, "list": {"items": {"type": "string"}}, "a/b~c": {"type": "null"}},
            "required": ["key"],
            "additionalProperties": False,
        }
    )

    with pytest.raises(ConfigInvalidError) as caught:
        fitting.complete({"port": 0, "list": ["x", 1], "a/b~c": 1, "colour": "red"})

    problems = {problem["path"]: problem["message"] for problem in caught.value.data["problems"]}
    assert set(problems) == {"", "/port", "/list/1", "/a~1b~0c"}
    assert len(caught.value.data["problems"]) == 5
    assert caught.value.plugin == "a"
    assert caught.value.data["what"] == "value"
    assert "/list/1: 1 is not of type" in str(caught.value)


def test_problems_are_bounded_in_number_and_length() -> None:
    fitting = schema({"additionalProperties": {"type": "null"}})

    with pytest.raises(ConfigInvalidError) as caught:
        fitting.complete({f"k{number}": "x" * 600 for number in range(60)})

    assert len(caught.value.data["problems"]) == 50
    assert max(len(problem["message"]) for problem in caught.value.data["problems"]) == 500


@pytest.mark.parametrize("value", [None, [], "text", 1, {"x": object()}, {"x": 2**70}, {"x": "v" * MAX_VALUE_BYTES}])
def test_value_that_is_no_json_object_or_too_large_is_refused(value: Any) -> None:
    with pytest.raises(ConfigInvalidError) as caught:
        schema({}).complete(value)

    assert [problem["path"] for problem in caught.value.data["problems"]] == [""]


def test_defaults_that_would_fill_the_memory_are_refused() -> None:
    fitting = schema({"properties": {"list": {"items": {"properties": {"large": {"default": "x" * 8_000}}}}}})
    assert len(fitting.complete({"list": [{}, {}]})["list"][1]["large"]) == 8_000

    with pytest.raises(ConfigInvalidError, match="of defaults"):
        fitting.complete({"list": [{}] * 1000})


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *args: Any) -> None: ...

    listening = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}/schema.json", asked
    listening.shutdown()
    thread.join()
    listening.server_close()


@pytest.mark.parametrize("where", ["$ref", "$dynamicRef", "$recursiveRef"])
def test_schema_with_a_remote_reference_is_refused_and_nothing_is_fetched(server: tuple[str, list[str]], where: str) -> None:
    address, asked = server

    problems = refusal({"properties": {"x": {where: address}}})

    assert [problem["path"] for problem in problems] == [f"/properties/x/{where}"]
    assert asked == []


@pytest.mark.parametrize("name", ["$schema", "$id"])
def test_schema_that_names_a_remote_place_for_itself_fetches_nothing(server: tuple[str, list[str]], name: str) -> None:
    address, asked = server

    if name == "$schema":
        assert [problem["path"] for problem in refusal({name: address})] == ["/$schema"]
    else:
        assert schema({name: address, "properties": {"x": {"$ref": "#/$defs/x"}}, "$defs": {"x": {}}}).complete({"x": 1}) == {"x": 1}
    assert asked == []


def test_schema_with_a_reference_to_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")

    for reference in (f"file://{tmp_path}/secret.json", "secret.json", "other.json#/x", "#anchor"):
        assert refusal({"allOf": [{"$ref": reference}]})[0]["path"] == "/allOf/0/$ref"


@pytest.mark.parametrize("reference", ["#/$defs/y", "#/$defs/x/z", "#/type/0", "#/allOf/7", "#/allOf/-1", "#/%24defs/x", "#/$defs/%78"])
def test_schema_with_a_reference_to_nothing_is_refused(reference: str) -> None:
    document = {"type": "object", "allOf": [{}], "$defs": {"x": {}, "%78": {}}, "properties": {"p": {"$ref": reference}}}

    assert refusal(document)[0]["path"] == "/properties/p/$ref"


def test_schema_may_refer_to_a_place_in_a_list_and_to_odd_names() -> None:
    fitting = schema(
        {
            "allOf": [{"properties": {"x": {"$ref": "#/$defs/a~1b~0c"}, "y": {"$ref": "#/allOf/1"}}}, {}],
            "$defs": {"a/b~c": {"type": "null"}},
        }
    )

    with pytest.raises(ConfigInvalidError):
        fitting.complete({"x": 1})


def test_schema_with_an_inner_id_is_refused() -> None:
    # It would give "#/..." below it another meaning.
    assert refusal({"properties": {"x": {"$id": "urn:x", "$ref": "#/y"}}})[0]["path"] == "/properties/x/$id"


def test_properties_may_have_the_names_of_keywords() -> None:
    names = ["$ref", "$id", "$dynamicRef", "pattern", "patternProperties"]
    fitting = schema({"properties": {name: {"type": "string"} for name in names}, "additionalProperties": False})

    assert fitting.complete(dict.fromkeys(names, "x")) == dict.fromkeys(names, "x")


def bomb(length: int) -> dict[str, Any]:
    steps = {f"s{number}": {"allOf": [{"$ref": f"#/$defs/s{number + 1}"}] * 2} for number in range(length)}
    return {"allOf": [{"$ref": "#/$defs/s0"}], "$defs": {**steps, f"s{length}": {"type": "object"}}}


def test_schema_that_doubles_with_each_reference_is_refused_at_once() -> None:
    began = time.process_time()
    for length in (12, 15, 30, 60):
        assert refusal(bomb(length))
    assert time.process_time() - began < 2.0
    assert schema(bomb(5)).complete({}) == {}


@pytest.mark.parametrize(
    "document",
    [
        {"$ref": "#"},
        {"properties": {"child": {"$ref": "#"}}},
        {"$defs": {"a": {"items": {"$ref": "#/$defs/b"}}, "b": {"items": {"$ref": "#/$defs/a"}}}},
    ],
)
def test_schema_that_refers_to_itself_is_refused(document: dict[str, Any]) -> None:
    assert "does it refer to itself?" in refusal(document)[0]["message"]


def test_schema_too_deep_is_refused() -> None:
    document: dict[str, Any] = {}
    for _ in range(200):
        document = {"not": document}

    assert "64 levels" in refusal(document)[0]["message"]


def test_schema_too_large_is_refused() -> None:
    assert "at most 5000 parts" in refusal({"allOf": [{}] * 5000})[0]["message"]


def test_value_is_bounded_by_the_parts_of_its_schema() -> None:
    small = {"type": "object", "properties": {"a": {"allOf": [{"not": {"const": "z"}} for _ in range(2000)]}}}
    fitting = schema(small)
    fitting.complete({"a": "v" * 1500})
    with pytest.raises(ConfigInvalidError) as caught:
        fitting.complete({"a": "v" * 3000})
    assert caught.value.plugin == "a"
    (problem,) = caught.value.data["problems"]
    assert problem["path"] == ""
    assert "defaults included, with a schema of so many parts" in problem["message"]


def test_of_a_great_many_faults_the_first_is_told_without_making_the_rest() -> None:
    fitting = schema({"properties": {"a": {"items": {"allOf": [{"type": "integer"}] * 4000}}}})
    began = time.process_time()
    with pytest.raises(ConfigInvalidError) as caught:
        fitting.complete({"a": ["x"] * 480})
    assert [problem["path"] for problem in caught.value.data["problems"]] == ["/a/0"]
    assert time.process_time() - began < 5.0


def test_each_value_of_a_list_and_each_stretch_of_text_is_a_part() -> None:
    bomb = {"properties": {"a": {"default": [7] * 8000, "items": {"enum": list(range(100, 40_000))}}}}
    assert "at most 5000 parts" in refusal(bomb)[0]["message"]
    assert "at most 5000 parts" in refusal({"required": ["a"] * 5000})[0]["message"]
    assert "at most 5000 parts" in refusal({"enum": ["x" * 640] * 500})[0]["message"]
    with pytest.raises(ConfigInvalidError, match="with a schema of so many parts"):
        schema({"properties": {"a": {"items": {"enum": list(range(100, 2_900))}}}}).complete({"a": [7] * 2_000})


@pytest.mark.parametrize("word", ["anyOf", "oneOf"])
def test_no_fault_is_told_where_even_the_first_would_take_minutes(word: str) -> None:
    fitting = schema({"properties": {"a": {word: [{"items": {"enum": ["a"]}}] * 900}}})
    began = time.process_time()
    with pytest.raises(ConfigInvalidError) as caught:
        fitting.complete({"a": [7] * 800})
    assert time.process_time() - began < 1.0  # 10 s and 800 MB where the library makes the errors
    (problem,) = caught.value.data["problems"]
    assert problem == {"path": "", "message": "does not fit the schema; value and schema are too large to say where"}


def test_schema_with_too_many_unique_items_is_refused() -> None:
    assert "at most 5000 parts" in refusal({"allOf": [{"uniqueItems": True}] * 100})[0]["message"]


def test_a_default_too_large_for_a_plugin_to_give_is_refused() -> None:
    fitting = schema({"properties": {"a": {"default": "v" * 20_000}}})
    with pytest.raises(ConfigInvalidError, match="at most 16384 bytes of defaults"):
        fitting.complete({})
    assert fitting.complete({"a": "w" * 20_000}) == {"a": "w" * 20_000}


def test_schema_with_too_many_patterns_is_refused() -> None:
    assert "at most 5000 parts" in refusal({"patternProperties": {f"{number}": {} for number in range(101)}})[0]["message"]
    assert "at most 5000 parts" in refusal({"allOf": [{"pattern": "a"}] * 101})[0]["message"]


@pytest.mark.parametrize("pattern", ["(?=a)b", "(a)\\1", "("])
def test_schema_with_a_pattern_that_may_take_for_ever_is_refused(pattern: str) -> None:
    assert refusal({"properties": {"x": {"pattern": pattern}}})[0]["path"] == "/properties/x/pattern"


def test_pattern_takes_linear_time() -> None:
    fitting = schema({"properties": {"x": {"pattern": "^(a+)+$"}}})
    began = time.process_time()

    with pytest.raises(ConfigInvalidError):
        fitting.complete({"x": "a" * 50_000 + "b"})
    assert time.process_time() - began < 2.0


@pytest.mark.parametrize(
    "document", [True, [], "text", None, {"type": 3}, {"properties": 1}, {"$schema": "http://json-schema.org/draft-04/schema#"}]
)
def test_schema_that_is_none_is_refused(document: Any) -> None:
    assert refusal(document)


@pytest.mark.parametrize("dialect", ["https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft-07/schema#"])
def test_schema_may_say_which_draft_it_is(dialect: str) -> None:
    assert schema({"$schema": dialect, "type": "object"}).complete({}) == {}


def file_refusal(folder: Path, relative: str) -> str:
    with pytest.raises(ConfigInvalidError) as caught:
        schema_of(folder, relative, plugin="a")
    assert caught.value.data["source"] == str(folder / relative)
    message: str = caught.value.data["problems"][0]["message"]
    return message


def test_schema_file_is_read_from_the_plugins_folder(tmp_path: Path) -> None:
    (tmp_path / "config.schema.json").write_text(json.dumps({"properties": {"port": PORT}}))

    assert schema_of(tmp_path, "config.schema.json", plugin="a").complete({}) == {"port": 8080}


def test_schema_file_outside_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "plugin"
    folder.mkdir()
    (tmp_path / "outside.json").write_text("{}")
    (folder / "link.json").symlink_to(tmp_path / "outside.json")

    for relative in ("../outside.json", "link.json", str(tmp_path / "outside.json")):
        assert "inside the plugin's folder" in file_refusal(folder, relative)


def test_schema_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "large.json").write_text("{}" + " " * MAX_SCHEMA_BYTES)
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "number.json").write_text(json.dumps({"properties": {"x": {"default": 2**70}}}))
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")

    assert file_refusal(tmp_path, "large.json") == "expected at most 262144 bytes, got more"
    assert "No such file" in file_refusal(tmp_path, "missing.json")
    assert "expected a file" in file_refusal(tmp_path, "pipe.json")
    for name in ("number.json", "broken.json", "binary.json", "deep.json", "folder.json"):
        assert file_refusal(tmp_path, name)


def test_plugin_without_schema_has_no_configuration(tmp_path: Path) -> None:
    none = schema_of(tmp_path, None, plugin="a")

    assert none.complete({}) == {}
    with pytest.raises(ConfigInvalidError) as caught:
        none.complete({"x": 1})
    assert "has no [config] schema" in caught.value.data["source"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "state")
    yield opened
    opened.close()


def test_config_is_stored_as_written_and_read_complete(store: Store) -> None:
    service = ConfigService(store.config, StillClock())
    fitting = schema({"properties": {"port": PORT, "name": {"type": "string"}}})

    unwritten = service.read("a", fitting)
    written = service.write("a", fitting, {"name": "x"}, expected_revision=0)

    assert unwritten == PluginConfig(value={"port": 8080}, written={}, revision=0)
    assert written == service.read("a", fitting) == PluginConfig(value={"port": 8080, "name": "x"}, written={"name": "x"}, revision=1)
    stored = store.config.get("a")
    assert stored is not None
    assert (stored.value, stored.updated_at) == ({"name": "x"}, START_AT)


def test_config_that_does_not_fit_is_not_stored(store: Store) -> None:
    service = ConfigService(store.config, StillClock())

    with pytest.raises(ConfigInvalidError):
        service.write("a", schema({"properties": {"port": PORT}}), {"port": 0}, expected_revision=None)

    assert store.config.get("a") is None


def test_config_written_meanwhile_is_not_overwritten(store: Store) -> None:
    service = ConfigService(store.config, StillClock())
    service.write("a", schema({}), {"x": 1}, expected_revision=0)

    with pytest.raises(ConflictError) as caught:
        service.write("a", schema({}), {"x": 2}, expected_revision=0)

    assert caught.value.data == {"expected_revision": 0, "actual_revision": 1}
    assert service.read("a", schema({})).written == {"x": 1}


def test_config_stored_for_an_older_schema_is_checked_when_read(store: Store) -> None:
    service = ConfigService(store.config, StillClock())
    service.write("a", schema({}), {"port": "http"}, expected_revision=0)

    with pytest.raises(ConfigInvalidError) as caught:
        service.read("a", schema({"properties": {"port": PORT}}))

    assert caught.value.data["problems"][0]["path"] == "/port"
