"""A contract of a service as JSON Schema, for authors in other languages.

Never imported by a plugin that runs: for ``annexe schema`` and for tools.

* What ``checks`` holds an answer against is what is said here, for the same types; what does not travel is refused alike.
* Every schema stands alone: its references go to its own ``$defs``.
* Values are described as JSON has them: bytes are base64 text.

Source: docs/reference/sdk.md, "Services"; feature SV2.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

from annexe_sdk.checks import bare, check_for, needed_of
from annexe_sdk.contract import Contract, Method, contract_of
from annexe_sdk.convert import UNIONS, field_types, stream_item
from annexe_sdk.typed import annotation_of

__all__ = ["DIALECT", "schema_of"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
_LISTS = (list, Sequence, Collection, Iterable)


def schema_of(of: Any) -> dict[str, Any]:
    """Return what a contract says, as a plugin's file for ``[provides.services]`` has it.

    Args:
        of: The contract's class.

    Returns:
        ``{"methods": {name: {"params": …, "result": …}}}``; ``stream_in`` and ``stream_out`` describe the items of a method that streams.

    Raises:
        TypeError: It is no contract, or something in it does not travel.
    """
    contract = contract_of(of)
    return {"$schema": DIALECT, "title": contract.name, "methods": {name: _method(contract, one) for name, one in contract.methods.items()}}


def _method(contract: Contract, method: Method) -> dict[str, Any]:
    types = {name: annotation_of(contract, method, name) for name in (*method.names, "return")}
    streams = {name: item for name, kind in types.items() if (item := stream_item(kind)) is not None}
    taken = [name for name in method.names if name not in streams]
    named = {"params": None, "stream_in": None, "stream_out": None, "result": None}
    told: dict[str, Any] = {}
    for what in named:
        maker = _Maker(f"{method.at}: {contract.title}.{method.name}")
        if what == "params":
            schema = maker.arguments({name: types[name] for name in taken}, required=method.required - (len(method.names) - len(taken)))
        elif what == "stream_in" and len(taken) < len(method.names):
            schema = maker.schema(next(item for name, (item,) in streams.items() if name != "return"))
        elif what == "stream_out" and "return" in streams:
            schema = maker.schema(streams["return"][0])
        elif what == "result" and "return" not in streams:
            schema = maker.schema(types["return"])
        else:
            continue
        told[what] = maker.whole(schema, f"svc.{contract.name}.{method.name}:{what}")
    if method.function.__doc__:
        told["description"] = method.function.__doc__.strip()
    return told


class _Maker:
    """Makes one schema that stands alone."""

    def __init__(self, at: str) -> None:
        self._at = at
        self._defs: dict[str, Any] = {}
        self._names: dict[Any, str] = {}

    def whole(self, schema: dict[str, Any], at: str) -> dict[str, Any]:
        """Return a schema with all that it refers to."""
        return {"$schema": DIALECT, "$id": f"urn:annexe:{at}", **schema, **({"$defs": self._defs} if self._defs else {})}

    def arguments(self, types: Mapping[str, Any], *, required: int) -> dict[str, Any]:
        """Return the schema of the list in which arguments travel; those at its end may be left out."""
        items = [self.schema(kind) | {"title": name} for name, kind in types.items()]
        listed: dict[str, Any] = {"prefixItems": items} if items else {}
        return {"type": "array", **listed, "items": False, "minItems": required, "maxItems": len(items)}

    def schema(self, annotation: Any) -> dict[str, Any]:
        """Return the schema of what a type is as it travels.

        Raises:
            TypeError: It does not travel.
        """
        check_for(annotation, self._at)  # refuses all that does not, with what to write
        return self._schema(annotation)

    def _schema(self, annotation: Any) -> dict[str, Any]:
        annotation = bare(annotation)
        if annotation is Any or annotation is object:
            return {}
        if annotation in _PLAIN:
            return {"type": _PLAIN[annotation]}
        if annotation is bytes or annotation is memoryview:
            return {"type": "string", "contentEncoding": "base64"}
        if hasattr(annotation, "__dataclass_fields__") or is_typeddict(annotation):
            return self._named(annotation, self._object)
        if type(annotation).__name__ == "TypeAliasType":  # of Python 3.12
            return self._named(annotation, lambda alias: self._schema(alias.__value__))
        return self._holding(get_origin(annotation) or annotation, get_args(annotation))

    def _holding(self, origin: Any, args: tuple[Any, ...]) -> dict[str, Any]:
        if origin is Literal:
            return {"enum": list(args)}
        if origin in UNIONS:
            return {"anyOf": [self._schema(arg) for arg in args]}
        if origin in _LISTS or (origin is tuple and (len(args) == 2 and args[1] is ...)):
            return {"type": "array", "items": self._schema(args[0])} if args else {"type": "array"}
        if origin is tuple:
            places = [self._schema(arg) for arg in args]
            return {"type": "array", "prefixItems": places, "items": False, "minItems": len(places)} if places else {"type": "array"}
        key, held = args or (Any, Any)
        names = {"propertyNames": {"enum": list(get_args(bare(key)))}} if get_origin(bare(key)) is Literal else {}
        return {"type": "object", "additionalProperties": self._schema(held), **names}

    def _named(self, cls: Any, make: Any) -> dict[str, Any]:
        """Return a reference to the schema of a class, made once: it may hold itself."""
        name = self._names.get(cls)
        if name is None:
            name = self._names[cls] = cls.__name__ if cls.__name__ not in self._defs else f"{cls.__name__}{len(self._defs)}"
            self._defs[name] = {}
            self._defs[name] = make(cls)
        return {"$ref": f"#/$defs/{name}"}

    def _object(self, cls: Any) -> dict[str, Any]:
        if is_typeddict(cls):
            types = get_type_hints(cls, include_extras=True)
        else:
            types = {name: kind for name, kind in field_types(cls).items() if cls.__dataclass_fields__[name].init}
        needed = needed_of(cls, types)
        required = [name for name in types if name in needed]
        properties = {name: self._schema(kind) for name, kind in types.items()}
        return {"type": "object", "properties": properties, **({"required": required} if required else {})}
