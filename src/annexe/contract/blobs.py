"""Blobs: bytes that are long enough to travel beside a message, in shared memory.

Pure. The contract finds them, since it knows where bytes are declared; whether they really travel that way is the channel's to decide.

* A type without bytes costs nothing, and a value without long ones only a look at the places where bytes are declared.
* Of a value that holds one, a copy in plain builtins is made, with the blob in it as ``Blob``; its bytes are not copied.

Source: docs/reference/protocol.md, "Shared memory"; ADR-0085.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final, get_origin

import msgspec
from msgspec import inspect as shapes

from annexe.contract.shape import ObjectNode, Shape, reachable, unwrap
from annexe_sdk import wire

__all__ = ["Blob", "BlobPayload", "BlobsFound", "Lift", "as_inline", "compile_lift"]

Lift = Callable[[Any], Any]
_Look = Callable[[Any], bool]  # says whether there is a blob in a value
_BYTES = (bytes, bytearray, memoryview)


class BlobsFound(Exception):  # noqa: N818 - a finding, not an error
    """A message holds blobs: who encodes or decodes it has to know where they are."""


@final
class Blob:
    """Bytes in a value that is about to be sent; never copied here.

    Attributes:
        octets: ``bytes``, ``bytearray`` or a contiguous ``memoryview``.
    """

    __slots__ = ("octets",)

    def __init__(self, octets: bytes | bytearray | memoryview) -> None:
        self.octets = octets


@final
class BlobPayload:
    """A payload that came with blobs: MessagePack in which extensions stand for them.

    Attributes:
        raw: The payload as it came.
        blobs: What the extensions stand for, by index; the host's own copies.
    """

    __slots__ = ("blobs", "raw")

    def __init__(self, raw: bytes, blobs: Sequence[bytes]) -> None:
        self.raw = raw
        self.blobs = blobs

    def __len__(self) -> int:
        return len(self.raw)

    def __bytes__(self) -> bytes:
        return self.raw

    def plain(self, make: Callable[[bytes], Any] = bytes) -> Any:
        """Return the value in plain builtins, blobs in their places: as ``bytes``, or as what ``make`` makes of them.

        Each may be named once: whoever writes the value out again would else make gigabytes of a small message.

        Raises:
            ValueError: An extension of another type, or one that stands for nothing that is left; whatever msgspec raises.
        """
        left = dict(enumerate(self.blobs))

        def blob(code: int, index: memoryview) -> Any:
            if code != wire.BLOB_EXTENSION or len(index) != 1:
                raise ValueError(f"an extension of type {code} with {len(index)} bytes; expected type {wire.BLOB_EXTENSION} with 1")
            if index[0] not in left:
                raise ValueError(f"blob {index[0]} is named twice, or is none of the {len(self.blobs)} that the message brought")
            return make(left.pop(index[0]))

        return msgspec.msgpack.decode(self.raw, ext_hook=blob)


def as_inline(value: Any) -> Any:
    """Return what a codec writes for a value that msgspec does not know: the bytes of a blob, in the message itself.

    Raises:
        TypeError: It is none.
    """
    if type(value) is Blob:
        return value.octets
    raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")


def compile_lift(shape: Shape) -> Lift | None:
    """Return the function that marks the blobs in values of this type; None where the type holds no bytes.

    What it returns is for encoding only. A value that is not of the type is returned as it is: encoding says what is wrong with it.
    """
    if not any(isinstance(node, shapes.BytesType) for node in shape.nodes):
        return None
    look = _Compiler(shape).look_at(shape.root)

    def lift(value: Any) -> Any:
        try:
            if not look(value):
                return value
            return _marked(msgspec.to_builtins(value, builtin_types=_BYTES))
        except Exception:  # noqa: BLE001 - not of the type, so anything may be missing
            return value

    return lift


def _is_blob(value: Any) -> bool:
    if type(value) is memoryview:
        return value.nbytes >= wire.BLOB_FROM_BYTES and value.c_contiguous
    return isinstance(value, _BYTES) and len(value) >= wire.BLOB_FROM_BYTES


def _marked(value: Any) -> Any:
    """Replace blobs in plain builtins, in place where there is one."""
    if isinstance(value, _BYTES):
        return Blob(value) if _is_blob(value) else value
    if isinstance(value, dict):
        for key, item in value.items():
            value[key] = _marked(item)
        return value
    if isinstance(value, (list, tuple)):
        return [_marked(item) for item in value]
    return value


@final
class _Compiler:
    """Makes the looks of one type; a node met twice (a recursive type) gets one."""

    def __init__(self, shape: Shape) -> None:
        self._holds = {id(node) for node in shape.nodes if any(isinstance(below, shapes.BytesType) for below in reachable(node))}
        self._made: dict[int, _Look] = {}

    def look_at(self, node: shapes.Type) -> _Look:
        node = unwrap(node)
        key = id(node)
        if key not in self._made:
            made = self._made
            made[key] = lambda value: made[key](value)  # what a recursive type finds while it is being made
            made[key] = self._make(node)
        return self._made[key]

    def _holding(self, nodes: Sequence[shapes.Type]) -> list[shapes.Type]:
        return [node for node in nodes if id(unwrap(node)) in self._holds]

    def _make(self, node: shapes.Type) -> _Look:
        match node:
            case shapes.ListType() | shapes.VarTupleType():
                item = self.look_at(node.item_type)
                return lambda value: any(map(item, value))
            case shapes.TupleType():
                places = [(at, self.look_at(kind)) for at, kind in enumerate(node.item_types) if id(unwrap(kind)) in self._holds]
                return lambda value: any(look(value[at]) for at, look in places)
            case shapes.DictType():
                item = self.look_at(node.value_type)
                return lambda value: any(map(item, value.values()))
            case shapes.DataclassType() | shapes.StructType() | shapes.TypedDictType():
                return self._make_object(node)
            case shapes.UnionType():
                return self._make_union(node)
        return _is_blob  # bytes

    def _make_object(self, node: ObjectNode) -> _Look:
        fields = [(field.name, self.look_at(field.type)) for field in node.fields if id(unwrap(field.type)) in self._holds]
        if isinstance(node, shapes.TypedDictType):
            return lambda value: any(name in value and look(value[name]) for name, look in fields)
        if len(fields) == 1:
            ((only, look_at_it),) = fields
            return lambda value: look_at_it(getattr(value, only))
        return lambda value: any(look(getattr(value, name)) for name, look in fields)

    def _make_union(self, node: shapes.UnionType) -> _Look:
        arms = [(_python_types(unwrap(arm)), self.look_at(arm)) for arm in self._holding(node.types)]
        return lambda value: any(isinstance(value, kinds) and look(value) for kinds, look in arms)


def _python_types(node: shapes.Type) -> tuple[type, ...]:
    match node:
        case shapes.BytesType():
            return _BYTES
        case shapes.DataclassType() | shapes.StructType():
            return (get_origin(node.cls) or node.cls,)
        case shapes.DictType() | shapes.TypedDictType():
            return (dict,)
    return (list, tuple)
