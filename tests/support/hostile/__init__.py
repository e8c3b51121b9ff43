"""Hostile plugins: real processes that write bytes on their end of the channel."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

__all__ = ["write_plugin"]

_KIT = Path(__file__).with_name("kit.py")

_MANIFEST = """\
manifest-version = 1

[plugin]
id = "{id}"
version = "1.0.0"
name = "{id}"

[runtime]
kind = "binary"
entry = "run"
concurrency = {concurrency}
start = "{start}"

{more}
"""


def write_plugin(folder: Path, id: str, body: str, *, more: str = "", concurrency: int = 1, start: str = "eager") -> Path:
    """Write a plugin that runs ``body``.

    Args:
        folder: Of plugins.
        id: The plugin's.
        body: Python source; it may import ``kit``.
        more: Further tables of the manifest.
        concurrency: As in the manifest.
        start: As in the manifest.
    """
    made = folder / id
    made.mkdir()
    (made / "plugin.toml").write_text(_MANIFEST.format(id=id, more=more, concurrency=concurrency, start=start))
    (made / "kit.py").write_text(_KIT.read_text())
    # -I: neither the environment nor a current folder adds to the import path; the kit's folder is added by hand.
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin") or os.path.realpath(sys.executable)  # one that every user can run
    head = f"#!{python} -IS\nimport sys\nsys.path.insert(0, sys.argv[0].rpartition('/')[0])\n"
    (made / "run").write_text(head + body)
    for path in [made, *made.iterdir()]:
        path.chmod(0o755)
    return made
