"""A host under load, to be killed: opens the plugins of a folder, calls them, reloads one without end, and prints their processes once.

Run as a program: ``loaded_host.py ROOT WALLS``, where WALLS is ``all`` of this machine's or ``none``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path

from annexe.launch import UidAllocator
from tests.process.hosts import Doc, T, no_walls, open_host, outcome_of, policies, until


def own_users(root: Path) -> UidAllocator:
    """Return users that no other host gives to plugins: each root host that is opened sweeps away whom nobody holds any more."""
    return UidAllocator(uids=range(61400, 61500), folder=root / "uids")


async def main(root: Path) -> None:
    (root / "state").mkdir(mode=0o700, exist_ok=True)  # no template: nobody would remove it
    # Failures are remembered from one host to the next, and one plugin here crashes all the time.
    async with open_host(root, policies=policies(max_failures=10**9)) as host:

        async def caller() -> None:
            while True:
                async with host.request(deadline_s=2.0) as request:
                    await outcome_of(request.hooks(T).edit(Doc("x")))
                    await request.hooks(T).seen("x")

        async def reloader() -> None:
            while True:
                await outcome_of(host.plugin("several").reload())

        load = [asyncio.create_task(caller()) for _ in range(8)]
        # Each was ready once; one of them may have crashed since.
        await until(lambda: all(any(change.state == "ready" for change in plugin.history) for plugin in host.plugins), within_s=60)
        print(json.dumps([plugin.pid for plugin in host.plugins]), flush=True)
        load += [asyncio.create_task(reloader())] if any(plugin.id == "several" for plugin in host.plugins) else []
        await asyncio.gather(*load)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    with no_walls(own_users(root)) if sys.argv[2] == "none" else contextlib.nullcontext():
        asyncio.run(main(root))
