"""The writing end of one subscriber's socket, and its policy when the socket is full.

The hub writes chunks. The socket accepts their bytes at once, or the rest waits in the outlet's
backlog (``streaming.backlog``) until a task has sent it. The outlet keeps four promises:

* ``write`` never waits, so a slow subscriber cannot delay the feed.
* The backlog is bounded in bytes and in age: one level2 snapshot weighs as much as a thousand
  tickers, and a minute-old price is worth nothing. ``engine.budget`` bounds the memory of all
  backlogs together.
* A frame, SSE event or NDJSON line that has begun is finished before any other byte is sent.
* A position in a notice covers exactly the messages that were sent before the notice.

A write straight to the socket costs 6 µs a delivery; waking a task per subscriber and message
costs 37 µs. Therefore a flush task exists only while bytes wait.

States (``_flushing`` and ``is_ending`` hold them; all transitions but those of the flush task
happen inside a plain function call):

========  ==========================================  =================================
state     fields                                      waiting bytes
========  ==========================================  =================================
idle      not ``_flushing``, not ``is_ending``        none
flushing  ``_flushing``, not ``is_ending``            data, control bytes
ending    ``_flushing``, ``is_ending``                the piece in flight, the farewell
closed    ``is_ending``, no backlog                   none, and none are accepted
========  ==========================================  =================================

========  ==========================================  =================================
state     event                                       action → next state
========  ==========================================  =================================
idle      write, control: all bytes accepted          → idle
idle      write, control: some bytes refused          keep the rest, start task → flushing
idle      end, answer_close                           leave the hub, send the farewell:
                                                      accepted → closed, else → ending
flushing  write, control                              append to the backlog → flushing
flushing  bound of bytes or age exceeded              conflate, if the policy allows it and
                                                      it suffices → flushing, else end
flushing  bound of control bytes exceeded; ``shed``   end (4001, slow consumer) → ending
flushing  end, answer_close                           leave the hub, drop all data but the
                                                      piece in flight, append the farewell
                                                      → ending
flushing  task: backlog empty                         ask for snapshots of dropped books
                                                      → idle
ending    write, tell, keep_alive, end                ignored → ending
ending    task: backlog empty                         shut the sending side → closed
ending    ``shed``                                    drop the farewell → closed
any       lose, close; the socket reports an error    drop everything → closed
========  ==========================================  =================================

``write`` may change the membership of its own member: a bound that is exceeded ends the stream or
removes conflated books from the cohort (``Session.step_aside``), and ``Budget.relieve`` may end any
outlet, this one included. Both come last in each method, after the outlet's own fields are
consistent; ``is_ending`` makes a nested call of ``end`` return at once. The hub expects these
changes (``fanout.hub``).

Not safe to share between threads.
"""

import contextlib
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import structlog
import trio

from hedgehogd.domain import limits
from hedgehogd.domain.channel import BY_TOPIC_CHANNEL, Topic
from hedgehogd.domain.errors import CLOSE_SLOW_CONSUMER
from hedgehogd.domain.message import Message
from hedgehogd.engine.budget import Budget
from hedgehogd.engine.chunk import Chunk
from hedgehogd.fanout.instance import StreamCounts
from hedgehogd.fanout.member import Member, MemberStatistics
from hedgehogd.fanout.session import Session
from hedgehogd.protocol import notices
from hedgehogd.protocol.wire import WireForm
from hedgehogd.streaming.backlog import Backlog
from hedgehogd.streaming.farewell import excess, excess_of_all, farewell

log = structlog.get_logger("outlet")

_BOOKS = frozenset(name for name, c in BY_TOPIC_CHANNEL.items() if c.begins_with_snapshot)
_SHED = "waiting_bytes_max"
_CONTROL_PART_BYTES = 32 * 1024  # one write of ``tell_all``; a fraction of CONTROL_BYTES_MAX
_SILENT_ROUNDS_MAX = int(limits.PEER_SILENCE_MAX_S / limits.KEEP_ALIVE_S)


@dataclass(slots=True)
class OutletSettings:
    """Settings shared by all outlets of an instance; a reload may change the limits at any time.

    Attributes:
        nursery: runs the flush tasks; it is closed after all connections.
        counts: counters of the instance's streams.
        backlog_bytes_max: largest amount of data that may wait for one subscriber, in bytes.
        backlog_age_max_s: largest age of waiting data, in seconds.
        budget: bound of the memory that waits for all subscribers of the instance.
        aged: limits the streams with a backlog that is too old that are treated in one turn.
    """

    nursery: trio.Nursery
    counts: StreamCounts
    backlog_bytes_max: int = limits.BACKLOG_BYTES_MAX
    backlog_age_max_s: float = limits.BACKLOG_AGE_MAX_S
    budget: Budget = field(default_factory=Budget)
    aged: trio.CapacityLimiter = field(
        default_factory=lambda: trio.CapacityLimiter(limits.AGED_PER_TURN_MAX)
    )


class Outlet(Member):
    """The writing end of one subscriber's socket.

    Attributes:
        session: the subscriber's session; None after the end of the stream.
        delivered: number of messages that the kernel has accepted completely.
        skipped: number of messages that conflation dropped.
        is_ending: the stream ends: no more data is accepted, the farewell is being sent.
        silent_rounds: calls of ``keep_alive`` since the last byte from a WebSocket peer.
        slot: second within ``KEEP_ALIVE_S`` in which the keepalives are sent.
        farewell_done: set when the farewell has been sent or cannot be sent any more; None
            before the stream ends.
        reading: cancel scope of the task that reads from the peer. The outlet cancels it when
            the stream ends, and the task then waits for the farewell.
    """

    __slots__ = (
        "_backlog",
        "_books_dropped",
        "_flushing",
        "_form",
        "_send",
        "_settings",
        "_socket",
        "_written",
        "delivered",
        "farewell_done",
        "is_ending",
        "reading",
        "session",
        "silent_rounds",
        "skipped",
        "slot",
    )

    def __init__(
        self,
        sock: socket.socket,
        form: WireForm,
        settings: OutletSettings,
        open_session: "Callable[[Outlet], Session] | None" = None,
    ) -> None:
        super().__init__()
        self.delivered = 0
        self.skipped = 0
        self.silent_rounds = 0
        self.slot = 0
        self.is_ending = False
        self.farewell_done: trio.Event | None = None
        self.reading = trio.CancelScope()
        self._socket = sock
        self._send = sock.send
        self._form = form
        self._settings = settings
        self._backlog: Backlog | None = None
        self._flushing = False
        self._written: trio.Event | None = None  # for ``wait_written``: the backlog is empty
        self._books_dropped = False  # request their snapshots when the backlog is empty
        # Last: outlet and session refer to each other, and the session needs a complete outlet.
        self.session: Session | None = None if open_session is None else open_session(self)

    @property
    def waiting_bytes(self) -> int:
        """Bytes of waiting data."""
        return self._backlog.bytes if self._backlog else 0

    def oldest_s(self, now: float) -> float:
        """Return the age of the oldest waiting data, in seconds; 0 when none waits."""
        since = self._backlog.oldest_since() if self._backlog else None
        return 0.0 if since is None else now - since

    def statistics(self, now: float) -> MemberStatistics:
        """Return the counts and the backlog of the subscriber at ``now``."""
        return MemberStatistics(
            self.delivered, self.skipped, self.waiting_bytes, self.oldest_s(now)
        )

    def write(self, chunk: Chunk) -> None:
        """Send ``chunk``; keep the bytes that the socket refuses.

        It never waits and never raises; it may end the stream, or other streams, at a bound.
        """
        if self._flushing:
            self._keep(chunk, 0)
            return
        try:
            sent = self._send(chunk.data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.lose("peer_gone")
            return
        if sent == chunk.size:
            self.delivered += chunk.count
        else:
            self._keep(chunk, sent)

    def control(self, data: bytes) -> None:
        """Send bytes that are not data, before the waiting data.

        The stream ends when more than ``CONTROL_BYTES_MAX`` of such bytes wait.
        """
        if not data:
            return
        sent = 0
        if not self._flushing:
            try:
                sent = self._send(data)
            except BlockingIOError:
                pass
            except OSError:
                self.lose("peer_gone")
                return
            if sent == len(data):
                return
        backlog = self._own_backlog()
        backlog.put_control(data, sent)
        self._start_flushing()  # before the checks: their writes must not overtake the backlog
        if backlog.control_bytes > limits.CONTROL_BYTES_MAX and not self.is_ending:
            self.end(CLOSE_SLOW_CONSUMER, "slow_consumer")
        self._settings.budget.relieve()

    def tell(self, payload: bytes) -> None:
        """Send a notice, acknowledgement or error in the wire form, unless the stream is ending."""
        self.tell_all((payload,))

    def tell_all(self, payloads: Iterable[bytes]) -> None:
        """Send several payloads in few writes: a command may have thousands of errors."""
        part, size = [], 0
        for payload in payloads:
            part.append(self._form.tell(payload))
            size += len(part[-1])
            if size >= _CONTROL_PART_BYTES:
                self._control_unless_ending(b"".join(part))
                part, size = [], 0
        self._control_unless_ending(b"".join(part))

    def _control_unless_ending(self, data: bytes) -> None:
        if not self.is_ending:
            self.control(data)

    def keep_alive(self) -> None:
        """Send a keepalive unless bytes are waiting; end the stream of a silent WebSocket peer.

        A WebSocket peer answers pings, so one that sends nothing for ``PEER_SILENCE_MAX_S`` has
        left.
        """
        if self.is_ending:
            return
        if self._form.kind == "websocket":
            self.silent_rounds += 1
            if self.silent_rounds > _SILENT_ROUNDS_MAX:
                self.lose("peer_silent")
                return
        if not self._flushing:
            self.control(self._form.keep_alive())

    def end(self, code: int, reason: str, detail: str = "") -> None:
        """End the stream: drop the waiting data but the piece in flight, send the farewell.

        The end is counted by ``reason``. A stream that is ending already is left alone.
        """
        if self.is_ending:
            return
        self._start_ending(reason, self._farewell_bytes(code, reason, detail or reason))

    def answer_close(self, frame: bytes) -> None:
        """End the stream with ``frame``, the answer to the peer's close frame, as its farewell."""
        if not self.is_ending:
            self._start_ending("peer_closed", frame)

    def lose(self, reason: str) -> None:
        """Drop all waiting bytes and end the stream without a farewell: the peer is unreachable.

        A farewell that is being sent is dropped too.
        """
        if not self.is_ending:
            self._start_ending(reason, b"")
        self.close()

    async def wait_written(self) -> None:
        """Return when the backlog is empty or the stream is ending."""
        while self._flushing and not self.is_ending:
            if self._written is None:
                self._written = trio.Event()
            await self._written.wait()
        await trio.lowlevel.checkpoint()

    def waiting(self) -> Iterable[Message]:
        """Return the waiting messages of which no byte has been sent, oldest first."""
        return self._backlog.waiting() if self._backlog else ()

    def shed(self) -> None:
        """Free the backlog: the budget of all subscribers is exceeded and this one has the most."""
        if self.is_ending:
            self.close()  # the memory of the farewell is needed too
        else:
            self.end(CLOSE_SLOW_CONSUMER, _SHED, "slow_consumer")

    def close(self) -> None:
        """Drop all waiting bytes, a farewell included, so that nothing more is sent.

        This neither ends the stream nor closes the socket.
        """
        backlog, self._backlog = self._backlog, None
        if backlog is not None:
            backlog.clear()
        if self.farewell_done is not None:
            self.farewell_done.set()

    def _start_ending(self, reason: str, last_bytes: bytes) -> None:
        self.is_ending = True
        self.farewell_done = trio.Event()
        settings = self._settings
        settings.counts.ends[reason] += 1
        if self.session is not None:
            self.session.close()
        if self._backlog is not None:
            dropped = self._backlog.drop()
            if dropped:
                settings.counts.drops[reason] += dropped
        self.reading.cancel()
        self.control(last_bytes)
        settings.budget.relieve()  # the copy of the piece in flight needs memory of its own
        if not self._flushing:
            self._shut_writing()

    def _farewell_bytes(self, code: int, reason: str, detail: str) -> bytes:
        """Return the farewell. Call it before the data is dropped: it states size and position."""
        settings, oldest_s = self._settings, self.oldest_s(trio.current_time())
        if reason == _SHED:
            exceeded = excess_of_all(self.waiting_bytes, settings.budget.bytes_max)
        else:
            exceeded = excess(
                self.waiting_bytes, oldest_s, settings.backlog_bytes_max, settings.backlog_age_max_s
            )
        position = self._position() if self._form.has_notices else {}
        return farewell(self._form, code, reason, detail, position, exceeded)

    def _position(self) -> dict[Topic, int]:
        """Return the resume position: all messages sent so far, the one in flight included."""
        if self.session is None:
            return {}
        to = self._backlog.delivered_to() if self._backlog else None
        return self.session.position(self.served_to if to is None else to)

    def _keep(self, chunk: Chunk, sent: int) -> None:
        if self.is_ending:
            return
        self.delivered += self._own_backlog().put(chunk, sent, trio.current_time())
        self._start_flushing()  # first: from here on nothing goes past the backlog
        if self._is_over():
            self._over_the_limit()
        self._settings.budget.relieve()

    def _own_backlog(self) -> Backlog:
        if self._backlog is None:
            self._backlog = Backlog(self._settings.budget.account(self.shed))
        return self._backlog

    def _is_over(self) -> bool:
        """Return whether the backlog has reached its bound of age or exceeds that of bytes.

        The largest message does not count towards the bytes: a snapshot may exceed them alone.
        """
        limit, backlog = self._settings.backlog_bytes_max, self._backlog
        if self.oldest_s(trio.current_time()) >= self._settings.backlog_age_max_s:
            return True
        if backlog is None or backlog.bytes <= limit:
            return False
        return backlog.bytes - backlog.largest() > limit

    def _over_the_limit(self) -> None:
        """Conflate the topics with that policy and report it by a notice.

        End the stream if there is no such topic, or if that does not suffice.
        """
        session = self.session
        conflated = frozenset(session.subscription.conflated) if session else frozenset()
        if conflated and session is not None and self._backlog is not None:
            books = frozenset(t for t in conflated if t.channel in _BOOKS)
            skipped = self._backlog.conflate(conflated - books, books)
            dropped = books & skipped.keys()
            if dropped:
                self._books_dropped = True
                session.step_aside(dropped)
            if skipped:
                self.skipped += skipped.total()
                self._settings.counts.drops["conflated"] += skipped.total()
                self.tell(notices.skipped(skipped))
            if not self._is_over():
                return
        self.end(CLOSE_SLOW_CONSUMER, "slow_consumer")

    def _start_flushing(self) -> None:
        if not self._flushing and self._backlog:
            self._flushing = True
            self._settings.nursery.start_soon(self._flush)

    async def _flush(self) -> None:
        """Send the backlog; then end the sending side, or request snapshots of dropped books.

        An unexpected exception ends this stream alone.
        """
        try:
            await self._send_while_waiting()
        except trio.ClosedResourceError:
            self.close()
        except Exception:
            self._settings.counts.refusals["bug"] += 1
            log.exception("bug while writing to one peer")
            self.lose("bug")
        finally:
            self._flushing = False
            if self._written is not None:
                self._written.set()
                self._written = None
        if self.is_ending:
            self._shut_writing()
        elif self._books_dropped and self.session is not None:
            self._books_dropped = False
            self.session.step_in()

    async def _send_while_waiting(self) -> None:
        """Send whenever the socket is writable; return when the backlog is empty.

        Meanwhile data that reaches the bound of age is conflated, or ends the stream.
        """
        while self._backlog:
            since = None if self.is_ending else self._backlog.oldest_since()
            limit = float("inf")
            if since is not None:
                limit = since + self._settings.backlog_age_max_s
            with trio.move_on_at(limit) as waiting:
                await trio.lowlevel.wait_writable(self._socket)
            if not waiting.cancelled_caught:
                self._send_waiting()
            elif self._is_over():
                async with self._settings.aged:
                    if self._is_over():
                        self._over_the_limit()
                    await trio.lowlevel.checkpoint()

    def _send_waiting(self) -> None:
        backlog = self._backlog
        while backlog:
            data = backlog.next()
            try:
                sent = self._send(data)
            except BlockingIOError:
                return
            except OSError:
                self.lose("peer_gone")
                return
            self.delivered += backlog.sent(sent)
            if sent < len(data):
                return

    def _shut_writing(self) -> None:
        """End the sending side of the socket, and close the outlet: the farewell has been sent."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        self.close()
