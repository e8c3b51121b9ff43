"""One call of the host's and what its handler waits for, as the session and whoever runs it know them.

Sans I/O.

* Parameters with blobs stay in shared memory until the handler is started.

Source: docs/reference/protocol.md; ADR-0003; ADR-0085.
"""

from _collections import deque  # type: ignore[import-not-found]  # `collections` costs 1 ms to import
from _thread import allocate_lock

from annexe_sdk.wire import INITIAL_CREDIT_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from annexe_sdk.blobs import Memory

__all__ = ["BlobCall", "Call", "Shared", "Unread", "Wait"]


class Wait:
    """One thing that one thread waits for; ``lock`` is a binary semaphore, woken by ``wake``.

    Attributes:
        done: The answer is there, or the call to run.
        nested: Calls that serve the waiting one, to be run by the waiting thread.
        on_done: Called instead of waking a thread, for waits of an event loop.
    """

    __slots__ = ("call", "done", "error", "lock", "nested", "on_done", "result")

    def __init__(self) -> None:
        self.lock = allocate_lock()
        self.lock.acquire()
        self.done = False
        self.error: Any = None
        self.result: Any = None
        self.nested: deque[Call] = deque()
        self.call: Call | None = None
        self.on_done: Callable[[], None] | None = None

    def wake(self) -> None:
        """Let the waiting thread look again."""
        if self.on_done is not None:
            self.on_done()
            return
        try:
            self.lock.release()
        except RuntimeError:
            pass  # awake already

    @property
    def is_over(self) -> bool:
        """Whether nobody waits here any more who would run calls that serve the waiting one."""
        return self.done

    def finish(self) -> None:
        """Say that it is there."""
        self.done = True
        self.wake()


class Call:
    """One call of the host's.

    Attributes:
        received: When it arrived, by the monotonic clock, in seconds.
        wait: Our own request that its handler waits for at the moment.
        stream_wait: The item or credit that its handler waits for at the moment.
        inbox: Items of the caller's stream that are not taken in yet, with their sizes.
        credit: Bytes of items that we may still send.
        consumed: Bytes of items taken in and not acknowledged yet.
    """

    # Defaults on the class: most calls never touch them, and making a call is on the hot path.
    cancelled = False
    started = False
    wait: "Wait | None" = None
    stream_wait: "Wait | None" = None
    on_cancel: "Callable[[], None] | None" = None
    stream: str | None = None

    def __init__(self, ident: int, method: str, params: "Any", meta: "dict[str, Any]", received: float) -> None:
        self.id = ident
        self.method = method
        self.params = params
        self.meta = meta
        self.received = received
        if "stream" in meta:
            self.stream = str(meta["stream"])
            self.inbox: deque[tuple[Any, int]] = deque()
            self.ended = self.stream == "out"
            self.credit = INITIAL_CREDIT_BYTES
            self.consumed = 0

    def drop_inbox(self) -> None:
        """Release what nobody will read of its stream. Others may take items meanwhile."""
        while True:
            try:
                value, _ = self.inbox.popleft()
            except IndexError:
                return
            if type(value) is Unread:
                value.drop(at_once=True)


class Unread:
    """A payload whose blobs are still in shared memory.

    Attributes:
        frame: The message that it came in.
        regions: Where they are: offset and length of each.
    """

    __slots__ = ("_memory", "frame", "regions")

    def __init__(self, memory: "Memory", frame: bytes, regions: "list[Any]") -> None:
        self._memory = memory
        self.frame = frame
        self.regions = regions

    def read(self) -> "Any":
        """Return the payload; to be called once."""
        return self._memory.read(self)

    def look(self) -> "tuple[Any, list[memoryview]]":
        """Return the payload with views of the file in it, and those; to be called once, and ``drop`` when nobody looks any more."""
        return self._memory.look(self)

    def drop(self, *, at_once: bool = False) -> None:
        """Say that it is received, though nobody wants it; ``at_once``: nothing may be sent for long that could take that along."""
        self._memory.release(self.regions, at_once=at_once)


class BlobCall(Call):
    """A call whose parameters hold blobs: they are read when its handler is started, so that calls sent ahead fill nothing but the file.

    Attributes:
        as_views: Its handler takes them as views of the file, which are good until it is answered.
    """

    as_views = False
    _params: "Any"
    _looked: "tuple[Unread, list[memoryview]] | None" = None

    @property
    def params(self) -> "Any":
        """The parameters."""
        unread = self._params
        if type(unread) is Unread:
            if self.as_views:
                self._params, views = unread.look()
                self._looked = unread, views
            else:
                self._params = unread.read()
        return self._params

    @params.setter
    def params(self, params: "Any") -> None:
        self._params = params

    def drop(self) -> None:
        """Release what nobody will read, or look at, any more."""
        if type(self._params) is Unread:
            unread, self._params = self._params, None
            unread.drop()
        if self._looked is not None:
            (unread, views), self._looked = self._looked, None
            for view in views:
                try:
                    view.release()
                except BufferError:
                    pass  # the plugin still holds something made of it: what it sees there may change
            unread.drop()


class Shared:
    """Shared memory, mapped when the first blob comes or goes.

    Attributes:
        arenas: As hello told them; None where none were agreed on.
        memory: Once it is mapped.
        viewing: Methods whose handlers take blobs as views.
        write: Writes a frame at once.
        write_later: Writes a frame with the next one.
    """

    __slots__ = ("_mapping", "arenas", "memory", "viewing", "write", "write_later")

    def __init__(self) -> None:
        self.arenas: dict[str, list[int]] | None = None
        self.memory: Memory | None = None
        self.viewing: set[str] = set()
        self.write: Callable[[bytes], None] | None = None
        self.write_later: Callable[[bytes], None] | None = None
        self._mapping = allocate_lock()

    def take(self) -> "Memory | None":
        """Return it; None where none was agreed on, or where nobody writes."""
        if self.memory is None and self.arenas is not None and self.write is not None and self.write_later is not None:
            with self._mapping:
                if self.memory is None:
                    from annexe_sdk.blobs import Memory

                    self.memory = Memory(self.arenas, self.write, self.write_later)
        return self.memory
