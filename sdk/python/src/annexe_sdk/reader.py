"""Who reads the socket: leader and followers.

Whichever thread has nothing else to do reads; when a call comes it hands reading on and runs the handler itself. With one worker that is a
single thread without any hand-over. A thread that waits for the host's answer reads meanwhile, and runs calls that serve its own.

* Only the thread that holds ``_leader`` reads and changes the session by what was read.
* Whoever stops leading wakes one that is parked; whoever is woken looks again, so a wake too many does no harm.

Source: ADR-0003.
"""

import sys
from _socket import MSG_DONTWAIT, SHUT_RDWR, socket
from _thread import allocate_lock
from time import monotonic

from annexe_sdk.calls import Call, Wait
from annexe_sdk.session import Broken, Session, Stopped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Reader"]

_READ_BYTES = 64 * 1024
_LOOK_AGAIN_S = 0.001  # how long queued calls may be run without looking for cancels


class Reader:
    """Reads for all threads of one plugin.

    Args:
        sock: The plugin's end, blocking.
        session: Takes in what is read.
        send: Writes frames.
        run: Runs a call that serves a waiting one, on the waiting thread.
        add_worker: Starts another worker if one more is allowed; says whether it did.
    """

    def __init__(
        self,
        sock: "socket",
        session: Session,
        *,
        send: "Callable[[bytes], None]",
        run: "Callable[[Call], None]",
        add_worker: "Callable[[], bool]",
    ) -> None:
        self.stopped = False
        self.start_stream: Callable[[Call], None] | None = None
        self._sock = sock
        self._recv = sock.recv
        self._session = session
        self._ready = session.ready
        self._send = send
        self.run = run
        self._add_worker = add_worker
        self._leader = allocate_lock()
        self._parked: dict[Wait, None] = {}
        self._idle: list[Wait] = []
        self._last_look = 0.0

    def next_call(self, idle: Wait) -> Call:
        """Return the next call to run; ``idle`` is the calling worker's own.

        Raises:
            Stopped: The connection is gone.
        """
        ready, leader = self._ready, self._leader
        while not self.stopped:
            if ready and monotonic() - self._last_look > _LOOK_AGAIN_S:
                self._look()
            elif not ready and leader.acquire(False):
                try:
                    while not ready and not self.stopped:
                        self._read()
                finally:
                    leader.release()
                if len(ready) > 1:
                    self._share_out(len(ready) - 1)  # the first is this worker's own
                if self._parked:
                    self._hand_on()
            if ready:
                try:
                    call: Call = ready.popleft()
                except IndexError:
                    continue  # cancelled just now, or another worker was quicker
                return call
            if leader.locked():
                idle.done, idle.call = False, None
                self._idle.append(idle)
                self.wait_for(idle)
                assigned: Call | None = idle.call
                if assigned is not None:
                    return assigned
        raise Stopped

    def wait_for(self, wait: Wait) -> None:
        """Return when ``wait`` is done; read meanwhile if nobody else does, and run calls that serve the waiting one.

        Raises:
            Stopped: The connection is gone.
        """
        while not wait.done:
            if self.stopped:
                raise Stopped
            if wait.nested:
                self.run(wait.nested.popleft())
            elif self._leader.acquire(False):
                self._lead(wait)
            else:
                # Parked before the second look, so that whoever hands reading on in between sees us.
                self._parked[wait] = None
                if self._leader.acquire(False):
                    self._parked.pop(wait, None)
                    self._lead(wait)
                else:
                    if not wait.done:
                        wait.lock.acquire()
                    self._parked.pop(wait, None)
        while wait.nested and wait.is_over:  # came with the answer: they serve nobody who waits any more
            self._ready.append(wait.nested.popleft())
        if self._parked and not self._leader.locked():
            self._hand_on()

    def relieve(self) -> None:
        """See to it that somebody reads while the calling worker runs a call: another may come, and there are slots for it.

        Not while it runs one of the host's own calls: until activation is over, the codec is not agreed.
        """
        if not (self._parked or self._leader.locked()):
            self._add_worker()

    def take_over(self) -> None:
        """Make the calling thread the reader for good: its event loop calls ``read_nowait`` from now on."""
        self._leader.acquire()

    def read_nowait(self) -> None:
        """Take in what has arrived; for the event loop."""
        self._read(MSG_DONTWAIT)

    def fileno(self) -> int:
        """The connection's descriptor."""
        return self._sock.fileno()

    def stop(self) -> None:
        """End everything: wake all who wait."""
        self.stopped = True
        try:
            self._sock.shutdown(SHUT_RDWR)
        except OSError:
            pass  # closed already
        for wait in list(self._session.waits.values()) + list(self._parked) + list(self._idle):
            wait.wake()

    def _lead(self, wait: Wait) -> None:
        try:
            while True:
                if self._ready:  # also before the first read: what came while this thread went to wait is its to share out
                    self._share_out(len(self._ready))
                if wait.done or wait.nested or self.stopped:
                    return
                self._read()
        finally:
            self._leader.release()
            if self._parked:
                self._hand_on()

    def _share_out(self, count: int) -> None:
        """Give calls to idle workers, or to new ones."""
        while count > 0:
            try:
                wait = self._idle.pop()
            except IndexError:
                if not self._add_worker():
                    return
            else:
                try:
                    wait.call = self._ready.popleft()
                except IndexError:
                    self._idle.append(wait)
                    return
                wait.finish()
            count -= 1

    def _hand_on(self) -> None:
        for wait in list(self._parked):
            wait.wake()
            return

    def _look(self) -> None:
        """Take in what has arrived, without waiting."""
        if self._leader.acquire(False):
            try:
                self._read(MSG_DONTWAIT)
            finally:
                self._leader.release()
                if self._parked:
                    self._hand_on()
        else:
            self._last_look = monotonic()  # another thread reads

    def _read(self, flags: int = 0) -> None:
        # A full read means that more may have arrived.
        while self._read_once(flags) == _READ_BYTES:
            flags = MSG_DONTWAIT

    def _read_once(self, flags: int) -> int:
        """Take in one chunk; return its size, 0 when there was none."""
        try:
            chunk = self._recv(_READ_BYTES, flags)
        except BlockingIOError:
            self._last_look = monotonic()
            return 0
        except OSError:
            chunk = b""
        if not chunk:
            self.stop()
            raise Stopped
        session = self._session
        now = self._last_look = monotonic()
        try:
            session.receive(chunk, now)
        except Broken as error:
            print(f"annexe_sdk: the host broke the protocol ({error.rule}): {error}", file=sys.stderr, flush=True)
            self.stop()
            raise Stopped from error
        if session.answers:
            self._send(session.take_answers())
        while session.streams:
            assert self.start_stream is not None
            self.start_stream(session.streams.popleft())
        return len(chunk)
