"""The process in which one row of a benchmark runs.

Started by path, so that it also works under ``python -I -S``. Reads one JSON request a line (``{"do": method, "args": {...}}``), calls
that method of the subject it was started for, and answers one JSON line (``{"ok": value}`` or ``{"error": text}``).

* Pins itself first when asked to: every thread and process made later inherits that.
* Peers print to standard output; the answers therefore leave on a private copy of it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

__all__ = ["main"]


def main(factory: str, options: str, cpu: str) -> None:
    """Serve one subject until standard input ends or ``close`` was answered."""
    if cpu:
        os.sched_setaffinity(0, {int(cpu)})
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    module, _, name = factory.partition(":")
    subject = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if subject is None:
                subject = getattr(importlib.import_module(module), name)(**json.loads(options))
            answer = {"ok": getattr(subject, request["do"])(**request["args"])}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        if request["do"] == "close":
            return


if __name__ == "__main__":
    main(*sys.argv[1:4])
