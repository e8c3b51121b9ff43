"""The application itself: what it does, whatever framework serves it."""

from __future__ import annotations

from collections.abc import Iterator

from annexe import SyncHost
from annexe.errors import RejectedError
from examples.flask.contract import Note, Notes

__all__ = ["Notebook"]


class Notebook:
    """Keeps notes, each as its plugins leave it."""

    def __init__(self, host: SyncHost) -> None:
        self._host = host
        self._notes: list[Note] = []

    def add(self, author: str, text: str) -> tuple[int, str]:
        """Keep a note; return an HTTP status and a text."""
        with self._host.request(deadline_s=2.0, key=author) as request:
            try:
                note = request.hooks(Notes).on_note(Note(author, text))
            except RejectedError as refusal:
                return refusal.status, f"{refusal.message}\n"
        self._notes.append(note)
        return 200, f"{note.text}\n"

    def lines(self) -> Iterator[str]:
        """Yield the notes, one a line, as they come out of the plugins."""
        for line in self._host.hooks(Notes).on_lines(f"{note.author}: {note.text}" for note in list(self._notes)):
            yield f"{line}\n"
