"""Structured logs: one folder per plugin, lines of JSON, written without ever waiting.

``PluginLog.write`` encodes the record, queues the bytes and returns. One thread for all plugins writes, rotates and feeds
followers.

* Limits are per plugin: one that floods its log loses its own lines, counted and told in the log as ``dropped N lines``.
* What the host has to say about a plugin passes a limit of its own, so a flood cannot silence it.
* A full disk or a hanging one loses lines, counted; it stops nothing.

Everything here is called on the host's loop thread unless it says otherwise.

Source: features HS2, OB1; docs/reference/logs.md; ADR-0025.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from annexe.clock import Clock
from annexe.errors import UnknownPluginError
from annexe.ids import is_plugin_id
from annexe.record.bucket import TokenBucket
from annexe.record.entry import Entry, Source, encode_entry, parse_line
from annexe.record.follow import Follower
from annexe.record.journal import Journal
from annexe.record.rotation import RotatingFile
from annexe.record.tail import MAX_TAIL_COUNT, read_tail, read_tail_lines
from annexe.record.writer import LogWriter

__all__ = ["LogLimits", "LogStore", "PluginLog"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LogLimits:
    """How much a log may take.

    Attributes:
        lines_per_s: Lines a plugin may log in the long run; each started KiB of a record counts as a line more.
        burst_lines: Lines it may log at once.
        host_lines_per_s: The same for what the host says about the plugin.
        host_burst_lines: The same.
        max_file_bytes: Size at which a file is rotated.
        file_count: Files kept for each plugin.
        queue_lines: Lines of all plugins that may wait to be written.
        queue_bytes: Bytes of them.
        follower_lines: Records that may wait for one follower.
        report_after_s: How long drops are gathered before they are told.
    """

    lines_per_s: float = 200.0
    burst_lines: int = 2000
    host_lines_per_s: float = 50.0
    host_burst_lines: int = 500
    max_file_bytes: int = 10 * 1024 * 1024
    file_count: int = 5
    queue_lines: int = 10_000
    queue_bytes: int = 8 * 1024 * 1024
    follower_lines: int = 1000
    report_after_s: float = 1.0


@final
class PluginLog:
    """Where everything one plugin says, and everything the host says about it, is written. Made by ``LogStore.sink``."""

    __slots__ = ("_bucket", "_clock", "_host_bucket", "_journal", "_writer", "plugin")

    def __init__(self, *, plugin: str, journal: Journal, writer: LogWriter, clock: Clock, limits: LogLimits) -> None:
        self.plugin = plugin
        self._journal = journal
        self._writer = writer
        self._clock = clock
        self._bucket = TokenBucket(rate_per_s=limits.lines_per_s, burst=limits.burst_lines)
        self._host_bucket = TokenBucket(rate_per_s=limits.host_lines_per_s, burst=limits.host_burst_lines)

    def write(
        self,
        level: object,
        message: object,
        fields: object = None,
        *,
        request: str | None = None,
        source: Source = "log",
        instance: str = "",
    ) -> None:
        """Log one record; never waits, never raises for what a plugin sent.

        Args:
            level: ``debug``, ``info``, ``warning``, ``error`` or ``critical``; anything else becomes the default of the source.
            message: A text; anything else is replaced by the name of its type.
            fields: What came with it, of any size and shape.
            request: Id of the request at hand, as the host knows it.
            source: ``host`` for what the host says itself.
            instance: Id of the instance at hand.
        """
        if not self._admits(source):
            return
        self._put(
            Entry(
                at=self._clock.now(),
                plugin=self.plugin,
                source=source,
                instance=instance,
                level=level,
                message=message,
                request=request,
                fields=fields,
            )
        )

    def write_line(self, line: bytes, *, source: Source, instance: str = "", cut_bytes: int = 0) -> None:
        """Log one captured line of output, without its line feed; ``cut_bytes`` of it were thrown away already."""
        if not self._admits(source):
            return
        level, message, fields = parse_line(line, cut_bytes=cut_bytes)
        self._put(
            Entry(
                at=self._clock.now(),
                plugin=self.plugin,
                source=source,
                instance=instance,
                level=level,
                message=message,
                fields=fields,
                cut_bytes=cut_bytes,
            )
        )

    def is_open(self) -> bool:
        """Say whether the plugin's rate allows a line now. For who would rather not make the line if not."""
        return self._bucket.is_open(self._clock.monotonic())

    def charge(self, lines: float) -> None:
        """Take of the plugin's rate as many lines, for work that comes before a line."""
        self._bucket.charge(lines)

    def drop(self, count: int) -> None:
        """Count lines that were thrown away unread."""
        if count:
            self._journal.drops.rate_limited += count
            self._journal.want_report()

    def _admits(self, source: Source) -> bool:
        bucket = self._host_bucket if source == "host" else self._bucket
        if bucket.is_open(self._clock.monotonic()):
            return True
        self.drop(1)
        return False

    def _put(self, entry: Entry) -> None:
        line = encode_entry(entry)
        is_host = entry.source == "host"
        (self._host_bucket if is_host else self._bucket).charge(1 + len(line) // 1024)
        if not self._writer.put(self._journal, line, is_urgent=is_host):
            self._journal.drops.queue_full += 1
            self._journal.want_report()


@final
class LogStore:
    """The logs of all plugins, under one folder. The writer's thread starts with the first record and ends with ``close``.

    Args:
        folder: Holds one folder per plugin id.
        clock: For the time in records and for rates.
        limits: How much a log may take.
        on_dropped: Told plugin and count with every ``dropped N lines``, on the writer's thread.
    """

    def __init__(
        self, folder: Path, clock: Clock, *, limits: LogLimits | None = None, on_dropped: Callable[[str, int], None] | None = None
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._limits = limits or LogLimits()
        self._on_dropped = on_dropped
        self._writer = LogWriter(
            max_lines=self._limits.queue_lines, max_bytes=self._limits.queue_bytes, report_after_s=self._limits.report_after_s
        )
        self._sinks: dict[str, tuple[PluginLog, Journal]] = {}

    def sink(self, plugin: str) -> PluginLog:
        """Return the log of a plugin, the same each time.

        Raises:
            UnknownPluginError: This is no plugin id.
        """
        return self._opened(plugin)[0]

    def tail(self, plugin: str, count: int) -> list[dict[str, Any]]:
        """Return the last records, oldest first, those still queued included. Any thread; reads files, so not on a loop's.

        Args:
            plugin: Whose.
            count: How many, at most 10,000.

        Raises:
            UnknownPluginError: This is no plugin id. One that never logged has an empty log.
            OSError: The files cannot be read.
        """
        folder = self._folder_of(plugin)
        self._writer.flush(timeout_s=1.0)  # a disk that hangs longer must not hold up who wants to know why
        return read_tail(folder, count, file_count=self._limits.file_count)

    async def follow(self, plugin: str, *, count: int = 0) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the last ``count`` records, then each new one, none twice and none missing between, until the store closes.

        A reader that is too slow loses records and gets one of source ``host`` that says how many. Close the iterator
        (``aclosing``) when done with it.

        Raises:
            UnknownPluginError: This is no plugin id.
        """
        journal = self._opened(plugin)[1]
        folder = self._folder_of(plugin)
        backlog_count = min(max(count, 0), MAX_TAIL_COUNT)

        def backlog() -> list[bytes]:
            return read_tail_lines(folder, backlog_count, file_count=self._limits.file_count)

        follower = Follower(
            capacity=self._limits.follower_lines + backlog_count,
            lost_line=lambda lost: journal.host_line(f"dropped {lost} lines: this reader is too slow", {"lost": lost}),
        )
        if not self._writer.run_soon(lambda: journal.attach(follower, backlog)):
            return
        try:
            async with aclosing(follower.records()) as records:
                async for record in records:
                    yield record
        finally:
            self._writer.run_soon(lambda: journal.detach(follower))

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until what is logged now is written; say whether it was in time. Any thread."""
        return self._writer.flush(timeout_s)

    def release(self, plugin: str) -> None:
        """Close a stopped plugin's file. Its log stays, and a further record opens it again."""
        opened = self._sinks.get(plugin)
        if opened is not None:
            self._writer.run_soon(opened[1].release)

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what is queued and stop. Later records are dropped."""
        is_ended = self._writer.close(timeout_s)
        for _, journal in self._sinks.values():
            journal.end_followers()
            if is_ended:  # else the thread still holds the file
                journal.release()

    def _opened(self, plugin: str) -> tuple[PluginLog, Journal]:
        opened = self._sinks.get(plugin)
        if opened is None:
            limits = self._limits
            file = RotatingFile(self._folder_of(plugin), max_file_bytes=limits.max_file_bytes, file_count=limits.file_count)
            journal = Journal(plugin=plugin, file=file, clock=self._clock, writer=self._writer, on_dropped=self._on_dropped)
            sink = PluginLog(plugin=plugin, journal=journal, writer=self._writer, clock=self._clock, limits=limits)
            opened = self._sinks[plugin] = sink, journal
        return opened

    def _folder_of(self, plugin: str) -> Path:
        if not is_plugin_id(plugin):  # also what keeps ".." and "/" out of the path
            raise UnknownPluginError(f"{plugin!r} is no plugin id.", plugin=plugin)
        return self._folder / plugin
