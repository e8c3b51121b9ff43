from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec
import pydantic
import pytest

from annexe.errors import HostError
from annexe.record.explain import MAX_STEPS, MAX_STEPS_WITHIN, MAX_VALUE_BYTES, Explain, Outcome
from tests.unit.record.clocks import START_AT

packed = msgspec.msgpack.encode


def step_of(explain: Explain, request_id: str, position: int = 0) -> dict[str, Any]:
    step: dict[str, Any] = explain.render(request_id)["steps"][position]
    return step


def test_reason_is_cut_when_it_is_kept_and_charged() -> None:
    explain = Explain(max_bytes=5000)
    for name in ("r-1", "r-2", "r-3"):
        explain.start(name, START_AT).add_step("one", "a.b", 0.0, 0.0, Outcome.FAILED, "x" * 1_000_000)
        assert explain.held_bytes <= 5000
    assert explain.latest() == ["r-3", "r-2"]
    assert explain.held_bytes == 2 * 2048


def test_values_are_not_kept_where_nobody_may_see_them() -> None:
    explain = Explain(keeps_values=False)
    record = explain.start("r-1", START_AT)
    record.add_step("one", "chat.on_request", 0.0, 0.1, Outcome.CHANGED, None, packed({"x": "ada@"}), packed({"x": "-"}), "msgpack")
    record.add_step("two", "chat.answer", 0.1, 0.2, Outcome.ANSWERED, None, None, {"x": "ada@"})
    record.add_step("three", "chat.answer", 0.2, 0.3, Outcome.FAILED, "plugin-raised: KeyError: 'ada@'")
    record.add_step("four", "chat.answer", 0.3, 0.4, Outcome.REJECTED, "no-ada@")
    shown = explain.render("r-1")
    assert [(step["outcome"], step["reason"]) for step in shown["steps"]] == [
        ("changed", None),
        ("answered", None),
        ("failed", "plugin-raised"),
        ("rejected", None),
    ]
    assert "ada" not in repr(shown)
    assert explain.held_bytes == len("plugin-raised")


def test_explain_renders_order_time_outcome_reason_and_changes() -> None:
    explain = Explain()
    record = explain.start("r-1", START_AT)
    record.add_absent("chat.on_request", ("missing-plugin",))
    record.add_step("one", "chat.on_request", 10.0, 10.0015, Outcome.CHANGED, None, packed({"text": "a"}), packed({"text": "b"}), "msgpack")
    record.add_step("two", "chat.on_request", 10.002, 10.052, Outcome.SKIPPED, "deadline-exceeded")
    record.add_step("three", "chat.on_request", 10.052, 10.053, "unchanged")
    assert explain.render("r-1") == {
        "request": "r-1",
        "time": "2023-11-14T22:13:20.000Z",
        "steps": [
            {
                "position": 1,
                "plugin": "one",
                "hook": "chat.on_request",
                "started_ms": 0.0,
                "duration_ms": 1.5,
                "outcome": "changed",
                "reason": None,
                "changes": [{"op": "replace", "path": "/text", "value": "b", "before": "a"}],
                "changes_cut": False,
            },
            {
                "position": 2,
                "plugin": "two",
                "hook": "chat.on_request",
                "started_ms": 2.0,
                "duration_ms": 50.0,
                "outcome": "skipped",
                "reason": "deadline-exceeded",
            },
            {
                "position": 3,
                "plugin": "three",
                "hook": "chat.on_request",
                "started_ms": 52.0,
                "duration_ms": 1.0,
                "outcome": "unchanged",
                "reason": None,
            },
        ],
        "steps_dropped": 0,
        "absent": [{"hook": "chat.on_request", "names": ["missing-plugin"]}],
    }


def test_explain_request_without_steps_is_rendered() -> None:
    explain = Explain()
    explain.start("r-1", START_AT)
    assert explain.render("r-1")["steps"] == []


def test_explain_request_nobody_knows_is_an_error_with_its_id() -> None:
    with pytest.raises(HostError, match="one of the last 7 requests") as caught:
        Explain(capacity=7).render("r-unknown")
    assert caught.value.data == {"request": "r-unknown"}


@dataclass
class Point:
    x: int


class Model(pydantic.BaseModel):
    x: int


@pytest.mark.parametrize(
    ("before", "after", "codec"),
    [
        pytest.param(b'{"x":1}', b'{"x":2}', "json", id="json"),
        pytest.param(packed({"x": 1}), packed({"x": 2}), "msgpack", id="msgpack"),
        pytest.param(memoryview(b'{"x":1}'), msgspec.Raw(b'{"x":2}'), "json", id="views"),
        pytest.param(Point(1), Point(2), None, id="dataclass"),
        pytest.param(Model(x=1), Model(x=2), None, id="pydantic"),
    ],
)
def test_explain_value_in_any_form_is_compared(before: Any, after: Any, codec: Any) -> None:
    explain = Explain()
    explain.start("r", START_AT).add_step("p", "h", 0.0, 0.0, Outcome.CHANGED, None, before, after, codec)
    assert step_of(explain, "r")["changes"] == [{"op": "replace", "path": "/x", "value": 2, "before": 1}]


def test_explain_answer_without_a_value_before_is_shown_whole() -> None:
    explain = Explain()
    explain.start("r", START_AT).add_step("p", "h", 0.0, 0.0, Outcome.ANSWERED, None, None, b'{"text":"hi"}', "json")
    assert step_of(explain, "r")["value"] == {"text": "hi"}


@pytest.mark.parametrize(("after", "codec"), [(b"\xff\xff", "json"), (b"\xc1", "msgpack"), (b"[" * 5000, "json"), (b"", "json")])
def test_explain_value_that_cannot_be_decoded_is_named(after: bytes, codec: Any) -> None:
    explain = Explain()
    explain.start("r", START_AT).add_step("p", "h", 0.0, 0.0, Outcome.FAILED, None, None, after, codec)
    assert step_of(explain, "r")["value"].startswith("<cannot be shown: ")


def test_explain_value_of_an_unknown_type_is_named() -> None:
    explain = Explain()
    explain.start("r", START_AT).add_step("p", "h", 0.0, 0.0, Outcome.ANSWERED, None, None, object())
    assert step_of(explain, "r")["value"] == "<object>"


def test_explain_msgpack_extension_is_named() -> None:
    explain = Explain()
    blob = packed({"blob": msgspec.msgpack.Ext(1, b"\x00")})
    explain.start("r", START_AT).add_step("p", "h", 0.0, 0.0, Outcome.ANSWERED, None, None, blob, "msgpack")
    assert step_of(explain, "r")["value"] == {"blob": "<ext 1>"}


def test_explain_hostile_text_is_shown_safely_and_cut() -> None:
    explain = Explain()
    after = packed({"\x1b[2Jkey": "\x1b]0;title\x07", "long": "x" * 50_000})
    explain.start("r", START_AT).add_step("p", "h", 0.0, 0.0, Outcome.CHANGED, "\x1bwhy", packed({}), after, "msgpack")
    step = step_of(explain, "r")
    assert "\x1b" not in repr(step).replace("\\x1b", "")
    assert b"\\u001b" not in msgspec.json.encode(step)
    assert step["changes"][0]["path"] == "/\\x1b[2Jkey"
    assert len(msgspec.json.encode(step)) < 5000


def test_explain_value_above_64_kib_keeps_size_and_digest_only() -> None:
    explain = Explain()
    large = b'"' + b"x" * MAX_VALUE_BYTES + b'"'
    explain.start("r", START_AT).add_step("p", "h", 0.0, 0.0, Outcome.CHANGED, None, large, b'"small"', "json")
    assert explain.held_bytes < 1000
    assert step_of(explain, "r")["before"] == {"bytes": len(large), "sha256": hashlib.sha256(large).hexdigest()}
    assert step_of(explain, "r")["after"] == {"bytes": 7, "sha256": hashlib.sha256(b'"small"').hexdigest()}


def test_explain_large_answer_without_a_value_before_keeps_size_and_digest() -> None:
    explain = Explain()
    explain.start("r", START_AT).add_step("p", "h", 0.0, 0.0, Outcome.ANSWERED, None, None, b"1" * 70_000, "json")
    assert step_of(explain, "r")["before"] is None
    assert step_of(explain, "r")["after"]["bytes"] == 70_000


def test_explain_ring_keeps_the_last_requests() -> None:
    explain = Explain(capacity=3)
    for number in range(10):
        explain.start(f"r-{number}", START_AT).add_step("p", "h", 0.0, 0.0, "changed", None, b"1", b"2", "json")
    assert explain.latest() == ["r-9", "r-8", "r-7"]
    assert explain.latest(1) == ["r-9"]
    assert explain.held_bytes == 3 * 2


def test_explain_memory_is_bounded_in_bytes_and_the_oldest_go_first() -> None:
    explain = Explain(max_bytes=1_000_000)
    value = b"1" * 50_000
    for number in range(100):
        explain.start(f"r-{number}", START_AT).add_step("p", "h", 0.0, 0.0, "changed", None, value, value, "json")
        assert explain.held_bytes <= 1_000_000
    assert explain.latest(100) == [f"r-{number}" for number in range(99, 89, -1)]


def test_explain_request_larger_than_the_ring_goes_and_its_later_steps_with_it() -> None:
    explain = Explain(max_bytes=100)
    record = explain.start("r", START_AT)
    record.add_step("p", "h", 0.0, 0.0, "changed", None, b"1" * 101, None, "json")
    record.add_step("p", "h", 0.0, 0.0, "changed", None, b"1", b"2", "json")
    record.add_absent("h", ("x",))
    assert (explain.held_bytes, explain.latest()) == (0, [])


def test_explain_request_id_used_again_shows_the_latest_once_and_lets_the_first_go_in_its_turn() -> None:
    explain = Explain(capacity=2)
    first = explain.start("r", START_AT)
    first.add_step("p", "first", 0.0, 0.0, "changed", None, b"1" * 100, None, "json")
    explain.start("r", START_AT).add_step("p", "second", 0.0, 0.0, "none")
    assert [step["hook"] for step in explain.render("r")["steps"]] == ["second"]
    assert (explain.latest(), explain.held_bytes) == (["r"], 100)
    explain.start("s", START_AT)
    assert explain.held_bytes == 0


def test_explain_steps_of_one_request_are_bounded_and_counted() -> None:
    explain = Explain()
    record = explain.start("r", START_AT)
    for _ in range(MAX_STEPS + 5):
        record.add_step("p", "h", 0.0, 0.0, Outcome.UNCHANGED)
    rendered = explain.render("r")
    assert (len(rendered["steps"]), rendered["steps_dropped"]) == (MAX_STEPS, 5)


def test_explain_view_of_a_small_value_does_not_keep_its_buffer() -> None:
    buffer = bytearray(b'{"x":1}' + b" " * 1_000_000)
    explain = Explain()
    explain.start("r", START_AT).add_step("p", "h", 0.0, 0.0, "changed", None, memoryview(buffer)[:7], None, "json")
    buffer.extend(b"still ours")  # refused while a view is alive
    assert explain.held_bytes == 7


def test_explain_object_is_charged_flat() -> None:
    explain = Explain()
    explain.start("r", START_AT).add_step("p", "h", 0.0, 0.0, "changed", None, {"a": 1}, {"a": 2})
    assert explain.held_bytes == 1024


def test_steps_within_a_plugins_step_come_below_it() -> None:
    explain = Explain()
    record = explain.start("r-1", START_AT)
    record.add_step("first", "chat.on_request", 0.0, 0.1, Outcome.UNCHANGED)
    record.add_step("inner", "sums.add", 0.2, 0.3, Outcome.DONE, None, None, None, None, "definer")
    record.add_step("definer", "chat.on_request", 0.1, 0.4, Outcome.UNCHANGED)
    shown = explain.render("r-1")["steps"]
    assert [(step["position"], step["plugin"], step.get("within")) for step in shown] == [
        (1, "first", None),
        (2, "definer", None),
        (3, "inner", "definer"),
    ]
    assert "within" not in shown[0]


def test_record_that_is_remembered_can_be_gone_on_with() -> None:
    explain = Explain()
    record = explain.start("r-1", START_AT)
    assert explain.live("r-1") is record
    assert explain.live("r-2") is None


def test_steps_within_leave_room_for_others_and_their_values_are_bounded_together() -> None:
    explain = Explain()
    record = explain.start("r-1", START_AT)
    value = packed("x" * 50_000)
    for _ in range(MAX_STEPS):
        record.add_step("inner", "sums.add", 0.1, 0.2, Outcome.CHANGED, None, value, value, "msgpack", "definer")
    record.add_step("definer", "chat.on_request", 0.0, 0.3, Outcome.CHANGED, None, value, value, "msgpack")
    shown = explain.render("r-1")
    assert (len(shown["steps"]), shown["steps_dropped"]) == (MAX_STEPS_WITHIN + 1, MAX_STEPS - MAX_STEPS_WITHIN)
    assert [step["plugin"] for step in shown["steps"] if "changes" in step] == ["definer", "inner", "inner"]
    assert explain.held_bytes == 6 * len(value)
