"""Hold what came over the wire against a type: a value in, one of that type out, or the place that is not of it.

Imported with ``typed``, never before a plugin is ready.

* What a type names is looked at when its check is made, all of it: what does not travel is refused then, never passed over.
* A check keeps nothing, so that threads may share it.

Source: docs/reference/sdk.md, "Services".
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING
from typing import Annotated, Any, Literal, NewType, NotRequired, Required, final, get_args, get_origin, get_type_hints, is_typeddict

from annexe_sdk.convert import UNIONS, bytes_of, field_types, view_of

__all__ = ["Check", "Mismatch", "bare", "check_for", "needed_of"]

Check = Callable[[Any], Any]

_PLAIN = {bool: "bool", int: "int", str: "str", type(None): "None"}
_LISTS = (list, Sequence, Collection, Iterable)
_CARRIED = (
    "what travels is None, bool, int, float, str, bytes, list, tuple, dict[str, ...], dataclass, TypedDict, Literal and unions of them"
)
_MAX_SHOWN = 40


@final
class Mismatch(Exception):  # noqa: N818 - of a value and a type
    """A value is not of a type.

    Attributes:
        path: Where in the value, outermost first: names and places.
        expected: The type, as it would be written.
        actual: What there is instead.
    """

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(expected, actual)
        self.path: list[str | int] = []
        self.expected = expected
        self.actual = actual

    @property
    def where(self) -> str:
        """The place, such as ``$.tokens[3].text``."""
        return "$" + "".join(f".{step}" if isinstance(step, str) and step.isidentifier() else f"[{step!r}]" for step in self.path)


def check_for(annotation: Any, at: str) -> Check:
    """Make the check of one type.

    Args:
        annotation: Nothing in it is text any more.
        at: Names the method that has it, for messages.

    Returns:
        Takes a value as it travelled and returns what the annotation promises, or raises ``Mismatch``.

    Raises:
        TypeError: Something in it does not travel.
    """
    return _Maker(at).check_for(annotation)


class _Maker:
    """Makes the checks of one method, each class's once: it may hold itself."""

    def __init__(self, at: str) -> None:
        self._at = at
        self._by_class: dict[Any, Check] = {}

    def check_for(self, annotation: Any) -> Check:
        annotation = bare(annotation)
        if annotation is Any or annotation is object:
            return _anything
        if annotation in _PLAIN:
            return _plain(annotation)
        if annotation is float:
            return _number
        if annotation is bytes or annotation is memoryview:
            return _binary(annotation)
        if _is_dataclass(annotation):
            return self._once(annotation, self._dataclass)
        if is_typeddict(annotation):
            return self._once(annotation, self._typed_dict)
        if type(annotation).__name__ == "TypeAliasType":  # of Python 3.12
            return self._once(annotation, lambda alias: self.check_for(alias.__value__))
        return self._holding(annotation, get_origin(annotation) or annotation, get_args(annotation))

    def _holding(self, annotation: Any, origin: Any, args: tuple[Any, ...]) -> Check:
        """Make the check of a type that holds others."""
        if origin is Literal:
            return _literal(args)
        if origin in UNIONS:
            return self._union(annotation)
        if origin in _LISTS:
            return _items(list, self.check_for(args[0]) if args else _anything, _said(annotation))
        if origin is tuple:
            if len(args) == 2 and args[1] is ...:
                return _items(tuple, self.check_for(args[0]), _said(annotation))
            if hasattr(annotation, "__args__"):  # ``tuple[()]`` too
                return _places([self.check_for(arg) for arg in args], _said(annotation))
            return _items(tuple, _anything, "tuple")
        if origin in (dict, Mapping):
            return self._values(annotation, *(args or (Any, Any)))
        raise TypeError(f"{self._at}: an answer cannot be held against {_said(annotation)}; {_CARRIED}")

    def _once(self, cls: Any, make: Callable[[Any], Check]) -> Check:
        if cls in self._by_class:
            return lambda value: self._by_class[cls](value)
        self._by_class[cls] = _anything  # until it is made
        self._by_class[cls] = made = make(cls)
        return made

    def _dataclass(self, cls: Any) -> Check:
        types = {name: hint for name, hint in field_types(cls).items() if cls.__dataclass_fields__[name].init}
        missing = [name for name, hint in types.items() if hint is None]
        if missing:
            text = f"{self._at}: the type of {cls.__name__}.{missing[0]} cannot be read"
            raise TypeError(f"{text}; import what it names, also when the contract runs, where {cls.__name__} is written")
        fields = _fields(cls, types, {name: self.check_for(hint) for name, hint in types.items()}, _needed(cls))

        def check(value: Any) -> Any:
            taken = fields(value)
            try:
                return cls(**taken)
            except Exception as error:  # what the class asks of its fields beyond their types
                raise Mismatch(cls.__name__, f"what it refuses ({type(error).__name__}: {error})") from error

        return check

    def _typed_dict(self, cls: Any) -> Check:
        try:
            types = get_type_hints(cls, include_extras=True)
        except Exception as error:
            raise TypeError(f"{self._at}: the types of {cls.__name__} cannot be read ({type(error).__name__}: {error})") from error
        return _fields(cls, types, {name: self.check_for(hint) for name, hint in types.items()}, needed_of(cls, types))

    def _values(self, annotation: Any, key: Any, held: Any) -> Check:
        key, expected, each = bare(key), _said(annotation), self.check_for(held)
        if key not in (Any, object, str) and not (get_origin(key) is Literal and all(type(arg) is str for arg in get_args(key))):
            raise TypeError(f"{self._at}: {expected}: keys travel as text; write: dict[str, {_said(held)}]")
        of_key = self.check_for(key)

        def check(value: Any) -> Any:
            if type(value) is not dict:
                raise Mismatch(expected, _kind(value))
            converted = {}
            for name, item in value.items():
                try:
                    of_key(name)
                except Mismatch as found:
                    raise Mismatch(f"a key of {found.expected}", found.actual) from None
                converted[name] = _inside(name, each, item)
            return converted

        return check

    def _union(self, annotation: Any) -> Check:
        members = [bare(member) for member in get_args(annotation)]
        # In the order in which they take a value away from one another: an object is a dataclass rather than any dictionary, of two the
        # one that needs more; text is text before it is somebody's bytes; and what takes everything comes last.
        checks = [self.check_for(member) for member in sorted(members, key=_eagerness)]
        expected = _said(annotation)

        def check(value: Any) -> Any:
            deepest: Mismatch | None = None
            for one in checks:
                try:
                    return one(value)
                except Mismatch as found:
                    if found.path and (deepest is None or len(found.path) > len(deepest.path)):
                        deepest = found
            raise deepest or Mismatch(expected, _kind(value))

        return check


def bare(annotation: Any) -> Any:
    """Return a type without what is said about it and by no other name."""
    while True:
        if isinstance(annotation, NewType):
            annotation = annotation.__supertype__
        elif get_origin(annotation) in (Annotated, Required, NotRequired):
            annotation = get_args(annotation)[0]
        else:
            return type(None) if annotation is None else annotation


def _said(annotation: Any) -> str:
    """Return a type as it would be written."""
    annotation = bare(annotation)
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "None"
    if origin in UNIONS:
        return " | ".join(map(_said, args))
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, args))}]"
    if origin is not None and args:
        return f"{_said(origin)}[{', '.join('...' if arg is ... else _said(arg) for arg in args)}]"
    name = getattr(annotation, "__name__", None)
    return name if isinstance(name, str) else repr(annotation).replace("typing.", "")


def _kind(value: Any) -> str:
    return "None" if value is None else type(value).__name__


def _is_dataclass(annotation: Any) -> bool:
    return isinstance(annotation, type) and hasattr(annotation, "__dataclass_fields__")


def _needed(cls: Any) -> frozenset[str]:
    """Return the names of a dataclass's fields that have no default."""
    fields = cls.__dataclass_fields__.items()
    return frozenset(name for name, field in fields if field.init and field.default is MISSING and field.default_factory is MISSING)


def needed_of(cls: Any, types: Mapping[str, Any]) -> frozenset[str]:
    """Return the names that must be in an object of a dataclass or TypedDict, whose fields have these types."""
    if not is_typeddict(cls):
        return _needed(cls)
    # Where annotations are text, the class itself does not know of NotRequired.
    required: frozenset[str] = cls.__required_keys__
    return required - {name for name, hint in types.items() if get_origin(hint) is NotRequired}


def _eagerness(member: Any) -> tuple[int, int]:
    if _is_dataclass(member):
        return 0, -len(_needed(member))
    if is_typeddict(member):
        return 0, -len(member.__required_keys__)
    if member in (bytes, memoryview):
        return 2, 0
    return (3 if member in (Any, object) else 1), 0


def _inside(step: str | int, check: Check, value: Any) -> Any:
    try:
        return check(value)
    except Mismatch as found:
        found.path.insert(0, step)
        raise


def _anything(value: Any) -> Any:
    return value


def _plain(cls: type) -> Check:
    expected = _PLAIN[cls]

    def check(value: Any) -> Any:
        if type(value) is cls:  # True is no number
            return value
        raise Mismatch(expected, _kind(value))

    return check


def _number(value: Any) -> Any:
    if type(value) is float or type(value) is int:  # as everywhere in Python's types, a whole number will do
        return value
    raise Mismatch("float", _kind(value))


def _binary(cls: type) -> Check:
    convert = view_of if cls is memoryview else bytes_of

    def check(value: Any) -> Any:
        converted = convert(value)
        if type(converted) is cls:
            return converted
        raise Mismatch(cls.__name__, "str that is no base64" if type(value) is str else _kind(value))

    return check


def _literal(allowed: tuple[Any, ...]) -> Check:
    expected = f"Literal[{', '.join(map(repr, allowed))}]"

    def check(value: Any) -> Any:
        for one in allowed:
            if type(value) is type(one) and value == one:
                return value
        shown = repr(value) if type(value) in (str, int, bool) else _kind(value)
        raise Mismatch(expected, shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}…")

    return check


def _items(made: type, each: Check, expected: str) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not list:
            raise Mismatch(expected, _kind(value))
        items: list[Any] = []
        try:
            for item in value:
                items.append(each(item))  # noqa: PERF401 - how many there are is the place of the one that is wrong
        except Mismatch as found:
            found.path.insert(0, len(items))
            raise
        return items if made is list else tuple(items)

    return check


def _places(checks: list[Check], expected: str) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not list:
            raise Mismatch(expected, _kind(value))
        if len(value) != len(checks):
            raise Mismatch(f"{expected} of {len(checks)} items", f"{len(value)} items")
        return tuple(_inside(place, one, value[place]) for place, one in enumerate(checks))

    return check


def _fields(cls: Any, types: Mapping[str, Any], checks: Mapping[str, Check], needed: frozenset[str]) -> Check:
    """Make the check of an object's known values; those of other names are left out: a newer provider does no harm."""

    def check(value: Any) -> Any:
        if type(value) is not dict:
            raise Mismatch(cls.__name__, _kind(value))
        taken = {}
        for name, one in checks.items():
            if name in value:
                taken[name] = _inside(name, one, value[name])
            elif name in needed:
                missing = Mismatch(_said(types[name]), "nothing")
                missing.path.append(name)
                raise missing
        return taken

    return check
