"""Refuse values whose type is right and which the wire still cannot carry.

Pure. A check is compiled once per declared type and looks only where something can be wrong, so that a type of text and flags costs
nothing:

* NaN and infinity, which JSON cannot say;
* integers beyond 64 bits, which MessagePack cannot say;
* anything but plain JSON values where the type is ``Any``: there a codec would decide what arrives;
* nesting above ``MAX_NESTING`` where the type does not bound it (``Any`` and recursive types).

Source: docs/reference/protocol.md; ADR-0011.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING
from math import isfinite
from operator import attrgetter
from typing import Any, final, get_origin

import msgspec
from msgspec import inspect as shapes

from annexe.contract.blobs import Blob
from annexe.contract.invalid import InvalidValueError, bounded, nesting_error
from annexe.contract.shape import ObjectNode, Shape, children, reachable, unwrap
from annexe_sdk.wire import MAX_NESTING

__all__ = ["Check", "check_plain", "check_written", "compile_check"]

Check = Callable[[Any, int], None]  # value, levels of nesting left; raises InvalidValueError

_MIN_INT, _MAX_INT = -(2**63), 2**64 - 1
_HARMLESS = frozenset({str, bool, type(None)})


def compile_check(shape: Shape, *, floats: bool, ints: bool, decoded: bool = False) -> Check | None:
    """Return the check for values of this type, or None when nothing can be wrong.

    Args:
        shape: The declared type.
        floats: Look at declared floats. Text that is JSON needs no look: it has no word for NaN.
        ints: Look at declared integers. MessagePack needs no look: it has no room for more than 64 bits.
        decoded: The values come from msgspec, which leaves a dataclass's defaults out of the instance, and what is not in the instance it
            does not encode: write them in, or the next plugin would not see them.
    """
    compiler = _Compiler(shape, floats=floats, ints=ints, decoded=decoded)
    return compiler.check_of(shape.root) if compiler.needs(shape.root) else None


def check_plain(value: Any, room: int = MAX_NESTING) -> None:
    """Check a value of undeclared type: plain JSON all the way down.

    Args:
        value: Anything.
        room: Levels of nesting left.

    Raises:
        InvalidValueError: With the first thing that cannot travel.
    """
    if value is None or isinstance(value, (str, bool)):
        return
    if isinstance(value, float):
        _check_float(value, room)
    elif isinstance(value, int):
        _check_int(value, room)
    elif isinstance(value, dict):
        _check_plain_object(value, room)
    elif isinstance(value, (list, tuple)):
        _check_items(value, room, check_plain)
    else:
        raise InvalidValueError(path="$", expected="a plain JSON value, for this place has no declared type", actual=type(value).__name__)


def check_written(value: Any, room: int = MAX_NESTING) -> None:
    """Check a value of undeclared type that goes from MessagePack to JSON: as ``check_plain``, and bytes, which become base64 text.

    Args:
        value: Plain builtins; blobs may be marked.
        room: Levels of nesting left.

    Raises:
        InvalidValueError: With the first thing that JSON has no word for.
    """
    if isinstance(value, dict):
        _check_keys(value)
        _check_values(value, room, check_written)
    elif isinstance(value, list):
        _check_items(value, room, check_written)
    elif not isinstance(value, (bytes, Blob)):
        check_plain(value, room)


@final
class _Compiler:
    """Makes the checks of one type; a node met twice (a recursive type) gets one check."""

    def __init__(self, shape: Shape, *, floats: bool, ints: bool, decoded: bool) -> None:
        self._decoded = decoded
        suspects: tuple[type[shapes.Type], ...] = (shapes.AnyType,)
        suspects += (shapes.FloatType,) if floats else ()
        suspects += (shapes.IntType,) if ints else ()
        wrong = {id(node) for node in shape.nodes if isinstance(node, suspects) or _is_recursive(node) or self._defaults_of(node)}
        self._needed = {id(node) for node in shape.nodes if any(id(below) in wrong for below in reachable(node))}
        self._made: dict[int, Check] = {}

    def needs(self, node: shapes.Type) -> bool:
        return id(unwrap(node)) in self._needed

    def _defaults_of(self, node: shapes.Type) -> list[tuple[str, Any]]:
        """Return what msgspec leaves to the class: plain defaults of a dataclass without slots."""
        if not (self._decoded and isinstance(node, shapes.DataclassType)):
            return []
        cls: Any = get_origin(node.cls) or node.cls
        fields = cls.__dataclass_fields__.values()
        return [] if hasattr(cls, "__slots__") else [(field.name, field.default) for field in fields if field.default is not MISSING]

    def check_of(self, node: shapes.Type) -> Check:
        node = unwrap(node)
        key = id(node)
        if key not in self._made:
            made = self._made
            made[key] = lambda value, room: made[key](value, room)  # what a recursive type finds while it is being made
            made[key] = self._make(node)
        return self._made[key]

    def _make(self, node: shapes.Type) -> Check:
        match node:
            case shapes.FloatType():
                return _check_float
            case shapes.IntType():
                return _check_int
            case shapes.ListType() | shapes.VarTupleType():
                return self._make_items(node)
            case shapes.TupleType():
                return self._make_tuple(node)
            case shapes.DictType():
                return self._make_dict(node)
            case shapes.DataclassType() | shapes.StructType() | shapes.TypedDictType():
                return self._make_object(node)
            case shapes.UnionType():
                return self._make_union(node)
        return check_plain  # Any

    def _make_items(self, node: shapes.ListType | shapes.VarTupleType) -> Check:
        item = self.check_of(node.item_type)
        return lambda value, room: _check_items(value, room, item)

    def _make_tuple(self, node: shapes.TupleType) -> Check:
        items = [(index, self.check_of(kind)) for index, kind in enumerate(node.item_types) if self.needs(kind)]

        def check_tuple(value: Any, room: int) -> None:
            _check_room(room)
            for index, check in items:
                try:
                    check(value[index], room - 1)
                except InvalidValueError as error:
                    raise error.inside(f"[{index}]") from None

        return check_tuple

    def _make_dict(self, node: shapes.DictType) -> Check:
        check = self.check_of(node.value_type)
        return lambda value, room: _check_values(value, room, check)

    def _make_object(self, node: ObjectNode) -> Check:
        fields = [(field.name, self.check_of(field.type)) for field in node.fields if self.needs(field.type)]
        # A TypedDict is a dict at run time, and its optional keys may be missing.
        read = _optional_key if isinstance(node, shapes.TypedDictType) else getattr

        numbers = [name for name, check in fields if check is _check_float]
        only_numbers = len(numbers) == len(fields) > 0 and read is getattr
        take = attrgetter(*numbers) if only_numbers else None
        defaults = self._defaults_of(node)
        all_finite: Callable[[Any], bool] = isfinite if len(numbers) == 1 else _all_finite

        def check_object(value: Any, room: int) -> None:
            if room <= 0:  # not a call: this is where most of the time goes
                raise nesting_error(MAX_NESTING)
            for name, default in defaults:
                value.__dict__.setdefault(name, default)
            if take is not None:
                try:
                    if all_finite(take(value)):
                        return  # a few numbers, looked at in C; what is wrong is found below
                except TypeError:
                    pass  # unset, or no number
            for name, check in fields:
                try:
                    item = read(value, name)
                    if item is not msgspec.UNSET:
                        check(item, room - 1)
                except InvalidValueError as error:
                    raise error.inside(f".{name}") from None

        return check_object

    def _make_union(self, node: shapes.UnionType) -> Check:
        if any(isinstance(unwrap(arm), shapes.AnyType) for arm in node.types):
            return check_plain  # msgspec decodes it as Any, too
        arms = [(_python_type(unwrap(arm)), self.check_of(arm)) for arm in node.types if self.needs(arm)]

        def check_union(value: Any, room: int) -> None:
            for kind, check in arms:
                if isinstance(value, kind):
                    return check(value, room)
            return None

        return check_union


def _all_finite(numbers: tuple[float, ...]) -> bool:
    return all(map(isfinite, numbers))


def _optional_key(value: dict[str, Any], name: str) -> Any:
    return value.get(name, msgspec.UNSET)


def _python_type(node: shapes.Type) -> type | tuple[type, ...]:
    match node:
        case shapes.FloatType():
            return float
        case shapes.IntType():
            return int
        case shapes.DataclassType() | shapes.StructType():
            return get_origin(node.cls) or node.cls
        case shapes.DictType() | shapes.TypedDictType():
            return dict
    return (list, tuple)


def _is_recursive(node: shapes.Type) -> bool:
    return any(below is node for child in children(node) for below in reachable(child))


def _check_room(room: int) -> None:
    if room <= 0:
        raise nesting_error(MAX_NESTING)


def _check_float(value: float, _room: int) -> None:
    if not isfinite(value):
        raise InvalidValueError(path="$", expected="a finite number", actual=str(value))


def _check_int(value: int, _room: int) -> None:
    if not _MIN_INT <= value <= _MAX_INT:
        raise InvalidValueError(path="$", expected="an integer of at most 64 bits", actual=f"one of {value.bit_length()} bits")


def _are_plain_scalars(items: Sequence[Any]) -> bool:
    """Say of a list of one sort of scalar, in C, that all of it can travel; where it says False, each has to be looked at."""
    kinds = set(map(type, items))
    if kinds <= _HARMLESS:
        return True
    if kinds == {float}:
        return all(map(isfinite, items))
    return kinds == {int} and min(items) >= _MIN_INT and max(items) <= _MAX_INT


def _check_items(value: Any, room: int, check: Check) -> None:
    _check_room(room)
    # As below, for Any: half a million numbers would take a second one by one.
    if (check is check_plain or check is check_written) and _are_plain_scalars(value):
        return
    if check is _check_float and all(map(isfinite, value)):
        return  # a vector of many numbers deserves the fast way
    for index, item in enumerate(value):
        try:
            check(item, room - 1)
        except InvalidValueError as error:
            raise error.inside(f"[{index}]") from None


def _check_values(value: Any, room: int, check: Check) -> None:
    _check_room(room)
    for key, item in value.items():
        try:
            check(item, room - 1)
        except InvalidValueError as error:
            raise error.inside(f"[{bounded(repr(key))}]") from None


def _check_plain_object(value: dict[Any, Any], room: int) -> None:
    _check_keys(value)
    _check_values(value, room, check_plain)


def _check_keys(value: dict[Any, Any]) -> None:
    for key in value:
        if not isinstance(key, str):
            raise InvalidValueError(path="$[key]", expected="str", actual=type(key).__name__)
