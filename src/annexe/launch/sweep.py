"""What a host that died left behind, found again by the next one.

Each launch is written down before it is used and struck out once its whole tree is gone. A record still there at start belongs to a
dead host: only one host at a time holds a state directory. Blocking.

Invariants:

* Nothing is killed by number alone: the main process by (pid, start time, boot id), its descendants by the tag they inherited, what
  builds walls by its mark.
* A record from before a reboot kills nothing.
* A record that cannot be read is set aside, never acted on.

Source: feature LC8; docs/adr/0033-finding-descendants.md.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

from annexe.launch.processes import ProcessIdentity, identity_of, is_alive, kill_matching, read_proc, tag_of
from annexe.launch.removal import remove_tree

__all__ = ["LaunchRecord", "LaunchRecords", "Swept"]

_DEADLINE_S = 5.0
_logger = logging.getLogger(__name__)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRecord:
    """One launch, as its successor must know it.

    Attributes:
        plugin: Id.
        instance: Which instance of it.
        main: Its main process.
        tag: What its descendants inherited; None when none could be given.
        scratch: Its private folder, removed with it.
        host_pid: Who launched it.
    """

    plugin: str
    instance: str
    main: ProcessIdentity
    tag: int | None
    scratch: str
    host_pid: int = 0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """One leftover launch that was cleared away.

    Attributes:
        killed: Processes that were still alive.
        gone: Nothing is left of it; otherwise the record stays for the next sweep.
    """

    plugin: str
    instance: str
    killed: int
    gone: bool


@final
class LaunchRecords:
    """The records of one state directory, one small file each.

    Args:
        folder: Private to the host; made if missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, record: LaunchRecord) -> Path:
        """Write one down and return its file."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / f"{record.main.pid}-{record.main.start_ticks}.json"
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(asdict(record)))
        draft.replace(path)
        return path

    def mark(self, host_pid: int | str) -> str:
        """Return the word that is in the command line of everything that builds walls for a host with these records."""
        return f"annexe-{hashlib.sha256(os.fsencode(self.folder.absolute())).hexdigest()[:16]}-{host_pid}"

    def sweep(self, *, host_pid: int | None = None) -> tuple[Swept, ...]:
        """Kill what the records name and what descended from it, remove private folders, strike the records out.

        What was building walls when its host died is killed too: bubblewrap's child may wait for its dead parent for ever, and need not be
        on record yet.

        Called once, at start, by whoever holds the state directory's lock and before anything is launched; and by a dead host's warden.

        Args:
            host_pid: Only what this dead host launched: the next one may be at work already.
        """
        mark = re.compile(rb"\0%s\0" % os.fsencode(self.mark(r"\d+" if host_pid is None else host_pid)))
        kill_matching(lambda pid: mark.search(read_proc(pid, "cmdline")) is not None, deadline_s=_DEADLINE_S)
        found = [(path, record) for path, record in self._read_all() if host_pid in (None, record.host_pid)]
        return tuple(self._sweep_one(path, record) for path, record in found)

    def _read_all(self) -> Iterator[tuple[Path, LaunchRecord]]:
        for path in sorted(self.folder.glob("*.json")):
            try:
                fields = json.loads(path.read_text())
                yield path, LaunchRecord(**{**fields, "main": ProcessIdentity(**fields["main"])})
            except FileNotFoundError:
                continue  # struck out meanwhile, by a dead host's warden or by the next host
            except (OSError, ValueError, TypeError, KeyError) as error:
                _logger.warning("launch record %s cannot be read (%s); set aside, nothing was killed for it", path, error)
                path.replace(path.with_suffix(".unreadable"))

    def _sweep_one(self, path: Path, record: LaunchRecord) -> Swept:
        killed, gone = 0, True
        here = identity_of(os.getpid())
        if here is not None and here.boot_id == record.main.boot_id:
            killed, gone = kill_matching(lambda pid: _belongs(pid, record), deadline_s=_DEADLINE_S)
        if gone:
            try:
                remove_tree(Path(record.scratch))
            except FileNotFoundError:
                pass
            except OSError as error:
                _logger.warning("private folder %s cannot be removed: %s", record.scratch, error)
            path.unlink(missing_ok=True)
        return Swept(plugin=record.plugin, instance=record.instance, killed=killed, gone=gone)


def _belongs(pid: int, record: LaunchRecord) -> bool:
    if pid == record.main.pid:
        return is_alive(record.main)
    return record.tag is not None and tag_of(pid) == record.tag
