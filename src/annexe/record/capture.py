"""What a plugin prints, taken from a pipe and put in its log.

* The pipe is always drained, so a plugin that prints never waits and is never killed for it.
* In one turn of the loop a pipe gets at most one read of 64 KiB and 64 lines, so that a flood cannot starve anything.
* Memory is bounded whatever the length of a line: one chunk and 16 KiB.
* Over the log's rate, lines are counted and thrown away without being decoded.

The descriptor belongs to the caller, who closes it after ``wait_ended`` or ``stop``.
"""

from __future__ import annotations

import asyncio
import os
from typing import Literal, final

from annexe.record.entry import MAX_RECORD_BYTES
from annexe.record.lines import LineSplitter
from annexe.record.logs import PluginLog

__all__ = ["PipeCapture"]

_READ_BYTES = 64 * 1024
_LINES_PER_TURN = 64
_STOP_TURNS = 64  # 4 MiB: far more than a pipe holds


@final
class PipeCapture:
    """Copies one pipe to a log until its end. Made on the loop that reads it; begins at once.

    Args:
        descriptor: The read end of a pipe; is made non-blocking.
        log: Where the lines go.
        source: What the pipe is.
        instance: Id of the instance that prints.
    """

    def __init__(self, descriptor: int, log: PluginLog, *, source: Literal["stdout", "stderr"], instance: str = "") -> None:
        self._descriptor = descriptor
        self._log = log
        self._source: Literal["stdout", "stderr"] = source
        self._instance = instance
        self._splitter = LineSplitter(MAX_RECORD_BYTES)
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        os.set_blocking(descriptor, False)
        self._loop.add_reader(descriptor, self._on_readable)

    @property
    def held_bytes(self) -> int:
        """Bytes in memory now."""
        return self._splitter.held_bytes

    async def wait_ended(self) -> None:
        """Wait for the end of the pipe, which a child that the plugin left behind can put off for ever: give it a deadline."""
        await asyncio.shield(self._ended)

    def stop(self) -> None:
        """Take what is in the pipe now and end."""
        for _ in range(_STOP_TURNS):
            if not self._turn():
                break
        self._end()

    def _on_readable(self) -> None:
        if self._splitter.is_used_up:  # else a turn is due already
            self._turn()

    def _turn(self) -> bool:
        """Do one turn's work; say whether there was any."""
        if self._ended.done():  # a turn that was due when the end came
            return False
        if self._splitter.is_used_up and not self._read():
            return False
        for _ in range(_LINES_PER_TURN):
            if not self._log.is_open():
                self._log.drop(self._splitter.skip_lines())
                return True
            line = self._splitter.next_line()
            if line is None:
                return True
            self._write(line)
        if not self._splitter.is_used_up:
            self._loop.call_soon(self._turn)  # the pipe may be empty, so the loop might not call
        return True

    def _read(self) -> bool:
        try:
            chunk = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            chunk = b""  # a broken pipe ends like a closed one
        if not chunk:
            self._end()
            return False
        self._splitter.feed(chunk)
        return True

    def _write(self, line: tuple[bytes, int]) -> None:
        text, cut_bytes = line
        if cut_bytes or text.strip():  # blank lines tell nothing
            self._log.write_line(text, source=self._source, instance=self._instance, cut_bytes=cut_bytes)

    def _end(self) -> None:
        if self._ended.done():
            return
        self._loop.remove_reader(self._descriptor)
        self._log.drop(self._splitter.skip_lines())  # none, unless stopped in a flood
        last = self._splitter.last_line()
        if last is not None:
            self._write(last)
        self._ended.set_result(None)
