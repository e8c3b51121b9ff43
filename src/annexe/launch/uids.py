"""A kernel user of its own for every launched plugin, when the host is root.

One table for the whole machine, under a file lock, so that two hosts never hand out the same uid. Blocking.

Invariants:

* A uid is handed out only while nothing runs as it and no living host holds it.
* Uids go round: one that was given back rests until the rest of the range has had its turn, since the next plugin would own what the last
  one left on disk. Where the turn is outlives the host, as far as ``/run`` does.
* Looking who runs as whom means reading about every process of the machine, so several uids are taken at a time, for later launches.
* A uid whose host died is given a clean-up first: with no owner left, whatever still runs as it is a leftover, and is killed.
* Uids with a name in the user database are never used.

Source: feature LC8; docs/adr/0034-a-uid-per-launch.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import final

from annexe.errors import LaunchError
from annexe.launch.folders import owned_folder
from annexe.launch.processes import ProcessIdentity, identity_of, is_alive, kill_user, uids_in_use

__all__ = ["DEFAULT_UID_RANGE", "UidAllocator"]

DEFAULT_UID_RANGE = range(64100, 65100)
_FOLDER = Path("/run/annexe")
_KILL_DEADLINE_S = 5.0
_AHEAD = 8
_SHARE = 64  # of a small range, one host takes no more than this part ahead


@final
class UidAllocator:
    """Hands out uids of a range; also used as gids of the same number.

    Args:
        uids: The range; the same for every host on the machine.
        folder: Where table and lock are; the same for every host on the machine, gone after a reboot.
    """

    def __init__(self, *, uids: range = DEFAULT_UID_RANGE, folder: Path = _FOLDER) -> None:
        if 0 in uids:
            raise ValueError("expected a range without uid 0")
        self.uids = uids
        self.folder = folder
        self._self = identity_of(os.getpid())
        self._ahead: list[int] = []  # ours already, and nothing runs as them
        self._lock = threading.Lock()

    def acquire(self) -> int:
        """Return a uid that is now ours.

        Raises:
            LaunchError: All are taken, or the folder cannot be trusted.
        """
        with self._lock:
            is_forked = self._self is not None and self._self.pid != os.getpid()  # what was taken ahead is then the parent's
            if not self._ahead or is_forked:
                self._ahead = self._take(max(1, min(_AHEAD, len(self.uids) // _SHARE)))
            return self._ahead.pop(0)

    def _take(self, count: int) -> list[int]:
        """Mark up to so many uids as ours, at least one."""
        taken = []
        with self._table() as table:
            in_use = uids_in_use()
            for uid in self._in_turn():
                owner = table.get(str(uid))
                free = uid not in in_use if owner is None else not is_alive(owner) and self._clean(uid)
                if free and not _has_name(uid):
                    table[str(uid)] = self._me()
                    taken.append(uid)
                    if len(taken) == count:
                        break
            if taken:
                self._turn_file().write_text(str(taken[-1] + 1))
        if taken:
            return taken
        raise LaunchError(
            f"all {len(self.uids)} plugin users ({self.uids.start} to {self.uids.stop - 1}) are taken; "
            "stop some plugins or widen the range.",
            first=self.uids.start,
            last=self.uids.stop - 1,
        )

    def _turn_file(self) -> Path:
        return self.folder / "uids.next"

    def _in_turn(self) -> Iterator[int]:
        """Yield all uids, beginning after those that were taken last. Under the table's lock."""
        try:
            first = self.uids.index(int(self._turn_file().read_text()))
        except (FileNotFoundError, ValueError):  # none taken yet, or the range came to its end: any start is a right one
            first = 0
        yield from self.uids[first:]
        yield from self.uids[:first]

    def close(self) -> None:
        """Give back what was taken ahead."""
        with self._lock:
            ahead, self._ahead = self._ahead, []
            if ahead:
                self._give_back(ahead)

    def release(self, uid: int) -> None:
        """Give a uid back. The caller has verified that nothing runs as it; if that failed, it keeps the uid instead."""
        self._give_back([uid])

    def _give_back(self, uids: list[int]) -> None:
        with self._table() as table:
            for uid in uids:
                if table.get(str(uid)) == self._self:
                    del table[str(uid)]

    def sweep(self) -> int:
        """Kill what dead hosts left behind on this machine, free their uids, and return how many uids that were."""
        with self._table() as table:
            dead = [uid for uid, owner in table.items() if not is_alive(owner) and self._clean(int(uid))]
            for uid in dead:
                del table[uid]
            return len(dead)

    def _clean(self, uid: int) -> bool:
        return uid in self.uids and kill_user(uid, deadline_s=_KILL_DEADLINE_S)[1]

    def _me(self) -> ProcessIdentity:
        if self._self is None or self._self.pid != os.getpid():
            self._self = identity_of(os.getpid())
        if self._self is None:
            raise LaunchError("cannot read /proc/self/stat, so a plugin user cannot be marked as taken; mount /proc.")
        return self._self

    @contextlib.contextmanager
    def _table(self) -> Iterator[dict[str, ProcessIdentity]]:
        """Give the table under the lock; written back on leaving without an error."""
        import fcntl  # not on Windows, where this module must still be importable

        folder = owned_folder(self.folder)
        path = folder / "uids.json"
        lock = os.open(folder / "uids.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            table = _read_table(path)
            before = dict(table)
            yield table
            if table != before:
                draft = path.with_suffix(".draft")
                draft.write_text(json.dumps({uid: asdict(owner) for uid, owner in table.items()}))
                draft.replace(path)
        finally:
            os.close(lock)  # gives the lock back


def _read_table(path: Path) -> dict[str, ProcessIdentity]:
    try:
        return {str(int(uid)): ProcessIdentity(**owner) for uid, owner in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise LaunchError(f"{path} is damaged ({error}); stop all hosts on this machine, then remove it.", path=str(path)) from error


def _has_name(uid: int) -> bool:
    import pwd  # not on Windows

    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
