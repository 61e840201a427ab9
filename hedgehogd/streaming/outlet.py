"""The writing end of one subscriber's socket, and what happens when it fills up.

The hub hands bytes in; the socket takes them at once or they wait here. Promises:

* ``write`` never waits. The feed must not notice how fast a subscriber reads.
* The backlog is bounded twice, in bytes and in age: one level2 snapshot weighs as
  much as a thousand tickers, and a minute-old price is worth nothing. A third bound is
  that of all subscribers together (``engine.budget``).
* A frame once begun is finished before anything else is sent on the socket.
* A position we state covers exactly the messages whose bytes precede it.

Writing straight to the socket costs 6 µs a delivery; waking a task per subscriber
and message costs 37 (DESIGN §1). A task exists only while something waits.

When a bound is reached the subscription's policy decides, and the subscriber is told
(DESIGN, invariant 2).

Not safe to share between threads.
"""

import contextlib
import socket
from collections.abc import Iterable
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
from hedgehogd.streaming.farewell import excess, excess_of_all, goodbye

log = structlog.get_logger("outlet")

_BOOKS = frozenset(name for name, c in BY_TOPIC_CHANNEL.items() if c.begins_with_snapshot)
_SHED = "waiting_bytes_max"
_CONTROL_PART_BYTES = 32 * 1024  # of things said at once; a part of CONTROL_BYTES_MAX
_SILENT_ROUNDS_MAX = int(limits.PEER_SILENCE_MAX_S / limits.KEEP_ALIVE_S)


@dataclass(slots=True)
class OutletSettings:
    """What all outlets of an instance share; the limits may be changed at any time.

    Attributes:
        nursery: where flushing tasks live; closed after all connections.
        counts: what happened to streams.
        backlog_bytes_max: data that may wait for one subscriber, in bytes.
        backlog_age_max_s: how old waiting data may grow, in seconds.
        budget: what waits for all subscribers of the instance.
    """

    nursery: trio.Nursery
    counts: StreamCounts
    backlog_bytes_max: int = limits.BACKLOG_BYTES_MAX
    backlog_age_max_s: float = limits.BACKLOG_AGE_MAX_S
    budget: Budget = field(default_factory=Budget)


class Outlet(Member):
    """One subscriber's writing end.

    Attributes:
        session: set by the connection before the first write.
        delivered: messages whose bytes the kernel has taken.
        skipped: messages that conflation dropped.
        is_ending: no more data is taken; the farewell is on its way.
        silent_rounds: keepalives sent since the peer was last heard.
        slot: in which second of ``KEEP_ALIVE_S`` its keepalives are due.
        said_all: set when the farewell has been written, or never can be; None before.
        reading: the scope of the task that reads from the peer; cancelled when the stream
            ends here, so that the task turns to the farewell.
    """

    __slots__ = (
        "_backlog",
        "_flushing",
        "_form",
        "_is_behind",
        "_send",
        "_settings",
        "_socket",
        "_written",
        "delivered",
        "is_ending",
        "reading",
        "said_all",
        "session",
        "silent_rounds",
        "skipped",
        "slot",
    )

    def __init__(self, sock: socket.socket, form: WireForm, settings: OutletSettings) -> None:
        super().__init__()
        self.session: Session | None = None
        self.delivered = 0
        self.skipped = 0
        self.silent_rounds = 0
        self.slot = 0
        self.is_ending = False
        self.said_all: trio.Event | None = None
        self.reading = trio.CancelScope()
        self._socket = sock
        self._send = sock.send
        self._form = form
        self._settings = settings
        self._backlog: Backlog | None = None
        self._flushing = False
        self._written: trio.Event | None = None  # somebody waits until nothing waits
        self._is_behind = False  # books were dropped, and wait for all else to be sent

    @property
    def waiting_bytes(self) -> int:
        """Bytes of data that wait."""
        return self._backlog.bytes if self._backlog else 0

    def oldest_s(self, now: float) -> float:
        """Return the age of the oldest waiting data, in seconds; 0 when none waits."""
        since = self._backlog.oldest_since() if self._backlog else None
        return 0.0 if since is None else now - since

    def statistics(self, now: float) -> MemberStatistics:
        """Return how the subscriber is doing at ``now``."""
        return MemberStatistics(
            self.delivered, self.skipped, self.waiting_bytes, self.oldest_s(now)
        )

    def write(self, chunk: Chunk) -> None:
        """Send ``chunk``, or keep what the socket does not take."""
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
        """Send something that is not data, ahead of data that waits."""
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
        self._start_flushing()  # first: from here on nothing goes past the backlog
        if backlog.control_bytes > limits.CONTROL_BYTES_MAX and not self.is_ending:
            self.end(CLOSE_SLOW_CONSUMER, "slow_consumer")
        self._settings.budget.relieve()

    def tell(self, payload: bytes) -> None:
        """Say something that is not data, in the stream's own form."""
        self.tell_all((payload,))

    def tell_all(self, payloads: Iterable[bytes]) -> None:
        """Say several things in few writes: a command may have thousands of errors."""
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
        """Send bytes that mean nothing, unless others wait already; give up the silent.

        A WebSocket answers pings; one that says nothing for ``PEER_SILENCE_MAX_S`` is gone.
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
        """Drop what waits, say farewell, and let the connection close."""
        if self.is_ending:
            return
        self._farewell(reason, self._goodbye(code, reason, detail or reason))

    def answer_close(self, frame: bytes) -> None:
        """The peer closes: answer its close frame and end."""
        if not self.is_ending:
            self._farewell("peer_closed", frame)

    def lose(self, reason: str) -> None:
        """The peer is gone: nothing can be said any more."""
        if not self.is_ending:
            self._farewell(reason, b"")
        self.close()

    async def wait_written(self) -> None:
        """Return when nothing waits to be sent, or never will be."""
        while self._flushing and not self.is_ending:
            if self._written is None:
                self._written = trio.Event()
            await self._written.wait()
        await trio.lowlevel.checkpoint()

    def waiting(self) -> Iterable[Message]:
        """Return the messages of which nothing has been sent yet, oldest first."""
        return self._backlog.waiting() if self._backlog else ()

    def shed(self) -> None:
        """Free what waits: all subscribers together have too much, and this one the most."""
        if self.is_ending:
            self.close()  # its farewell is too much as well
        else:
            self.end(CLOSE_SLOW_CONSUMER, _SHED, "slow_consumer")

    def close(self) -> None:
        """Nothing is sent any more."""
        backlog, self._backlog = self._backlog, None
        if backlog is not None:
            backlog.clear()
        if self.said_all is not None:
            self.said_all.set()

    def _farewell(self, reason: str, goodbye: bytes) -> None:
        self.is_ending = True
        self.said_all = trio.Event()
        settings = self._settings
        settings.counts.ends[reason] += 1
        if self.session is not None:
            self.session.close()
        if self._backlog is not None:
            dropped = self._backlog.drop()
            if dropped:
                settings.counts.drops[reason] += dropped
        self.reading.cancel()
        self.control(goodbye)
        settings.budget.relieve()  # what is in flight was copied out of bytes that are shared
        if not self._flushing:
            self._shut_writing()

    def _goodbye(self, code: int, reason: str, detail: str) -> bytes:
        """Return the last bytes; must be asked for before what waits is dropped."""
        settings, oldest_s = self._settings, self.oldest_s(trio.current_time())
        if reason == _SHED:
            why_slow = excess_of_all(self.waiting_bytes, settings.budget.bytes_max)
        else:
            why_slow = excess(
                self.waiting_bytes, oldest_s, settings.backlog_bytes_max, settings.backlog_age_max_s
            )
        position = self._position() if self._form.has_notices else {}
        return goodbye(self._form, code, reason, detail, position, why_slow)

    def _position(self) -> dict[Topic, int]:
        """Return the resume position: all that has been sent whole, nothing that waits."""
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
        """Say whether too much waits. One message alone never does: a snapshot may be larger."""
        limit, backlog = self._settings.backlog_bytes_max, self._backlog
        if self.oldest_s(trio.current_time()) >= self._settings.backlog_age_max_s:
            return True
        if backlog is None or backlog.bytes <= limit:
            return False
        return backlog.bytes - backlog.largest() > limit

    def _over_the_limit(self) -> None:
        """Act by policy: conflate what may be, close when that does not help."""
        session = self.session
        conflated = frozenset(session.subscription.conflated) if session else frozenset()
        if conflated and session is not None and self._backlog is not None:
            books = frozenset(t for t in conflated if t.channel in _BOOKS)
            skipped = self._backlog.conflate(conflated - books, books)
            behind = books & skipped.keys()
            if behind:
                self._is_behind = True
                session.step_aside(behind)
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
        """Send what waits; a bug while doing so ends this peer alone."""
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
        elif self._is_behind and self.session is not None:
            self._is_behind = False
            self.session.step_in()

    async def _send_while_waiting(self) -> None:
        """Send whenever the socket is writable; return when nothing waits."""
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
                self._over_the_limit()

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
        """Everything has been said."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        self.close()
