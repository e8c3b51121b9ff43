"""Replace a plugin while requests run: ``python -m examples.gateway.replace``, beside a gateway that runs.

Clients ask the gateway without a pause; meanwhile ``annexe reload`` replaces the plugin, time after time. In the end the host's own figures
say how many calls the plugin got, and the gateway's clients how many requests came back. What ended in an error was lost, and so was a call
that the host did not make.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final
from uuid import uuid4

import httpx

from examples.gateway.echo import MODEL

DEFAULT_PORT = 8700
PLUGIN = "answer-cache"
_CALLS_PER_REQUEST = 2  # look the answer up, and keep it
_REQUESTS_PER_KEY = 20  # the rate limiter lets a key make 30 in a minute
_PAUSE_S = 0.2
_SETTLE_S = 5.0
_ANNEXE = Path(sys.executable).with_name("annexe")


def main() -> int:
    options = _parser().parse_args()
    try:
        told = asyncio.run(replace_under_load(options))
    except (_CommandError, httpx.TransportError) as error:
        print(f"{error}\nStart the gateway first: make demo", file=sys.stderr)
        return 1
    print(told)
    print(f"\nWho requires whom, as annexe graph shows it:\n{_annexe(options, 'graph')}", end="")
    return 0 if told.lost == 0 else 1


class _CommandError(Exception):
    """``annexe`` did not do what it was asked for."""


@final
@dataclass(slots=True, kw_only=True)
class Told:
    """What came of it.

    Attributes:
        times: How often the plugin was replaced.
        seconds: How long requests ran.
        clients: How many asked at once.
        outcomes: How many requests came to what: ``answered``, or what was wrong.
        calls: How many calls the plugin got.
        failures: How many of those gave no result, by code.
    """

    times: int = 0
    seconds: float = 0.0
    clients: int
    outcomes: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def requests(self) -> int:
        """How many requests were made."""
        return self.outcomes.total()

    @property
    def lost(self) -> int:
        """How many requests came to nothing, calls that gave no result, and calls that were never made."""
        never = max(_CALLS_PER_REQUEST * self.requests - self.calls, 0)
        return self.requests - self.outcomes["answered"] + self.failures.total() + never

    def __str__(self) -> str:
        wrong = {**{what: count for what, count in self.outcomes.items() if what != "answered"}, **self.failures}
        text = f"{PLUGIN} was replaced {self.times} times in {self.seconds:.1f} s, while {self.clients} clients made "
        text += f"{self.requests} requests.\nIt got {self.calls} calls; {self.lost} were lost"
        return f"{text}: {', '.join(f'{what} ({count})' for what, count in wrong.items())}" if wrong else f"{text}."


async def replace_under_load(options: argparse.Namespace) -> Told:
    """Run clients, replace the plugin, count.

    Raises:
        _CommandError: There is no gateway, or it has its state elsewhere.
        httpx.TransportError: It does not listen there.
    """
    told, over = Told(clients=options.clients), asyncio.Event()
    before = await asyncio.to_thread(_figures, options)
    began = time.monotonic()
    async with httpx.AsyncClient(base_url=options.url, timeout=60.0) as http:
        (await http.get("/")).raise_for_status()
        clients = [asyncio.create_task(_client(http, over, told)) for _ in range(options.clients)]
        try:
            while told.times < options.times:
                await asyncio.sleep(_PAUSE_S)
                await asyncio.to_thread(_annexe, options, "reload", PLUGIN)
                told.times += 1
            await asyncio.sleep(_PAUSE_S)
        finally:
            over.set()
            await asyncio.gather(*clients)
    told.seconds = time.monotonic() - began
    await _count_calls(options, told, before)
    return told


async def _client(http: httpx.AsyncClient, over: asyncio.Event, told: Told) -> None:
    """Ask one thing after the other, each twice: the second time from the cache, if it was kept by then."""
    name, number = uuid4().hex, 0
    while not over.is_set():
        key = f"Bearer {name}-{number // _REQUESTS_PER_KEY}"
        text = f"question {number // 2} of {name}"
        told.outcomes[await _outcome(http, key, text)] += 1
        number += 1


async def _outcome(http: httpx.AsyncClient, key: str, text: str) -> str:
    body = {"model": MODEL, "temperature": 0, "messages": [{"role": "user", "content": text}]}
    try:
        response = await http.post("/v1/chat/completions", json=body, headers={"authorization": key})
        if response.status_code != 200:
            return f"status {response.status_code}"
        return "answered" if text in response.json()["choices"][0]["message"]["content"] else "another's answer"
    except (httpx.HTTPError, ValueError, LookupError) as error:
        return type(error).__name__


async def _count_calls(options: argparse.Namespace, told: Told, before: dict[str, Any]) -> None:
    """Add what the host counted meanwhile; what watches is told after the answer has gone out, so it is waited for."""
    until = time.monotonic() + _SETTLE_S
    while True:
        after = await asyncio.to_thread(_figures, options)
        calls = sum(figures["calls"] - before.get(name, {}).get("calls", 0) for name, figures in after.items())
        if calls >= _CALLS_PER_REQUEST * told.requests or time.monotonic() > until:
            break
        await asyncio.sleep(0.1)
    told.calls = calls
    for name, figures in after.items():
        told.failures += Counter(figures["failures"]) - Counter(before.get(name, {}).get("failures", {}))


def _figures(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the host counted of the plugin's hooks, by method."""
    methods: dict[str, Any] = json.loads(_annexe(options, "metrics", "--json")).get(PLUGIN, {}).get("methods", {})
    return {name: figures for name, figures in methods.items() if name.startswith("hook.")}


def _annexe(options: argparse.Namespace, *arguments: str) -> str:
    """Run ``annexe``; return what it printed.

    Raises:
        _CommandError: It failed; the text is its own.
    """
    command = [str(_ANNEXE), *arguments, *(["--state", str(options.state)] if options.state else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise _CommandError(f"annexe {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.gateway.replace", description=f"Replace {PLUGIN} while requests run.")
    port = os.environ.get("PORT") or DEFAULT_PORT
    parser.add_argument("--url", default=f"http://127.0.0.1:{port}", help="where the gateway listens (default: PORT of this machine)")
    parser.add_argument("--state", type=Path, metavar="DIR", help="where its host keeps its records (default: the user's state folder)")
    parser.add_argument("--times", type=int, default=5, help="how often to replace it (5)")
    parser.add_argument("--clients", type=int, default=8, help="how many ask at once (8)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
