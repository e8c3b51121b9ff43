"""What a declared type is made of.

Pure. Works on the tree msgspec makes of an annotation; the tree of a recursive type is a graph, so nodes are told apart by identity.

Source: ADR-0010 says which types a contract may use.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import final

from msgspec import inspect as shapes

__all__ = ["ObjectNode", "Shape", "children", "declared_values", "reachable", "unwrap"]

ObjectNode = shapes.DataclassType | shapes.StructType | shapes.TypedDictType

_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_LEAVES = (
    shapes.AnyType,
    shapes.BoolType,
    shapes.BytesType,
    shapes.EnumType,
    shapes.FloatType,
    shapes.IntType,
    shapes.LiteralType,
    shapes.NoneType,
    shapes.StrType,
)
# Travel as text in both codecs.
_TEXT_LEAVES = (shapes.DateTimeType, shapes.DateType, shapes.DecimalType, shapes.TimeDeltaType, shapes.TimeType, shapes.UUIDType)
_CONTAINERS = (
    shapes.DataclassType,
    shapes.DictType,
    shapes.ListType,
    shapes.StructType,
    shapes.TupleType,
    shapes.TypedDictType,
    shapes.UnionType,
    shapes.VarTupleType,
)
_INSTEAD: dict[type[shapes.Type], str] = {
    shapes.ByteArrayType: "write bytes",
    shapes.FrozenSetType: "write list[...]",
    shapes.MemoryViewType: "write bytes",
    shapes.NamedTupleType: "write a dataclass with the same fields",
    shapes.SetType: "write list[...]",
}
_INSTEAD_OF_OTHERS = "write a dataclass, TypedDict, msgspec.Struct, pydantic model, a plain JSON type, or Any"


@final
class Shape:
    """All nodes of one declared type.

    Args:
        root: What ``msgspec.inspect.type_info`` gave for the annotation.
    """

    __slots__ = ("nodes", "root")

    def __init__(self, root: shapes.Type) -> None:
        self.root = unwrap(root)
        self.nodes = reachable(self.root)

    def unsupported(self) -> tuple[str, str] | None:
        """Return the first part no contract can use and what to write instead, or None."""
        for node in self.nodes:
            if isinstance(node, shapes.DictType) and not isinstance(unwrap(node.key_type), shapes.StrType):
                return "a dict whose keys are not str", "write dict[str, ...]"
            if not isinstance(node, (*_LEAVES, *_TEXT_LEAVES, *_CONTAINERS)):
                # Only kinds of our own making have no class.
                name = getattr(getattr(node, "cls", None), "__name__", type(node).__name__.removesuffix("Type").lower())
                return f"the type {name}", _INSTEAD.get(type(node), _INSTEAD_OF_OTHERS)
        return None

    def classes(self) -> Iterator[type]:
        """Yield every class among the nodes: models, enums, and classes msgspec does not know."""
        for node in self.nodes:
            if isinstance(node, (shapes.CustomType, shapes.DataclassType)):
                yield node.cls

    def holds_instants(self) -> bool:
        """Say whether there is a datetime, which MessagePack would send in a form of its own and JSON as text."""
        return any(isinstance(node, shapes.DateTimeType) for node in self.nodes)


def declared_values(root: shapes.Type, path: str) -> list[object]:
    """Return the values that enums and literals declare for one place in a value; empty where there is none.

    Args:
        root: The type of the whole.
        path: As decoding tells it: ``$.items[0].unit``, ``$[...]`` for the value of some key.
    """
    nodes = _members([root])
    for name, index in _STEP.findall(path):
        nodes = _members([below for node in nodes for below in _below(node, name, index)])
    values: list[object] = []
    for node in nodes:
        if isinstance(node, shapes.LiteralType):
            values += node.values
        elif isinstance(node, shapes.EnumType):
            values += [member.value for member in node.cls]
    return values


def _members(nodes: list[shapes.Type]) -> list[shapes.Type]:
    """Return the nodes with unions opened; a union holds no union."""
    plain = list(map(unwrap, nodes))
    return [unwrap(member) for node in plain for member in (node.types if isinstance(node, shapes.UnionType) else (node,))]


def _below(node: shapes.Type, name: str, index: str) -> list[shapes.Type]:
    match node:
        case shapes.DataclassType() | shapes.StructType() | shapes.TypedDictType():
            return [field.type for field in node.fields if field.encode_name == name]
        case shapes.ListType() | shapes.VarTupleType():
            return [node.item_type]
        case shapes.TupleType():
            return list(node.item_types[int(index) : int(index) + 1]) if index.isdecimal() else []
        case shapes.DictType():
            return [node.value_type]
        case _:
            return []


def unwrap(node: shapes.Type) -> shapes.Type:
    """Return the node without the annotations that were put around it."""
    while isinstance(node, shapes.Metadata):
        node = node.type
    return node


def children(node: shapes.Type) -> list[shapes.Type]:
    """Return the nodes directly below, unwrapped."""
    below: tuple[shapes.Type, ...] = ()
    match node:
        case shapes.DataclassType() | shapes.StructType() | shapes.TypedDictType():
            below = tuple(field.type for field in node.fields)
        case shapes.ListType() | shapes.VarTupleType():
            below = (node.item_type,)
        case shapes.TupleType():
            below = node.item_types
        case shapes.DictType():
            below = (node.key_type, node.value_type)
        case shapes.UnionType():
            below = node.types
    return [unwrap(child) for child in below]


def reachable(node: shapes.Type) -> list[shapes.Type]:
    """Return this node and all below it, each once, outermost first."""
    seen: dict[int, shapes.Type] = {id(node): node}
    waiting = [node]
    while waiting:
        for child in children(waiting.pop(0)):
            if id(child) not in seen:
                seen[id(child)] = child
                waiting.append(child)
    return list(seen.values())
