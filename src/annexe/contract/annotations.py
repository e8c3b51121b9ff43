"""From what an author wrote as a type to the value type.

Pure. What cannot be used is refused here, while the contract is defined, with the line to write instead; nothing is left for the first
call to find.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from inspect import formatannotation
from typing import Any, final, get_args

from msgspec import inspect as shapes

from annexe.contract.shape import Shape
from annexe.contract.values import ValueType
from annexe.contract.values_msgspec import msgspec_value_type
from annexe.contract.values_pydantic import is_pydantic, pydantic_value_type
from annexe.errors import ContractError

__all__ = ["Place", "value_type"]


@final
@dataclass(frozen=True, slots=True)
class Place:
    """Where in a contract we are, for messages.

    Attributes:
        contract: Name of the class.
        method: Name of its method; empty for the class itself.
    """

    contract: str
    method: str = ""

    def error(self, problem: str, instead: str) -> ContractError:
        """Return the error that names class and method, what is wrong, and what to write instead."""
        where = f"{self.contract}.{self.method}" if self.method else self.contract
        return ContractError(f"{where}: {problem}; {instead}.", contract=self.contract, method=self.method)


def value_type(annotation: Any, place: Place, *, role: str) -> ValueType:
    """Return the value type for an annotation.

    Args:
        annotation: The type, its names resolved.
        place: The method it belongs to.
        role: What it is of, for messages: ``parameter 'request'``, ``the result``.

    Raises:
        ContractError: The type cannot be used in a contract.
    """
    name = _name(annotation)
    try:
        built = _build(annotation, name)
    except NameError as error:
        raise place.error(f"{role} is declared {name}, where {error}", "define or import it at module level") from error
    except Exception as error:  # msgspec and pydantic refuse a type each in their own way
        problem = f"{role} is declared {name}, which cannot be sent ({error})"
        raise place.error(problem, "write types that JSON can tell apart") from error
    if isinstance(built, ValueType):
        return built
    part, instead = built
    raise place.error(f"{role} is declared {name}, which holds {part}", instead)


def _build(annotation: Any, name: str) -> ValueType | tuple[str, str]:
    """Return the value type, or what no contract can use and what to write instead."""
    if any(is_pydantic(part) for part in _parts(annotation)):
        return pydantic_value_type(annotation, name=name)
    shape = Shape(shapes.type_info(annotation))
    if any(is_pydantic(cls) for cls in shape.classes()):
        return pydantic_value_type(annotation, name=name)
    return shape.unsupported() or msgspec_value_type(annotation, name=name, shape=shape)


def _name(annotation: Any) -> str:
    name = formatannotation(annotation).replace("typing.", "")
    for part in _parts(annotation):
        name = name.replace(f"{part.__module__}.", "")
    return name


def _parts(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type):
        yield annotation
    for part in get_args(annotation):
        yield from _parts(part)
