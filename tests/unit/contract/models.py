"""Types that the contract tests declare."""

from __future__ import annotations

import datetime
import enum
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
import pydantic


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Message:
    role: Literal["user", "assistant"]
    content: str
    weight: float = 1.0


@dataclass
class ChatRequest:
    model: str
    messages: list[Message]
    temperature: float | None = None
    tags: dict[str, str] = field(default_factory=dict)
    attachment: bytes = b""
    color: Color = Color.RED


@dataclass
class PickyRequest:
    text: str

    def __post_init__(self) -> None:
        if self.text == "key":
            raise KeyError("no such text")
        if self.text == "value":
            raise ValueError("not this text")


class Reply(TypedDict):
    text: str
    score: NotRequired[float]


class Point(msgspec.Struct):
    x: Annotated[int, msgspec.Meta(ge=0)]
    y: float = 0.0


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    a: int


class Maybe(msgspec.Struct):
    ratio: float | msgspec.UnsetType = msgspec.UNSET


class Circle(msgspec.Struct, tag=True):
    radius: float


class Label(msgspec.Struct, tag=True):
    text: str


class Camel(msgspec.Struct, rename="kebab"):
    first_name: str


class Row(msgspec.Struct, array_like=True):
    id: int
    below: list[Row] = []


@dataclass
class Tree:
    name: str
    children: list[Tree] = field(default_factory=list)


@dataclass
class Event:
    at: datetime.datetime
    id: uuid.UUID
    price: Decimal
    payload: bytes = b""


@dataclass
class Loose:
    extra: Any
    count: int = 0


@dataclass
class Mixed:
    pair: tuple[int, float]
    numbers: tuple[float, ...]
    either: float | list[float] | dict[str, float] | None
    shape: Circle | Label | str
    documented: Annotated[float, msgspec.Meta(title="A number", examples=[1.5])] = 0.5


class Account(pydantic.BaseModel):
    name: str
    age: int = pydantic.Field(ge=0)
    rate: float = 0.0
    token: bytes = b""
    friends: list[Account] = []

    @pydantic.field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name == "key":
            raise KeyError("no such name")
        return name


class Company(pydantic.BaseModel):
    title: str


@dataclass
class Ticket:
    account: Account
    note: str = ""
