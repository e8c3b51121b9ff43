"""The application on the web: with Flask where that is installed, else with what comes with Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from urllib.parse import parse_qs

from examples.flask.notes import Notebook

__all__ = ["make_app", "plain_app"]

_MAX_FORM_BYTES = 64 * 1024

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def make_app(notebook: Notebook) -> Wsgi:
    """Return the WSGI application."""
    return flask_app(notebook) if find_spec("flask") is not None else plain_app(notebook)


def flask_app(notebook: Notebook) -> Wsgi:
    """Serve with Flask."""
    flask: Any = import_module("flask")
    app = flask.Flask(__name__)

    @app.get("/")  # type: ignore[untyped-decorator]
    def show() -> Any:
        return flask.Response(notebook.lines(), mimetype="text/plain")

    @app.post("/")  # type: ignore[untyped-decorator]
    def add() -> Any:
        status, text = notebook.add(flask.request.form.get("author", "somebody"), flask.request.form.get("text", ""))
        return text, status

    wsgi: Wsgi = app
    return wsgi


def plain_app(notebook: Notebook) -> Wsgi:
    """Serve without any framework."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "POST":
            status, text = _add(notebook, environ)
            body: Iterable[bytes] = [text.encode()]
        else:
            status, body = 200, (line.encode() for line in notebook.lines())
        start_response(f"{status} {HTTPStatus(status).phrase}", [("Content-Type", "text/plain; charset=utf-8")])
        return body

    return app


def _add(notebook: Notebook, environ: dict[str, Any]) -> tuple[int, str]:
    try:
        size_bytes = int(environ.get("CONTENT_LENGTH") or 0)
        if not 0 <= size_bytes <= _MAX_FORM_BYTES:
            return 413, f"A note has at most {_MAX_FORM_BYTES} bytes.\n"
        form = parse_qs(environ["wsgi.input"].read(size_bytes).decode())
    except ValueError:
        return 400, "The request is no form in UTF-8.\n"
    return notebook.add(form.get("author", ["somebody"])[0], form.get("text", [""])[0])
