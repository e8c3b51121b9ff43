"""What a key and a value of the key-value store may be, and how a value is kept.

Pure. Values are kept as MessagePack with sorted maps, so that equal values have equal bytes.

* A value is what JSON can say: reading it back gives the same whichever codec the plugin's channel uses.
* ``None`` is no value: it stands for "no such key" wherever a value is read or compared.

Source: docs/reference/kv.md.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from annexe.errors import InvalidParamsError

__all__ = ["MAX_KEY_BYTES", "MAX_VALUE_BYTES", "check_key", "decode_value", "encode_value", "prefix_end"]

MAX_KEY_BYTES = 512
MAX_VALUE_BYTES = 1024 * 1024

_NOT_IN_KEYS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_ALWAYS_JSON = frozenset((str, int, bool))
_LAST_CHARACTER = 0x10FFFF
_FIRST_SURROGATE, _AFTER_SURROGATES = 0xD800, 0xE000
# Greater than every key: one character more than the longest key can have of the greatest one.
_AFTER_ALL_KEYS = chr(_LAST_CHARACTER) * (MAX_KEY_BYTES // 4 + 1)


def check_key(key: str, *, method: str, name: str = "key", may_be_empty: bool = False) -> None:
    """Check a key, or a part of one.

    Args:
        key: The text.
        method: Wire method it came with, for the error.
        name: Name of the parameter, for the error.
        may_be_empty: True for a prefix.

    Raises:
        InvalidParamsError: It is empty, longer than 512 bytes of UTF-8, or holds control characters; ``param``, ``expected``.
    """
    if (key or may_be_empty) and len(key) <= MAX_KEY_BYTES and not _NOT_IN_KEYS.search(key) and len(key.encode()) <= MAX_KEY_BYTES:
        return
    expected = f"{0 if may_be_empty else 1} to {MAX_KEY_BYTES} bytes of UTF-8 without control characters"
    got = f"{key[:40]!r}, {len(key)} characters"
    raise InvalidParamsError(f"{method}: {name}: expected {expected}, got {got}.", method=method, param=name, expected=expected)


def encode_value(value: Any, *, method: str, name: str = "value") -> bytes:
    """Return a value as it is kept; equal values of equal type give equal bytes.

    Raises:
        InvalidParamsError: It is ``None``, larger than 1 MiB, or not what JSON can say; ``param``, ``expected``.
    """
    if value is None:
        raise _invalid(method, name, expected="a value other than null (to remove a key, use kv.delete)", got="null")
    try:
        encoded = msgspec.msgpack.encode(value, order="deterministic")
        if len(encoded) <= MAX_VALUE_BYTES and (type(value) in _ALWAYS_JSON or _survives_json(value, encoded)):
            return encoded
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        encoded = b""
    if len(encoded) > MAX_VALUE_BYTES:
        raise _invalid(method, name, expected=f"at most {MAX_VALUE_BYTES} bytes", got=f"{len(encoded)}")
    wanted = "what JSON can say: objects with string keys, arrays, strings, finite numbers of at most 64 bits, booleans"
    raise _invalid(method, name, expected=wanted, got=f"a {type(value).__name__} that cannot be said in JSON")


def decode_value(encoded: bytes) -> Any:
    """Return a kept value, built anew: whoever gets it may change it."""
    return msgspec.msgpack.decode(encoded)


def prefix_end(prefix: str) -> str:
    """Return the least text that is greater than every key that begins with ``prefix``, in the order of code points."""
    for end in range(len(prefix), 0, -1):
        following = ord(prefix[end - 1]) + 1
        if following == _FIRST_SURROGATE:
            following = _AFTER_SURROGATES
        if following <= _LAST_CHARACTER:
            return prefix[: end - 1] + chr(following)
    return _AFTER_ALL_KEYS


def _survives_json(value: Any, encoded: bytes) -> bool:
    """Say whether a trip through JSON changes nothing: bytes would become text, NaN null, and a number as key a string."""
    back = msgspec.json.decode(msgspec.json.encode(value))
    return msgspec.msgpack.encode(back, order="deterministic") == encoded


def _invalid(method: str, name: str, *, expected: str, got: str) -> InvalidParamsError:
    return InvalidParamsError(f"{method}: {name}: expected {expected}, got {got}.", method=method, param=name, expected=expected)
