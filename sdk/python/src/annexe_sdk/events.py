"""What a handler of events is called with.

Source: docs/how-to/publish-events.md.
"""

from annexe_sdk.plugin import Misfit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Event", "event_of"]


class Event:
    """Something that another plugin, or the application, published.

    Attributes:
        topic: Its name.
        value: Plain values.
        publisher: Id of the plugin that published it, set by the host; None: the application did.
        time: When, in Unix seconds, by the host's clock.
    """

    __slots__ = ("publisher", "time", "topic", "value")

    def __init__(self, *, topic: str, value: "Any", publisher: str | None, time: float) -> None:
        self.topic = topic
        self.value = value
        self.publisher = publisher
        self.time = time

    def __repr__(self) -> str:
        return f"Event(topic={self.topic!r}, value={self.value!r}, publisher={self.publisher!r}, time={self.time!r})"


def event_of(params: "Any") -> "list[Any]":
    """Return what a handler is called with, from the parameters of a call."""
    try:
        return [Event(topic=params["topic"], value=params["value"], publisher=params["publisher"], time=params["time"])]
    except (KeyError, TypeError) as error:
        raise Misfit(f"an event is a map of topic, value, publisher and time: {error!r}") from error
