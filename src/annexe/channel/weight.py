"""How many values are in a message, told without building them.

Pure. Ten megabytes of text are one value and are there in milliseconds; ten megabytes of empty maps are millions, and to build them keeps
the event loop for seconds, in which no deadline is seen. So the host counts before it decodes.

* The cost is bounded itself: counting stops where there are too many, and a long text is passed over at once.
* What is broken counts for what was found until then: the decoder, which comes next, says what is wrong with it.

Source: docs/reference/protocol.md, "Limits"; ADR-0004.
"""

from __future__ import annotations

import re

from annexe_sdk.frames import JSON_FIRST_BYTE

__all__ = ["COUNTED_FROM_BYTES", "MAX_PARTS", "MAX_VALUES", "is_too_much"]

COUNTED_FROM_BYTES = 128 * 1024
"""Shorter messages are not counted: they cannot hold that much."""

MAX_PARTS = 100_000
"""Texts, blobs, arrays and maps in one message."""

MAX_VALUES = 500_000
"""Values in one message, numbers and the like included."""

# A text that is never closed ends with the message. Nothing is tried twice: time is linear whatever the bytes.
_JSON_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_SCALARS = re.compile(
    rb"(?:[\x00-\x7f\xc0\xc2\xc3\xe0-\xff]++|[\xcb\xcf\xd3].{8}|[\xca\xce\xd2].{4}|[\xcd\xd1]..|[\xcc\xd0].)*+", re.DOTALL
)
_FIXMAP, _FIXARRAY, _FIXSTR = 0x80, 0x90, 0xA0
# First byte to the bytes of its length, and how many values each counted one is (0: it is skipped as so many bytes).
_LONG = {0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0)}
_FIXED_EXTENSIONS = {0xD4: 3, 0xD5: 4, 0xD6: 6, 0xD7: 10, 0xD8: 18}  # head, type and what they hold
_EXTENSIONS = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_LONG |= {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


def is_too_much(frame: bytes) -> bool:
    """Say whether a message holds more than ``MAX_PARTS`` or ``MAX_VALUES``."""
    return _is_too_much_json(frame) if frame[0] == JSON_FIRST_BYTE else _is_too_much_msgpack(frame)


def _is_too_much_json(frame: bytes) -> bool:
    # Each value follows one of these, or is the partner of one that does. Mostly that is enough: a long text has few of them.
    if frame.count(b",") + frame.count(b"[") + frame.count(b"{") <= MAX_PARTS // 2:
        return False
    rest, texts = _JSON_TEXT.subn(b"", frame, count=MAX_PARTS + 1)
    if texts > MAX_PARTS:
        return True
    maps = rest.count(b"{") + rest.count(b"[")
    return texts + maps > MAX_PARTS or rest.count(b",") + maps > MAX_VALUES


def _is_too_much_msgpack(frame: bytes) -> bool:
    at, parts, values, size = 0, 0, 0, len(frame)
    scalars_from = _SCALARS.match
    while True:
        run = scalars_from(frame, at)
        at = size if run is None else run.end()
        if at >= size:
            return False
        head = frame[at]
        parts += 1
        if parts > MAX_PARTS:
            return True
        if _FIXSTR <= head < 0xC0:
            at += 1 + (head & 0x1F)
        elif head < _FIXARRAY:
            at, values = at + 1, values + 2 * (head & 0x0F)
        elif head < _FIXSTR:
            at, values = at + 1, values + (head & 0x0F)
        elif head in _LONG:
            width, each = _LONG[head]
            count = int.from_bytes(frame[at + 1 : at + 1 + width], "big")
            at += 1 + width
            if each:
                values += each * count
            else:
                at += count
        elif head in _FIXED_EXTENSIONS:
            at += _FIXED_EXTENSIONS[head]
        elif head in _EXTENSIONS:
            width = _EXTENSIONS[head]
            at += 2 + width + int.from_bytes(frame[at + 1 : at + 1 + width], "big")
        else:
            return False  # no value begins so: the decoder refuses it
        if values > MAX_VALUES:
            return True
