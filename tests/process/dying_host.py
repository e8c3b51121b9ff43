"""A host that is killed: launches plugins, says so, and waits for its end.

Run as a program: ``dying_host.py STATE CACHE UIDS_FOLDER FIRST_UID FOLDER COUNT WALLS``, where FOLDER holds a plugin as
``make_plugin`` writes it, which may have children, and WALLS is ``all`` of this machine's, ``none``, or ``warm``: all, for forks, which may
have no children.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from annexe.launch import LaunchRequest, ProcessStrategy, UidAllocator, plugin_environment
from annexe.sandbox import Profile
from tests.process.hosts import without_walls


async def main(state: Path, cache: Path, uids_folder: Path, first_uid: int, folder: Path, count: int, walls: str) -> None:
    strategy = ProcessStrategy(
        state_dir=state,
        cache_dir=cache,
        uids=UidAllocator(uids=range(first_uid, first_uid + 100), folder=uids_folder),
        runner="stand_in",
        offers=without_walls() if walls == "none" else None,
    )
    requests = [
        LaunchRequest(
            plugin="sample",
            instance=f"sample-{n}",
            kind="python",
            entry="entry",
            folder=folder,
            environment=plugin_environment({}),
            profile=Profile(subprocess=walls != "warm"),
            warm=walls == "warm",
        )
        for n in range(count)
    ]
    plugins = await asyncio.gather(*map(strategy.launch, requests))
    said = [(await asyncio.get_running_loop().sock_recv(plugin.sock, 100)).decode().strip() for plugin in plugins]
    print(
        json.dumps({"main": [plugin.pid for plugin in plugins], "said": said, "uids": [plugin.receipt.uid for plugin in plugins]}),
        flush=True,
    )
    await asyncio.Event().wait()


if __name__ == "__main__":
    state, cache, uids_folder = map(Path, sys.argv[1:4])
    asyncio.run(main(state, cache, uids_folder, int(sys.argv[4]), Path(sys.argv[5]), int(sys.argv[6]), sys.argv[7]))
