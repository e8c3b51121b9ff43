"""Which texts of requests, answers and chunks are touched."""

from __future__ import annotations

from typing import Any

from pii_redactor.chat import hide_request, restore_answer, restored_chunks
from pii_redactor.detect import KINDS


def request(*contents: Any, **extra: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content, "extra": {}} for content in contents]
    return {"model": "m", "messages": messages, "stream": False, "temperature": None, "extra": extra}


def chunk(content: str | None = None, *, index: int = 0, finish: str | None = None, **extra: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"content": content, "extra": extra}, "finish_reason": finish, "extra": {}}], "extra": {}}


def shown(chunks: list[dict[str, Any]], index: int = 0) -> str:
    return "".join(choice["delta"]["content"] or "" for part in chunks for choice in part["choices"] if choice["index"] == index)


def test_hide_request_covers_texts_parts_tools_and_user() -> None:
    chat = request("a@example.org", [{"type": "text", "text": "b@example.org"}], user="c@example.org", metadata={"to": "a@example.org"})
    chat["messages"][0]["extra"] = {
        "tool_calls": [{"id": "x@example.org", "function": {"name": "f", "arguments": '{"to": "d@example.org"}'}}]
    }
    hider = hide_request(chat, KINDS)
    assert chat["messages"][0]["content"] == "[EMAIL_1]"
    # Names that others rely on stay as they are.
    assert chat["messages"][0]["extra"]["tool_calls"] == [
        {"id": "x@example.org", "function": {"name": "f", "arguments": '{"to": "[EMAIL_2]"}'}}
    ]
    assert chat["messages"][1]["content"] == [{"type": "text", "text": "[EMAIL_3]"}]
    assert chat["extra"] == {"user": "[EMAIL_4]", "metadata": {"to": "[EMAIL_1]"}}
    assert hider.count == 4


def test_hide_request_leaves_images_and_settings_alone() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://a:b@example.org/x.png"}}
    chat = request([image], stop=["a@example.org"])
    assert hide_request(chat, KINDS).count == 0
    assert chat == request([image], stop=["a@example.org"])


def test_restore_answer_puts_values_back_everywhere() -> None:
    tools = [{"function": {"arguments": '{"to": "[EMAIL_1]"}'}}]
    answer = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "to [EMAIL_1]", "extra": {"tool_calls": tools}}}]}
    assert restore_answer(answer, {"[EMAIL_1]": "a@example.org"})
    message: Any = answer["choices"][0]["message"]
    assert message["content"] == "to a@example.org"
    assert message["extra"]["tool_calls"][0]["function"]["arguments"] == '{"to": "a@example.org"}'
    assert not restore_answer(answer, {"[EMAIL_1]": "a@example.org"})


def test_restored_chunks_with_a_placeholder_over_three_chunks_restores_it() -> None:
    chunks = [chunk("to [EM"), chunk("AIL"), chunk("_1] now"), chunk(finish="stop")]
    out = list(restored_chunks(chunks, {"[EMAIL_1]": "a@example.org"}))
    assert [part["choices"][0]["delta"]["content"] for part in out] == ["to ", "", "a@example.org now", None]


def test_restored_chunks_with_an_open_prefix_at_the_end_gives_it_with_the_last_chunk() -> None:
    out = list(restored_chunks([chunk("see [EMA"), chunk(finish="stop")], {"[EMAIL_1]": "a@example.org"}))
    assert [part["choices"][0]["delta"]["content"] for part in out] == ["see ", "[EMA"]


def test_restored_chunks_of_a_stream_that_just_ends_gives_the_rest() -> None:
    out = list(restored_chunks([chunk("see [EMA")], {"[EMAIL_1]": "a@example.org"}))
    assert shown(out) == "see [EMA"


def test_restored_chunks_keeps_choices_apart() -> None:
    chunks = [chunk("[EMA"), chunk("[EMAIL", index=1), chunk("IL_1]"), chunk("_1]!", index=1), {"choices": [], "extra": {"usage": {}}}]
    out = list(restored_chunks(chunks, {"[EMAIL_1]": "a@example.org"}))
    assert shown(out) == "a@example.org"
    assert shown(out, 1) == "a@example.org!"
    assert out[-1] == {"choices": [], "extra": {"usage": {}}}


def test_restored_chunks_restores_tool_arguments_in_pieces() -> None:
    def call(arguments: str, **more: Any) -> dict[str, Any]:
        return chunk(tool_calls=[{"index": 0, **more, "function": {"arguments": arguments}}])

    chunks = [call('{"to": "[EMA', id="call_1"), call('IL_1]", "x": "[EM'), chunk(finish="tool_calls")]
    out = list(restored_chunks(chunks, {"[EMAIL_1]": "a@example.org"}))
    calls = [part["choices"][0]["delta"]["extra"].get("tool_calls", []) for part in out]
    assert [entry["function"]["arguments"] for entries in calls for entry in entries] == ['{"to": "', 'a@example.org", "x": "', "[EM"]
    assert calls[0][0]["id"] == "call_1"
    assert calls[2][0]["index"] == 0
