"""Run it: ``python -m examples.flask [PORT]``."""

from __future__ import annotations

import sys
from pathlib import Path
from socketserver import ThreadingMixIn
from tempfile import TemporaryDirectory
from wsgiref.simple_server import WSGIServer, make_server

from annexe import SyncHost
from examples.flask.contract import Notes
from examples.flask.notes import Notebook
from examples.flask.web import make_app


class Server(ThreadingMixIn, WSGIServer):
    """A thread for each request: all of them use the one host."""

    daemon_threads = True


def main(port: int) -> None:
    plugins = Path(__file__).parent / "plugins"
    with (
        TemporaryDirectory() as state,
        SyncHost(plugins=plugins, contracts=[Notes], grants="manifest", state_dir=state, name="notes") as host,
        make_server("127.0.0.1", port, make_app(Notebook(host)), server_class=Server) as server,
    ):
        url = f"http://127.0.0.1:{server.server_port}/"
        print(f"Listening on {url}; try:\n  curl -d author=ann -d text=Hello. {url}\n  curl {url}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8701)
