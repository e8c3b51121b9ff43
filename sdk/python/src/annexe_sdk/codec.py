"""The two codecs: JSON always, MessagePack when msgspec can be imported.

JSON goes through the interpreter's C accelerator directly, since importing ``json`` costs as much again as starting Python; where the
accelerator is missing, ``json`` does the same work.

* JSON refuses NaN and infinity both ways. In MessagePack it is the host's types that refuse them.
* Dataclass instances are written as objects of their fields.
* JSON writes bytes as base64 text, where the contract may declare bytes. Only the host knows whether it does; where it never can,
  ``encode_plain`` refuses them, as the host does with those that come as MessagePack.

Source: docs/reference/protocol.md, "Messages"; ADR-0002.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["BlobsFound", "Codec", "CodecError", "NoRoom", "has_msgspec", "json_codec", "msgpack_codec", "too_large"]


class CodecError(ValueError):
    """A value that cannot be written, or bytes that cannot be read."""


def too_large(body: bytes, limit_bytes: int) -> CodecError:
    """Make the error for a message longer than a frame."""
    return CodecError(f"a message of {len(body)} bytes; expected at most {limit_bytes}")


class NoRoom(CodecError):  # noqa: N818 - a state of the connection
    """A message too long for a frame, and at present there is no room for its blobs in shared memory."""


class BlobsFound(Exception):  # noqa: N818 - a finding, not an error
    """A message holds extensions: who decodes it has to know what they stand for."""


class Codec:
    """One way to write and read values.

    Args:
        name: As on the wire: ``json`` or ``msgpack``.
        encode: Value to bytes.
        decode: Bytes to value.
        faults: What all of them raise for wrong values and wrong bytes.
        encode_plain: As ``encode``, for places where no contract declares bytes.
    """

    __slots__ = ("decode", "encode", "encode_plain", "faults", "name")

    def __init__(
        self,
        name: str,
        encode: "Callable[[Any], bytes]",
        decode: "Callable[[bytes], Any]",
        faults: "tuple[type[Exception], ...]",
        *,
        encode_plain: "Callable[[Any], bytes] | None" = None,
    ) -> None:
        self.name = name
        self.faults = faults
        self.encode = encode
        self.decode = decode
        self.encode_plain = encode_plain or encode


def _fields_of(value: "Any") -> "Any":
    """Turn a dataclass instance into a dict of its fields, one level deep (the encoder goes on by itself)."""
    fields = getattr(type(value), "__dataclass_fields__", None)
    if fields is None:
        raise CodecError(f"a value of type {type(value).__name__} cannot be sent; expected None, bool, int, float, str, list or dict")
    return {name: getattr(value, name) for name in fields}


def _as_json(value: "Any") -> "Any":
    """Turn what JSON has no word for into what it has: bytes into base64 text, a dataclass instance into a dict."""
    if not isinstance(value, (bytes, bytearray, memoryview)):
        return _fields_of(value)
    from binascii import b2a_base64  # rarely needed

    return b2a_base64(value, newline=False).decode()


def _refuse_constant(name: str) -> "Any":
    raise CodecError(f"{name} is not JSON")


def json_codec() -> Codec:
    """Make the JSON codec, for one connection."""
    encode_text, decode_text = _accelerated() if _IS_ACCELERATED else _plain()

    def encode(value: "Any") -> bytes:
        try:
            return encode_text(value, _as_json).encode()
        except (ValueError, TypeError, RecursionError) as error:
            raise CodecError(str(error)) from error

    def encode_plain(value: "Any") -> bytes:
        try:
            return encode_text(value, _fields_of).encode()
        except (ValueError, TypeError, RecursionError) as error:
            raise CodecError(str(error)) from error

    def decode(frame: bytes) -> "Any":
        try:
            return decode_text(frame.decode())
        except (ValueError, RecursionError, StopIteration) as error:
            raise CodecError(f"not JSON: {error}") from error

    return Codec("json", encode, decode, (CodecError,), encode_plain=encode_plain)


class _Settings:
    """What the C scanner asks for."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_refuse_constant)


def _accelerated() -> "tuple[Callable[..., str], Callable[[str], Any]]":
    from _json import encode_basestring, make_encoder, make_scanner

    scan = make_scanner(_Settings)  # type: ignore[arg-type]  # any object with these attributes will do

    def encode(value: "Any", default: "Callable[[Any], Any]" = _fields_of) -> str:
        # A set of markers finds cycles; the last argument refuses NaN and infinity.
        return "".join(make_encoder({}, default, encode_basestring, None, ":", ",", False, False, False)(value, 0))

    def decode(text: str) -> "Any":
        text = text.strip(" \t\r\n")
        value, end = scan(text, 0)
        if end != len(text):
            raise ValueError("something follows the value")
        return value

    return encode, decode


def _is_accelerated() -> bool:
    """Prove the accelerator before it is relied on, for it is not a public interface."""
    sample = [0, "é\n", {"a": [None, True, 1.5]}]
    try:
        encode, decode = _accelerated()
        return bool(decode(encode(sample)) == sample)
    except Exception:  # pragma: no cover - other Pythons, or an accelerator that changed
        return False


def _plain() -> "tuple[Callable[..., str], Callable[[str], Any]]":
    import json

    def encode(value: "Any", default: "Callable[[Any], Any]" = _fields_of) -> str:
        return json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False, default=default)

    def decode(text: str) -> "Any":
        return json.loads(text, parse_constant=_refuse_constant)

    return encode, decode


_IS_ACCELERATED = _is_accelerated()  # once for all connections, and in a fork server for all forks


def has_msgspec(path: "list[str]") -> bool:
    """Say whether msgspec lies on this import path, by looking only: importing it costs more than starting Python."""
    try:
        from posix import stat  # `os` costs an eighth of starting Python
    except ImportError:  # pragma: no cover - not on POSIX
        from os import stat

    for folder in path:
        try:
            stat(folder + "/msgspec/__init__.py")
        except OSError:
            continue
        return True
    return False


def msgpack_codec() -> Codec:
    """Make the MessagePack codec.

    Raises:
        ImportError: msgspec is not there.
    """
    import msgspec

    # The library's own functions, without a layer of ours in between: they are called for every frame.
    faults = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)
    return Codec("msgpack", msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(ext_hook=_found).decode, faults)


def _found(*_: "Any") -> "Any":
    raise BlobsFound
