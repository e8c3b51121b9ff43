"""Run the demo: ``python -m examples.gateway``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from annexe import Host, PluginHandle
from annexe.errors import AnnexeError
from examples.gateway.app import make_app
from examples.gateway.contract import Chat, UsageReport
from examples.gateway.echo import MODEL, EchoUpstream
from examples.gateway.upstream import HttpUpstream, Upstream

HERE = Path(__file__).resolve().parent
DEFAULT_PORT = 8700


def main() -> int:
    options = _parser().parse_args()
    try:
        sock = socket.create_server((options.host, options.port))
    except OSError as error:
        print(f"Port {options.port} is not free ({error.strerror}). Try another: PORT={options.port + 1} make demo", file=sys.stderr)
        return 1
    with sock, contextlib.suppress(KeyboardInterrupt):
        try:
            asyncio.run(serve(options, sock))
        except AnnexeError as error:
            print(error.message, file=sys.stderr)
            return 1
    return 0


async def serve(options: argparse.Namespace, sock: socket.socket) -> None:
    """Serve until told to stop."""
    upstream: Upstream = HttpUpstream(options.upstream) if options.upstream else EchoUpstream()
    settings = tomllib.loads(options.settings.read_text())
    print("Starting plugins …", flush=True)
    try:
        async with Host(
            plugins=options.plugins, contracts=[Chat, UsageReport], grants="manifest", config=settings, state_dir=options.state
        ) as host:
            greeting = _greeting(host, options, sock.getsockname()[1])
            print(greeting, flush=True)
            server = _Server(uvicorn.Config(make_app(host, upstream, greeting=greeting), log_level="warning", lifespan="off"))
            await server.serve(sockets=[sock])
            print("\nStopping plugins …", flush=True)
    finally:
        await upstream.close()


class _Server(uvicorn.Server):
    """Stops on SIGINT and SIGTERM and leaves it at that, so that the plugins are stopped in good order, too."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def _greeting(host: Host, options: argparse.Namespace, port: int) -> str:
    url = f"http://{options.host}:{port}"
    plugins = "\n".join(f"  {plugin.id:<14} {plugin.state}{_isolation(plugin)}" for plugin in host.plugins)
    state = f" --state {options.state}" if options.state else ""
    python = os.path.relpath(sys.executable)
    annexe = os.path.relpath(Path(sys.executable).parent / "annexe")
    ask = f"curl -s {url}/v1/chat/completions -H 'content-type: application/json' -H 'authorization: Bearer demo'"

    def body(text: str, **more: Any) -> str:
        extra = "".join(f', "{name}": {value}' for name, value in more.items())
        return f"""-d '{{"model": "{MODEL}"{extra}, "messages": [{{"role": "user", "content": "{text}"}}]}}'"""

    return f"""
The gateway listens on {url}/v1 and asks {options.upstream or "an echo of its own (no network needed)"}.

Plugins
{plugins}

Try
  # personal data is hidden from the model and restored in the answer
  {ask} {body("Write to ada@example.org, card 4111 1111 1111 1111")}

  # the same as a stream; placeholders come in pieces and are restored all the same
  {ask} -N {body("Call +49 30 1234567", stream="true")}

  # at temperature 0 the second answer comes from the cache: look at x-answered-by
  {ask} -i {body("What is a plugin?", temperature=0)}

  # have a plugin try to break out in a dozen ways: the answer says what came of each
  {ask} {body("chaos: escape")}

  # crash a plugin in the middle of a request; the answer comes all the same
  {ask} -H 'x-request-id: try-1' {body("chaos: crash")}

  # what the key "demo" used so far; what the model did not report was counted by the tokenizer
  curl -s {url}/v1/usage -H 'authorization: Bearer demo'

  # replace the answer cache five times while requests run: none is lost
  {python} -m examples.gateway.replace --url {url}{state}

Look inside
  {annexe} list{state}
  {annexe} graph{state}
  {annexe} stop tokenizer --dry-run{state}
  {annexe} explain try-1{state}
  {annexe} logs -f pii-redactor{state}

Any OpenAI client works: OpenAI(base_url="{url}/v1", api_key="demo"). Stop with ctrl-C.
"""


def _isolation(plugin: PluginHandle) -> str:
    """Return how well a plugin is isolated, or why it does not run."""
    return f" (isolation: {plugin.receipt.level})" if plugin.receipt else f": {plugin.reason}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.gateway", description="An OpenAI-compatible chat gateway with plugins.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT") or DEFAULT_PORT), help="PORT; 0 takes a free one")
    parser.add_argument("--upstream", default=os.environ.get("UPSTREAM"), metavar="URL", help="UPSTREAM; any OpenAI-compatible URL")
    parser.add_argument("--plugins", type=Path, default=HERE.parent.parent / "plugins", metavar="DIR", help="folder of plugins")
    parser.add_argument("--settings", type=Path, default=HERE / "settings.toml", metavar="FILE", help="configuration of the plugins")
    parser.add_argument("--state", type=Path, metavar="DIR", help="where the host keeps its records (default: the user's state folder)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
