"""The service ``tokenizer`` 1.0.0. Each plugin that offers or calls it has a copy of this file."""

# Methods of a contract have no body: mypy does not know that nobody calls them.
# mypy: disable-error-code="empty-body"

from __future__ import annotations

from annexe_sdk import Service

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Tokenizer"]


class Tokenizer(Service, name="tokenizer"):
    """How many tokens a model reads."""

    def count(self, text: str, model: str = "") -> int:
        """Return how many tokens a text has; ``model`` is the one that will read it, empty: any."""

    def count_messages(self, messages: list[dict[str, Any]], model: str = "") -> int:
        """Return how many tokens a chat's messages have, with what its format adds to each."""
