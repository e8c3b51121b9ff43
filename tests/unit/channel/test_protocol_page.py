"""docs/reference/protocol.md is what an SDK is written from: hold it to the code."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from annexe import errors
from annexe.capabilities import kv_params, services
from annexe.channel import ChannelLimits, RequestMeta, arenas, handshake
from annexe.channel.faults import _BY_CODE, error_to_wire
from annexe.channel.messages import (
    BlobsFound,
    ItemMeta,
    NotificationMeta,
    PluginMeta,
    ResponseMeta,
    decode_json,
    decode_msgpack,
    decode_with_blobs,
)
from annexe.channel.stream_ends import _MAX_UNREAD_BYTES
from annexe.channel.weight import MAX_PARTS, MAX_VALUES
from annexe.contract import HookKind
from annexe.dispatch.request import MAX_STATE_BYTES
from annexe_sdk import wire
from annexe_sdk.codec import json_codec
from annexe_sdk.frames import FrameBuffer

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/reference/protocol.md").read_text(encoding="utf-8")
SOURCES = [*sorted((ROOT / "src/annexe").rglob("*.py")), *sorted((ROOT / "sdk/python/src").rglob("*.py"))]
EXAMPLES = [pytest.param(*found, id=found[2][:24]) for found in re.findall(r"^([<>]) ((?:[0-9A-F]{2} ){4}) (.+)$", PAGE, re.MULTILINE)]


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def first_column(text: str) -> set[str]:
    return set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))


def rules_in_code() -> set[str]:
    pattern = re.compile(r'(?:rule=|\bBroken\(|\bFrameError\()"([a-z-]+)"')
    return {rule for path in SOURCES for rule in pattern.findall(path.read_text(encoding="utf-8"))}


def test_every_rule_has_a_row_and_every_row_is_a_rule() -> None:
    assert first_column(section("Rules")) == rules_in_code()


def codes_sent_by(*senders: str) -> set[str]:
    rows = re.findall(r"^\| `([^`]+)` \| (\w+) \|", section("Errors"), re.MULTILINE)
    return {code for code, sender in rows if sender in senders}


def test_every_error_code_of_a_plugin_has_a_row_and_every_row_is_a_code() -> None:
    sdk = "".join(path.read_text(encoding="utf-8") for path in SOURCES if "annexe_sdk" in path.parts)
    assert codes_sent_by("plugin", "both") == set(re.findall(r'\.error\(\s*[\w.]+, "([a-z-]+)"', sdk))


def test_every_error_code_of_the_host_has_a_row_and_every_row_is_a_code() -> None:
    codes = {cls.code for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.AnnexeError)}
    internal = error_to_wire(RuntimeError())["code"]
    assert codes_sent_by("host", "both") <= codes | {internal}
    assert codes_sent_by("host", "both") >= {*_BY_CODE, *services._EVENTS, errors.StorageError.code, internal}
    assert first_column(section("Errors")) == codes_sent_by("host", "both", "plugin")


def test_the_codes_taken_from_plugins_are_told() -> None:
    told = section("Errors").partition("From a plugin, the host takes")[2].partition("any other code")[0]
    assert set(re.findall(r"`([a-z-]+)`", told)) == {*_BY_CODE, "rejected"}


def test_every_kind_has_a_row_with_its_name() -> None:
    rows = dict(re.findall(r"^\| (\d) \| (\w+) \|", PAGE, re.MULTILINE))
    names = {name: value for name, value in vars(wire).items() if name.lower() in rows.values() and isinstance(value, int)}
    assert {str(value): name.lower() for name, value in names.items()} == rows
    assert sorted(int(kind) for kind in rows) == list(range(8))


@pytest.mark.parametrize("meta", [RequestMeta, ResponseMeta, PluginMeta, NotificationMeta, ItemMeta])
def test_every_key_of_meta_has_a_row(meta: Any) -> None:
    told = first_column(section("Meta"))
    assert {field.encode_name for field in msgspec.structs.fields(meta)} <= told


def test_every_own_method_of_the_host_is_told() -> None:
    life = (ROOT / "sdk/python/src/annexe_sdk/life.py").read_text(encoding="utf-8")
    answered = set(re.findall(r'"(annexe\.\w+)":', life)) | {"annexe.ping"}  # the session answers that one
    assert set(re.findall(r"`(annexe\.\w+)`", PAGE)) == answered
    hosts = "".join(path.read_text(encoding="utf-8") for path in SOURCES if path.parent.name in ("channel", "supervision"))
    assert set(re.findall(r'(?:call|_ask)\(\s*"(annexe\.\w+)"', hosts)) == answered


def test_every_method_of_the_store_has_a_row_with_its_params() -> None:
    kinds: dict[str, Any] = {
        "get": kv_params.OneKey,
        "set": kv_params.Set,
        "delete": kv_params.OneKey,
        "increment": kv_params.Increment,
        "list": kv_params.List,
        "compare_and_set": kv_params.CompareAndSet,
    }
    for name, kind in kinds.items():
        row = re.search(rf"^\| `kv\.{name}` \| `kv` \| ([^|]*) \|", PAGE, re.MULTILINE)
        assert row is not None, name
        assert re.findall(r"`(\w+)`", row[1]) == [field.encode_name for field in msgspec.structs.fields(kind)]


def test_hello_params_and_activation_are_told() -> None:
    told = section("Handshake and life")
    source = inspect.getsource(handshake.hello)
    assert set(re.findall(r'^        "(\w+)": ', source, re.MULTILINE)) <= first_column_of_nested(told)
    activation = (
        (ROOT / "src/annexe/host/planner.py").read_text(encoding="utf-8").partition("activation={")[2].partition("\n            },")[0]
    )
    keys = set(re.findall(r'"(\w+)":', activation))
    assert {"config", "grants"} <= keys <= first_column_of_nested(told)
    for kind in HookKind:
        assert f"`{kind}`" in told


def first_column_of_nested(text: str) -> set[str]:
    return set(re.findall(r"^\s+\| `([^`]+)` \|", text, re.MULTILINE))


LIMITS = ChannelLimits()


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("frame, both ways", f"{wire.MAX_FRAME_BYTES // 2**20} MiB"),
        ("frame until hello is answered", f"{wire.HELLO_MAX_FRAME_BYTES // 1024} KiB"),
        ("frame of an item", f"{wire.MAX_ITEM_FRAME_BYTES // 1024} KiB"),
        ("credit at the start of a stream", f"{wire.INITIAL_CREDIT_BYTES // 1024} KiB"),
        ("credit at most", f"{wire.MAX_CREDIT_BYTES // 1024} KiB"),
        ("method name", f"{wire.MAX_METHOD_CHARS} characters"),
        ("nesting of values", f"{wire.MAX_NESTING} levels"),
        ("host calls that run at once", f"`limits.concurrency`: {LIMITS.concurrency},"),
        ("host calls sent ahead", f"{LIMITS.sent_ahead} "),
        ("host calls waiting in the host", f"{LIMITS.queued:,} "),
        ("streams of the host's at once", f"`limits.streams`: {LIMITS.streams}, or the manifest's up to {wire.MAX_STREAMS}"),
        ("requests of the plugin's open at once", f"{LIMITS.plugin_requests:,} "),
        ("calls within calls", f"{LIMITS.depth} "),
        ("unread by the plugin while items are sent", f"{_MAX_UNREAD_BYTES // 2**20} MiB"),
        ("unread by the plugin", f"{LIMITS.out_bytes // 2**20} MiB"),
        ("time of a plugin's request without parent", f"{LIMITS.default_deadline_s:g} s"),
        ("texts, arrays and maps in a request or response above 128 KiB", f"{MAX_PARTS:,} "),
        ("values in it, numbers included", f"{MAX_VALUES:,} "),
        ("answer to `annexe.hello` and `annexe.configure`", f"{handshake.MAX_ANSWER_BYTES // 1024} KiB"),
        ("answer to `annexe.activate`", f"{handshake.MAX_ACTIVATION_BYTES // 1024} KiB"),
        ("state of a request", f"{MAX_STATE_BYTES // 1024} KiB"),
        ("blobs in a message", f"{wire.MAX_BLOBS} "),
        ("regions that the host has and has not released", f"{arenas._MAX_HELD:,} "),
    ],
)
def test_limits_are_the_ones_in_the_code(what: str, told: str) -> None:
    row = re.search(rf"^\| {re.escape(what)} \| ([^|]*\|)", section("Limits"), re.MULTILINE)
    assert row is not None
    assert row[1].startswith(told), row[1]


def test_times_of_cancelled_calls_are_the_ones_in_the_code() -> None:
    assert f"cancelled\n{LIMITS.hung_s * 1000:g} ms ago" in PAGE
    assert f"after {LIMITS.stuck_s:g} s the plugin counts as stuck" in PAGE
    assert wire.MAX_ID == 2**53 - 1


def test_the_length_of_blobs_is_the_one_in_the_code() -> None:
    assert f"from {wire.BLOB_FROM_BYTES // 1024} KiB on" in " ".join(section("Shared memory").split())
    assert f"At most {wire.MAX_BLOBS} in a message" in section("Shared memory")


def read_by_the_host(frame: bytes) -> Any:
    try:
        return (decode_json if frame[:1] == b"[" else decode_msgpack)(frame)
    except BlobsFound:
        return decode_with_blobs(frame)


@pytest.mark.parametrize(("sender", "head", "message"), EXAMPLES)
def test_examples_are_frames_that_both_sides_read(sender: str, head: str, message: str) -> None:
    body = message.encode() if message.startswith("[") else bytes.fromhex(message)
    (frame,) = FrameBuffer().feed(bytes.fromhex(head) + body)
    is_json = frame[:1] == b"["
    value: Any = json_codec().decode(frame) if is_json else msgspec.msgpack.decode(frame)
    assert value[0] in range(8)
    if message.startswith("["):
        assert json.dumps(value, separators=(",", ":")) == message
    if sender == "<":
        assert (
            type(read_by_the_host(frame))
            .__name__.lstrip("_")
            .lower()
            .endswith({0: "request", 1: "response", 2: "notification", 4: "item", 6: "credit", 7: "release"}[value[0]])
        )


def test_there_are_examples_in_json_of_every_kind_that_it_has() -> None:
    kinds = {int(match) for match in re.findall(r"^[<>] (?:[0-9A-F]{2} ){4} \[(\d)", PAGE, re.MULTILINE)}
    assert kinds == set(range(7))


def test_the_credit_of_the_example_is_what_its_item_costs() -> None:
    (item,) = re.findall(r'^> ((?:[0-9A-F]{2} ){4}) \[4,7,"hello world"', PAGE, re.MULTILINE)
    assert f"[6,7,{int.from_bytes(bytes.fromhex(item), 'big')}]" in PAGE
