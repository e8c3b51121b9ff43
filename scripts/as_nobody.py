"""Run a command as the user ``nobody``, where it can read this checkout and its Python: ``as_nobody.py COMMAND…``.

Root tests little about rights: it may do everything. This runs the same tests as somebody who may not. A checkout or Python below a
private folder (``/root``, a 0700 temporary folder) is made reachable in a mount namespace of the command's own: the private folder is
covered by an empty readable one, and only checkout and Python are put back at their old paths. Nothing outside changes.

Exits with the command's code, or with 77 and the reason when this cannot be done here.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CANNOT = 77


def main(command: list[str]) -> int:
    if os.geteuid() != 0:
        return refuse("only root can become nobody")
    needed = [ROOT, Path(sys.base_prefix).resolve()]
    covers = sorted({cover for path in needed if (cover := outermost_private(path)) is not None})
    if not covers:
        return run_as_nobody(command)
    if "--in-namespace" not in command[:1]:
        inside = ["unshare", "--mount", "--propagation", "private", sys.executable, "-I", __file__, "--in-namespace", *command]
        return subprocess.run(inside, check=False).returncode if shutil.which("unshare") else refuse("unshare is missing")
    try:
        for cover in covers:
            uncover(cover, [path for path in needed if path.is_relative_to(cover)])
    except subprocess.CalledProcessError as error:
        return refuse(f"{' and '.join(map(str, covers))} is private, and mounting is not allowed here: {error.stderr.decode().strip()}")
    return run_as_nobody(command[1:])


def outermost_private(path: Path) -> Path | None:
    """Return the topmost folder on the way that others may not enter."""
    return next((folder for folder in [*reversed(path.parents), path] if not folder.stat().st_mode & stat.S_IXOTH), None)


def uncover(cover: Path, keep: list[Path]) -> None:
    """Cover a folder with an empty one that shows only ``keep``, at the same paths."""
    with tempfile.TemporaryDirectory() as aside:
        held = []
        for number, path in enumerate(keep):
            held.append(Path(aside) / str(number))
            held[-1].mkdir()
            mount("--bind", path, held[-1])
        mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", cover)
        for path, at in zip(keep, held, strict=True):
            path.mkdir(parents=True, exist_ok=True)
            mount("--move", at, path)


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)


def run_as_nobody(command: list[str]) -> int:
    user = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory(dir="/tmp") as home:  # TMPDIR may be private
        os.chown(home, user.pw_uid, user.pw_gid)
        environment = {**os.environ, "HOME": home, "TMPDIR": home, "USER": "nobody", "LOGNAME": "nobody", "PYTHONDONTWRITEBYTECODE": "1"}
        for name in [name for name in environment if name.startswith("XDG_")]:
            del environment[name]
        return subprocess.run(
            command, check=False, cwd=ROOT, env=environment, user=user.pw_uid, group=user.pw_gid, extra_groups=[]
        ).returncode


def refuse(reason: str) -> int:
    print(f"as_nobody: {reason}", file=sys.stderr)
    return CANNOT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
