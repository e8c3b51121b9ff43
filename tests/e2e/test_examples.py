"""The small examples do what their pages say."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from annexe.testing import host_for
from examples.flask.contract import Note, Notes
from examples.flask.notes import Notebook
from examples.flask.web import make_app, plain_app

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def test_minimal_says_what_its_page_shows_and_is_under_40_lines() -> None:
    done = subprocess.run([sys.executable, str(EXAMPLES / "minimal")], capture_output=True, text=True, timeout=20)
    shown = (EXAMPLES / "minimal" / "README.md").read_text().partition("$ python examples/minimal\n")[2].partition("\n")[0]
    assert done.stdout == f"{shown}\n", done.stderr
    assert len((EXAMPLES / "minimal" / "__main__.py").read_text().splitlines()) < 40


@pytest.fixture
def notebook() -> Iterator[Notebook]:
    with host_for(EXAMPLES / "flask" / "plugins", contracts=[Notes]) as host:
        assert host.hooks(Notes).on_note(Note("ann", "a")) == Note("ann", "a Thank you!")
        yield Notebook(host)


def ask(app: Any, method: str = "GET", body: bytes = b"", *, length: str | None = None) -> tuple[str, str]:
    """Call a WSGI application; return status and text."""
    environ = {"REQUEST_METHOD": method, "CONTENT_LENGTH": length or str(len(body)), "wsgi.input": io.BytesIO(body)}
    said: list[str] = []
    text = b"".join(app(environ, lambda status, headers: said.append(status)))
    return said[0].partition(" ")[0], text.decode()  # the words after the number differ between versions of Python


def test_notes_go_through_plugins_and_come_out_as_a_stream(notebook: Notebook) -> None:
    app = plain_app(notebook)
    assert ask(app, "POST", b"author=ann&text=Hello.") == ("200", "Hello. Thank you!\n")
    assert ask(app, "POST", b"author=ann&text=HELLO") == ("422", "please do not shout, ann\n")
    assert ask(app, "POST", b"text=Good.")[0] == "200"
    assert ask(app) == ("200", "1. ann: Hello. Thank you!\n2. somebody: Good. Thank you!\n")


@pytest.mark.parametrize(
    ("length", "body", "status"),
    [
        pytest.param("eleven", b"text=Hello.", "400", id="length that is no number"),
        pytest.param("6", b"text=\xff", "400", id="not utf-8"),
        pytest.param("-1", b"", "413", id="length below zero"),
        pytest.param("65537", b"", "413", id="more than is read"),
    ],
)
def test_plain_app_answers_what_is_no_form(notebook: Notebook, length: str, body: bytes, status: str) -> None:
    assert ask(plain_app(notebook), "POST", body, length=length)[0] == status


def test_flask_serves_it_where_it_is_installed(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in that has the few names we use: what counts is which of the two is taken, and that it fits."""
    routes: dict[str, Any] = {}

    class Flask:
        def __init__(self, name: str) -> None:
            pass

        def get(self, path: str) -> Any:
            return lambda function: routes.__setitem__(f"GET {path}", function)

        def post(self, path: str) -> Any:
            return lambda function: routes.__setitem__(f"POST {path}", function)

    stand_in: Any = ModuleType("flask")
    stand_in.Flask = Flask
    stand_in.Response = lambda lines, mimetype: (list(lines), mimetype)
    stand_in.request = type("Request", (), {"form": {"author": "ann", "text": "Hello."}})
    stand_in.__spec__ = type("Spec", (), {"name": "flask"})
    monkeypatch.setitem(sys.modules, "flask", stand_in)
    assert isinstance(make_app(notebook), Flask)
    assert routes["POST /"]() == ("Hello. Thank you!\n", 200)
    assert routes["GET /"]() == (["1. ann: Hello. Thank you!\n"], "text/plain")


def test_flask_example_serves_and_stops_in_order() -> None:
    command = [sys.executable, "-m", "examples.flask", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+/", process.stdout.readline())
        assert found is not None
        form = urllib.parse.urlencode({"author": "ann", "text": "Hello."}).encode()
        with urllib.request.urlopen(found[0], data=form, timeout=10) as answer:
            assert answer.read() == b"Hello. Thank you!\n"
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(found[0], data=b"author=ann&text=LOUD", timeout=10)
        assert refused.value.code == 422
        refused.value.close()
        with urllib.request.urlopen(found[0], timeout=10) as answer:
            assert answer.read() == b"1. ann: Hello. Thank you!\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=15)
        assert process.returncode == 0 and out.endswith("stopped\n"), err
    finally:
        process.kill()
        process.communicate()
