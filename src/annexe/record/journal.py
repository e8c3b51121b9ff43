"""One plugin's log as the writer's thread sees it: a file, followers, and what is to be told about lost lines.

* Every line offered to followers was offered to the file first; a full disk does not blind who is watching.
* Each counter of losses has one thread that counts it, so none is lost without a lock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

from annexe.clock import Clock
from annexe.record.entry import Entry, encode_entry
from annexe.record.follow import Follower
from annexe.record.rotation import RotatingFile
from annexe.record.writer import LineSink, LogWriter

__all__ = ["Drops", "Journal"]


@final
@dataclass(slots=True)
class Drops:
    """Lines lost since the log was opened. The loop's thread counts the first two, the writer's thread the third."""

    rate_limited: int = 0
    queue_full: int = 0
    disk_error: int = 0


@final
class Journal(LineSink):
    """What the writer's thread does for one plugin.

    Args:
        plugin: Whose log it is.
        file: Where it goes.
        clock: For the time in the host's own lines.
        writer: Whose thread calls this.
        on_dropped: Told plugin and count of lines lost.
    """

    def __init__(
        self, *, plugin: str, file: RotatingFile, clock: Clock, writer: LogWriter, on_dropped: Callable[[str, int], None] | None
    ) -> None:
        self.drops = Drops()
        self._plugin = plugin
        self._file = file
        self._clock = clock
        self._writer = writer
        self._on_dropped = on_dropped
        self._told_in_log = Drops()
        self._told_count = 0
        self._is_report_open = False
        self._followers: list[Follower] = []

    def write_lines(self, lines: list[bytes]) -> None:
        if not self._append(lines):
            self.drops.disk_error += len(lines)
        if self.drops != self._told_in_log:
            self.want_report()

    def want_report(self) -> None:
        """Have the drops told in a while. Any thread: count first, then call this."""
        if not self._is_report_open:
            self._is_report_open = True
            self._writer.request_report(self)

    def report_drops(self) -> None:
        self._is_report_open = False  # before reading the counts: what is counted from here on asks for a report of its own
        now, told = replace(self.drops), self._told_in_log
        counts = {name: getattr(now, name) - getattr(told, name) for name in ("rate_limited", "queue_full", "disk_error")}
        dropped = sum(counts.values())
        # Not told while the disk refuses; the first line that it takes again asks for another report.
        if dropped and self._append([self.host_line(f"dropped {dropped} lines", {"dropped": dropped, **counts})]):
            self._told_in_log = now
        total = now.rate_limited + now.queue_full + now.disk_error
        untold, self._told_count = total - self._told_count, total
        if untold and self._on_dropped is not None:
            self._on_dropped(self._plugin, untold)

    def host_line(self, message: str, fields: dict[str, int]) -> bytes:
        """Return a warning of the host's."""
        return encode_entry(
            Entry(at=self._clock.now(), plugin=self._plugin, source="host", level="warning", message=message, fields=fields)
        )

    def attach(self, follower: Follower, backlog: Callable[[], list[bytes]]) -> None:
        """Give a follower what is in the log and from now on every line."""
        for line in backlog():
            follower.offer(line)
        self._followers.append(follower)

    def detach(self, follower: Follower) -> None:
        """Forget a follower, attached or not."""
        if follower in self._followers:
            self._followers.remove(follower)

    def release(self) -> None:
        """Close the file; the next line opens it again. Writer's thread, or any once that has ended."""
        self._file.close()

    def end_followers(self) -> None:
        """Let every follower finish. Any thread: it only sets flags."""
        for follower in list(self._followers):
            follower.end()

    def _append(self, lines: list[bytes]) -> bool:
        """Write lines to the file and offer them to followers; say whether the disk took all of them."""
        try:
            self._file.append(lines)
        except OSError:
            is_written = False
        else:
            is_written = True
        for follower in self._followers:
            for line in lines:
                follower.offer(line)
        return is_written
