from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annexe.record.entry import MAX_RECORD_BYTES, Entry, encode_entry, parse_line, rfc3339
from tests.unit.record.clocks import START_AT


def record_of(**given: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {"at": START_AT, "plugin": "redactor", "source": "log"}
    line = encode_entry(Entry(**(whole | given)))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert len(line) <= MAX_RECORD_BYTES
    decoded: dict[str, Any] = msgspec.json.decode(line)
    return decoded


def test_entry_whole_record_has_the_documented_shape() -> None:
    record = record_of(at=START_AT + 0.1239, level="warn", message="hello", fields={"n": 1}, request="r-1", instance="redactor-1")
    assert record == {
        "time": "2023-11-14T22:13:20.123Z",
        "plugin": "redactor",
        "instance": "redactor-1",
        "level": "warning",
        "source": "log",
        "message": "hello",
        "request": "r-1",
        "fields": {"n": 1},
    }


def test_entry_forged_origin_in_fields_stays_under_fields() -> None:
    forged = {"time": "1970", "plugin": "other", "instance": "x", "source": "host", "level": "debug", "request": "r-9", "fields": {"a": 1}}
    record = record_of(message="m", fields=forged)
    assert (record["plugin"], record["source"], record["level"], record["request"]) == ("redactor", "log", "info", None)
    assert record["time"] == rfc3339(START_AT)
    assert record["fields"] == forged


@pytest.mark.parametrize(
    ("level", "source", "expected"),
    [
        ("ERROR", "log", "error"),
        ("fatal", "log", "critical"),
        ("\x1b[31m", "log", "info"),
        (["error"], "log", "info"),
        (None, "stderr", "warning"),
        (None, "stdout", "info"),
    ],
)
def test_entry_level_is_one_of_five_whatever_was_sent(level: object, source: Any, expected: str) -> None:
    assert record_of(level=level, source=source)["level"] == expected


@pytest.mark.parametrize("request_id", ["has blank", "x" * 129, "new\nline", ""])
def test_entry_request_that_is_no_request_id_is_left_out(request_id: str) -> None:
    assert record_of(request=request_id)["request"] is None


def test_entry_message_that_is_no_text_is_named_by_type() -> None:
    assert record_of(message={"a": 1})["message"] == "<dict>"


@pytest.mark.parametrize(("fields", "expected"), [(None, {}), ([1, 2], {"value": [1, 2]}), ("text", {"value": "text"})])
def test_entry_fields_that_are_no_map_are_put_under_value(fields: object, expected: dict[str, Any]) -> None:
    assert record_of(fields=fields)["fields"] == expected


def test_entry_long_message_is_cut_with_mark_and_count() -> None:
    record = record_of(message="x" * 100_000)
    kept = record["message"].index(" …[")
    assert record["cut_bytes"] == 100_000 - kept
    assert record["message"].endswith(f"x …[{100_000 - kept} bytes cut]")


def test_entry_bytes_cut_before_are_counted_too() -> None:
    record = record_of(message="kept", cut_bytes=7)
    assert record["message"] == "kept …[7 bytes cut]"
    assert record["cut_bytes"] == 7


def test_entry_large_fields_are_cut_and_counted() -> None:
    record = record_of(message="m", fields={f"k{number}": "v" * 100 for number in range(1000)})
    assert record["cut_fields"] > 900
    assert record["message"] == "m"


@settings(deadline=None)
@given(
    st.text(alphabet=st.characters(codec=None)).map(lambda text: text * 400),
    st.dictionaries(st.text(), st.text().map(lambda text: text * 300)),
    st.text(alphabet='"\\!', min_size=1, max_size=128),
)
def test_entry_line_never_exceeds_its_limit(message: str, fields: dict[str, str], request: str) -> None:
    record = record_of(
        plugin="p" * 64, source="stdout", level="critical", message=message, fields=fields, request=request, instance="\x1b" * 90
    )
    assert len(record["instance"]) <= 64


def test_line_of_json_becomes_fields_with_its_message_and_level() -> None:
    line = b'{"message": "started", "level": "error", "port": 8700, "plugin": "forged"}\r'
    assert parse_line(line) == ("error", "started", {"port": 8700, "plugin": "forged"})


def test_line_of_json_without_message_has_fields_only() -> None:
    assert parse_line(b'{"a": [1], "message": 5}') == (None, "", {"a": [1], "message": 5})


@pytest.mark.parametrize(
    "line",
    [
        b"{not json}",
        b"{",
        b"[1, 2]",
        b'"text"',
        b"{" * 5000 + b"}" * 5000,
        b'{"a":' * 3000 + b"1" + b"}" * 3000,
        b'{"a": "\xff"}',
        b'{"a": 1e999}',
    ],
)
def test_line_that_only_looks_like_json_is_the_message(line: bytes) -> None:
    level, message, fields = parse_line(line)
    assert (level, fields) == (None, {})
    assert message == line.decode("utf-8", "backslashreplace")


def test_line_of_json_that_was_cut_is_the_message() -> None:
    assert parse_line(b'{"message": "x"}', cut_bytes=1) == (None, '{"message": "x"}', {})


def test_line_with_invalid_utf8_shows_the_bytes() -> None:
    assert parse_line(b"caf\xe9 \xff\xfe") == (None, "caf\\xe9 \\xff\\xfe", {})
