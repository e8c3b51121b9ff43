"""What a service can be asked, written once as a class that its provider and its callers share.

>>> from annexe_sdk import Service
>>> class Tokenizer(Service, name="tokenizer"):
...     def count(self, text: str, limit: int = 10) -> int: ...

* Making such a class costs what its methods' code objects tell: nothing is imported for it, and no annotation is evaluated.
* A definition that could not be called is refused where it stands, with ``file:line`` and what to write.
* Arguments travel as a list: what the caller leaves out at its end, the provider's side fills in from the contract.

Source: docs/reference/sdk.md, "Services"; feature SV2.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar

__all__ = ["Contract", "Method", "Service", "contract_of"]

_VARARGS, _NAMED_VARARGS, _GENERATOR = 0x04, 0x08, 0x20 | 0x200  # flags of code objects: ``inspect`` costs 9 ms to import
_STREAMS = ("Iterator", "Iterable", "Generator", "AsyncIterator", "AsyncIterable", "AsyncGenerator")
_CONTRACT = "_annexe_contract"


class Method:
    """One method of a contract.

    Attributes:
        name: As it is called.
        cls: The contract's class that defines it; names in its annotations are looked for there too.
        function: What was written.
        names: Of its parameters, without ``self``.
        required: How many of them have no default.
        defaults: Of the others.
        positional: How many are taken by position alone.
        check: Converts an answer, or an item, and checks it against the annotation; None before the first.
        direction: Of its stream: ``in``, ``out`` or ``both``; None where there is none, and before the first call.
    """

    __slots__ = ("at", "check", "cls", "defaults", "direction", "function", "name", "names", "positional", "required")

    def __init__(self, cls: type, name: str, function: "Any") -> None:
        code = getattr(function, "__code__", None)
        self.at = _at(code) if code is not None else cls.__name__
        self.cls = cls
        self.name = name
        self.function = function
        self.check: Callable[[Any], Any] | None = None
        self.direction: str | None = None
        if code is None or isinstance(function, (staticmethod, classmethod)):
            raise TypeError(f"{self.at}: {cls.__name__}.{name} is no method that can be called; write: def {name}(self, ...) -> ...")
        names = code.co_varnames[: code.co_argcount]
        self.names = names[1:]
        self.defaults: tuple[Any, ...] = function.__defaults__ or ()
        self.required = len(self.names) - len(self.defaults)
        self.positional = max(0, code.co_posonlyargcount - 1)
        self._refuse_uncallable(code, names)
        self._refuse_unannotated()

    def _refuse_uncallable(self, code: "Any", names: "tuple[str, ...]") -> None:
        if not names or self.required < 0:
            raise self._refused("has no self", f"def {self.name}(self, ...)")
        if code.co_flags & (_VARARGS | _NAMED_VARARGS):
            raise self._refused("takes any number of arguments", "each parameter with its name and type, or one that is a list")
        if code.co_kwonlyargcount:
            raise self._refused("has parameters after *, but arguments travel as a list", "them without the *; callers may name them")
        if "ctx" in self.names:
            raise self._refused("has a parameter ctx, which no caller passes", "it in the provider's class alone")
        if code.co_flags & _GENERATOR:
            raise self._refused("yields, but a contract only says what there is", f"def {self.name}(self, ...) -> Iterator[...]: ...")

    def _refuse_unannotated(self) -> None:
        try:
            annotations = self.function.__annotations__
        except Exception:  # from Python 3.14 on: a name in them comes later in the file; they are looked at when they are needed
            return
        missing = [name for name in (*self.names, "return") if name not in annotations]
        if missing:
            what = ", ".join("what it returns" if name == "return" else name for name in missing)
            raise self._refused(f"does not say the type of {what}", self.signature())

    def _refused(self, what: str, write: str) -> TypeError:
        return TypeError(f"{self.at}: {self.cls.__name__}.{self.name} {what}; write: {write}")

    def signature(self) -> str:
        """Return the line that defines it, with ``...`` for types that are missing."""
        try:
            types: dict[str, Any] = self.function.__annotations__
        except Exception:
            types = {}
        first = len(self.names) - len(self.defaults)
        said = [f"{name}: {_written(types[name]) if name in types else '...'}" for name in self.names]
        said[first:] = [f"{one} = {default!r}" for one, default in zip(said[first:], self.defaults, strict=True)]
        if self.positional:
            said.insert(self.positional, "/")
        is_async = "async " if self.function.__code__.co_flags & 0x80 else ""
        returns = _written(types["return"]) if "return" in types else "..."
        return f"{is_async}def {self.name}({', '.join(['self', *said])}) -> {returns}"

    def says_stream(self, of: str = "return") -> bool:
        """Say whether what it returns, or a parameter, is written as a stream; by another name it may be one all the same."""
        try:
            written = _written(self.function.__annotations__[of])
        except Exception:
            return False
        return written.partition("[")[0].rpartition(".")[2] in _STREAMS

    def bind(self, args: "tuple[Any, ...]", named: "dict[str, Any]") -> "list[Any]":
        """Return the list of arguments that travels: what is left out at its end stays out.

        Raises:
            TypeError: They are not those of the method.
        """
        given = len(args)
        if given > len(self.names):
            raise self._unfit(f"takes {_counted(len(self.names))}, got {given}")
        if not named:
            if given < self.required:
                raise self._unfit(f"lacks {', '.join(self.names[given : self.required])}")
            return list(args)
        rest = dict(named)
        params, filled = list(args), list(args)
        for place in range(given, len(self.names)):
            name = self.names[place]
            if name in rest and place >= self.positional:
                filled.append(rest.pop(name))
                params = filled[:]
            elif place >= self.required:
                filled.append(self.defaults[place - self.required])
            else:
                raise self._unfit(f"lacks {name}")
        if rest:
            name = next(iter(rest))
            twice = name in self.names[:given] and self.names.index(name) >= self.positional
            raise self._unfit(f"got {name} twice, by position and by name" if twice else f"has no parameter {name} to be given by name")
        return params

    def _unfit(self, what: str) -> TypeError:
        return TypeError(f"{self.cls.__name__}.{self.name} {what}; it is: {self.signature()}")


class Contract:
    """What a contract's class says.

    Attributes:
        name: Of the service.
        title: Of the class, for messages.
        methods: By name.
    """

    __slots__ = ("methods", "name", "title")

    def __init__(self, cls: type, name: str) -> None:
        self.name = name
        self.title = cls.__name__
        self.methods: dict[str, Method] = {}
        for base in reversed(cls.__mro__):
            if base in (object, Service):
                continue
            for key, value in vars(base).items():
                if not key.startswith("_") and (callable(value) or isinstance(value, (property, classmethod, staticmethod))):
                    if isinstance(value, type):
                        continue  # a type that the methods name
                    self.methods[key] = Method(base, key, value)

    def provided_by(self, cls: type, instance: object) -> "list[tuple[Method, Any]]":
        """Return what of a provider answers each method.

        Raises:
            TypeError: A method is missing, does not take what the contract's passes, or does not yield where that gives a stream.
        """
        return [(method, self._answering(cls, instance, method)) for method in self.methods.values()]

    def _answering(self, cls: type, instance: object, method: Method) -> "Any":
        found: Any = getattr(instance, method.name, None)
        code = getattr(found, "__code__", None)
        if code is None or getattr(found, "__func__", found) is method.function:
            write = f"write: {method.signature()}"
            raise TypeError(f"{_place(cls)}: {cls.__name__} has no {method.name!r} of the contract {self.title}; {write}")
        names = code.co_varnames[getattr(found, "__self__", None) is not None : code.co_argcount]
        wants_ctx = names[-1:] == ("ctx",)
        taken = [name.lstrip("_") for name in (names[:-1] if wants_ctx else names)]
        wanted = [name.lstrip("_") for name in method.names]
        fits = taken == wanted or (code.co_flags & _VARARGS and not wants_ctx and taken == wanted[: len(taken)])
        needs_named = code.co_kwonlyargcount > len(found.__kwdefaults__ or ())
        if not fits or needs_named:
            takes = f"takes ({', '.join(names)}{', and more by name' if needs_named else ''})"
            passes = f"{self.title}.{method.name} passes ({', '.join(method.names)})"
            raise TypeError(
                f"{_at(code)}: {cls.__name__}.{method.name} {takes}, but {passes}; write: {method.signature()}, with a last ctx if you like"
            )
        if method.says_stream() and not code.co_flags & _GENERATOR:
            but = f"but {self.title}.{method.name} gives a stream; write: {method.signature()}, and yield each item in it"
            raise TypeError(f"{_at(code)}: {cls.__name__}.{method.name} yields nothing, {but}")
        return found


class Service:
    """Base class of contracts: ``class Tokenizer(Service, name="tokenizer")``. A subclass of one without a name implements it.

    Raises:
        TypeError: The definition is not one that could be called.
    """

    if TYPE_CHECKING:
        _annexe_contract: ClassVar[Contract]

    def __init_subclass__(cls, *, name: "str | None" = None, **more: "Any") -> None:
        super().__init_subclass__(**more)
        if name is None and hasattr(cls, _CONTRACT):
            return  # a provider's class
        if not isinstance(name, str) or not name:
            got = "has no name" if name is None else f"has the name {name!r}"
            raise TypeError(f'{_place(cls)}: {cls.__name__} {got}; write: class {cls.__name__}(Service, name="the-service")')
        contract = Contract(cls, name)
        if not contract.methods:
            raise TypeError(f"{_place(cls)}: {cls.__name__} has no methods; write: def count(self, text: str) -> int: ...")
        cls._annexe_contract = contract


def contract_of(cls: "Any") -> Contract:
    """Return what a contract says.

    Raises:
        TypeError: It is none.
    """
    contract = vars(cls).get(_CONTRACT) if isinstance(cls, type) else None
    if contract is not None:
        return contract  # type: ignore[no-any-return]  # of vars
    inherited = getattr(cls, _CONTRACT, None)
    if inherited is not None and isinstance(cls, type):
        raise TypeError(f"{cls.__name__} has no name of its own: it implements {inherited.title}; give that")
    raise TypeError(
        f'expected the name of a service or its contract, a class made as: class Tokenizer(Service, name="tokenizer"); got {cls!r}'
    )


def _at(code: "Any") -> str:
    return f"{code.co_filename.rpartition('/')[2]}:{code.co_firstlineno}"


def _place(cls: type) -> str:
    """Return ``file:line`` of a class that is being made or decorated."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") != cls.__module__:
        frame = frame.f_back
    return f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"


def _written(annotation: "Any") -> str:
    """Return an annotation as it was written."""
    if isinstance(annotation, str):
        return annotation
    if annotation is None:
        return "None"
    if isinstance(annotation, type) and not hasattr(annotation, "__origin__"):
        return annotation.__qualname__.rpartition(".")[2]
    return repr(annotation).replace("typing.", "").replace("collections.abc.", "")


def _counted(number: int) -> str:
    return f"{number} argument{'' if number == 1 else 's'}"
