"""Order books of every product with level 2 on the feed, updated in step with the tape.

The broker passes every level-2 message to ``follow`` in the turn in which it appends the message to
the tape. So at each checkpoint a ready book is the result of the tape up to its end. The snapshots
for late joiners (``snapshots``) are made from the books and, where the exchange sends ``level2``,
so are the messages of ``level2_batch``: the net changes of 50 ms.

Messages of the exchange are delivered unchanged, with one exception: a change that removes a
level that does not exist is removed from the message, because clients crash on it (COINBASE §6.6).

An unreadable row costs that row alone: early and late joiners get the same book without it.
For a book that looks damaged (crossed outside of an auction, or with unreadable rows) a new
snapshot is requested. When the fault recurs after that, the exchange may mean it, and every
subscriber receives each snapshot: the fault is logged once, and a book that still has it at the end
of a pause (``ResyncPause``) requests the next one. A book that was readable and not crossed for
``RESYNC_REPAIRED_S`` was repaired: its next fault requests a snapshot at once.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress

import structlog
import trio

from hedgehogd.domain.book import Book, Change
from hedgehogd.domain.channel import AUCTION, LEVEL2, LEVEL2_BATCH, Topic
from hedgehogd.domain.level2 import (
    Gathering,
    l2update,
    read_snapshot,
    read_update,
    without_changes,
)
from hedgehogd.domain.limits import (
    AUCTION_SILENCE_S,
    RESYNC_REPAIRED_S,
    RESYNCS_LOGGED_MAX,
    TOPICS_MAX,
)
from hedgehogd.domain.message import BadMessage, Message, intern_topic
from hedgehogd.domain.resync_pause import ResyncPause
from hedgehogd.engine.demand import Demand
from hedgehogd.protocol.frames import encode_text

log = structlog.get_logger("books")

_LEVEL2, _BATCH = LEVEL2.topic_channel, LEVEL2_BATCH.topic_channel
_AUCTION = AUCTION.topic_channel
_CHANNELS = frozenset({_LEVEL2, _BATCH})
_AUCTION_ONLY = {"auction"}
_YEAR_ONE = "0001"  # appears in real updates (COINBASE §6.6)


class HeldBook:
    """One product's book.

    Attributes:
        book: the levels.
        time: the ``time`` of the last update; empty before the first that has one.
        received_us: the receive time of the last update, µs since the epoch; 0 before the first.
        is_level2: True when the book follows ``level2``, from which ``level2_batch`` is made.
        gathering: levels changed in the running window of 50 ms; None without demand for it.
        was_crossed: True if the book was crossed after its last update, or after its snapshot.
        sound_since: when the last readable snapshot was loaded, or an update ended a crossing after
            that; infinite from an unreadable row to the next readable snapshot; seconds on trio's
            clock.
        faults: reasons for a new snapshot that are withheld until the pause is over; a snapshot
            removes them. ``auction`` is a crossing in an auction: it is no fault until the auction
            is over, and none after an update has ended it.
        pause: the pause between requests of new snapshots.
        is_requested: True from a request until the next snapshot.
        is_reported: True if a fault that recurred was logged since the last repair.
    """

    __slots__ = (
        "book",
        "faults",
        "gathering",
        "is_level2",
        "is_reported",
        "is_requested",
        "pause",
        "received_us",
        "sound_since",
        "time",
        "was_crossed",
    )

    def __init__(self) -> None:
        self.book = Book()
        self.time = ""
        self.received_us = 0
        self.is_level2 = False
        self.gathering: Gathering | None = None
        self.was_crossed = False
        self.sound_since = math.inf
        self.faults: set[str] = set()
        self.pause = ResyncPause()
        self.is_requested = False
        self.is_reported = False


class Books:
    """All books of one instance.

    Attributes:
        resyncs: requests for a new snapshot, by reason.
        withheld: faults that requested no snapshot at once, because an earlier snapshot did not
            repair the book, by reason.
        unreadable: unreadable rows of books.
        bare_removals: removals of levels that do not exist, removed from messages.
        is_in_auction: returns whether the exchange's product list has the product with this id in
            an auction.
    """

    def __init__(
        self, demand: Demand, is_in_auction: Callable[[str], bool] = lambda _: False
    ) -> None:
        self.resyncs: Counter[str] = Counter()
        self.withheld: Counter[str] = Counter()
        self.unreadable = 0
        self.bare_removals = 0
        self.is_in_auction = is_in_auction
        self._logged = 0
        # Until when each product counts as in an auction, on the clock of ``trio.current_time``.
        self._auctions_until: dict[str, float] = {}
        self._demand = demand
        self._held: dict[str, HeldBook] = {}

    def __len__(self) -> int:
        """Return how many books are ready."""
        return sum(held.book.is_ready for held in self._held.values())

    @property
    def faulty(self) -> int:
        """The number of books with a fault that their last snapshot did not prevent.

        Their next one is withheld until a pause is over. A book that is crossed in an auction has
        no fault, and one whose requested snapshot has not arrived does not count.
        """
        return sum(
            not held.is_requested and self._fault(product_id, held) is not None
            for product_id, held in self._held.items()
        )

    def get(self, product_id: str) -> HeldBook | None:
        """Return the book of a product; None when there is none or it is not ready."""
        return self._held[product_id] if self.is_live(product_id) else None

    def is_live(self, product_id: str) -> bool:
        """Say whether the product's book is complete and up to date."""
        held = self._held.get(product_id)
        return held is not None and held.book.is_ready

    def products(self) -> set[str]:
        """Return the products that have a book, ready or not."""
        return set(self._held)

    def end(self, product_ids: Collection[str] | None) -> None:
        """Drop the books of ``product_ids``, all books for None: the feed no longer updates them.

        The next snapshot starts each book again; an update before it requests a snapshot.
        """
        for product_id in list(self._held if product_ids is None else product_ids):
            self._held.pop(product_id, None)

    def begin_both(self, snapshot: Message) -> None:
        """Make a snapshot of ``level2`` one of ``level2_batch`` too, unless it has two topics."""
        if snapshot.also is None:
            snapshot.also = intern_topic(_BATCH, snapshot.topic.product_id)

    async def load(self, message: Message) -> None:
        """Replace the product's book by a snapshot, in slices with a checkpoint after each.

        The book is not ready meanwhile. A new snapshot is requested for unreadable rows, and for an
        unreadable message, which leaves the book not ready.
        """
        product_id = message.topic.product_id
        held = self._held.setdefault(product_id, HeldBook())
        held.book.clear()
        self._end_if_repaired(held)
        held.sound_since = math.inf
        held.faults.clear()
        held.is_requested = False
        held.is_level2 = message.topic.channel == _LEVEL2
        try:
            rows = read_snapshot(message.payload)
        except BadMessage:
            self._resync(product_id, "bad_snapshot")
            return
        for _ in held.book.load_parts(rows.bids, rows.asks):
            await trio.lowlevel.checkpoint()
        held.was_crossed = held.book.is_crossed
        self.unreadable += held.book.skipped
        if held.book.skipped:
            self._resync(product_id, "bad_rows")
        else:
            held.sound_since = trio.current_time()

    def follow(self, messages: Sequence[Message]) -> list[Message]:
        """Apply the updates among ``messages``; return the messages to deliver.

        Removals of levels that do not exist are removed from them. The caller has passed each
        snapshot among ``messages`` to ``load`` before. ``auction`` messages are noted.
        """
        delivered: list[Message] = []
        for message in messages:
            if message.topic.channel not in _CHANNELS:
                delivered.append(message)
                if message.topic.channel == _AUCTION:
                    self._note_auction(message.topic.product_id)
            elif message.type == "snapshot":
                # Gathering restarts in the turn in which waiting subscribers join: their first
                # window holds every change after the snapshot.
                held = self._held[message.topic.product_id]
                held.gathering = None
                self._gather(message.topic.product_id, held)
                delivered.append(message)
            else:
                delivered += self._update(message)
        return delivered

    def gathered(self) -> Iterator[Message]:
        """End the running window of each ``level2_batch``; yield its net changes in a message.

        A window without a net change yields nothing. A message has the receive time of the book's
        last update. Exhaust the iterator: each step ends windows.
        """
        for product_id, held in self._held.items():
            gathering = held.gathering
            if gathering is None or not held.book.is_ready:
                continue
            changes = gathering.changes(held.book)
            gathering.begin()
            if changes:
                payload = l2update(product_id, changes, held.time)
                topic = intern_topic(_BATCH, product_id)
                yield Message(topic, "l2update", encode_text(payload), payload,
                              received_us=held.received_us)  # fmt: skip

    def watch(self) -> bool:
        """Start and end work that depends on time and demand, for each book.

        Start to gather changes for a wanted ``level2_batch``, and stop for an unwanted one. Request
        a new snapshot of a book that still has a fault at the end of the fault's pause.

        Returns:
            True if a ``level2_batch`` made from ``level2`` is wanted.
        """
        gathers, now = False, trio.current_time()
        for product_id, held in self._held.items():
            gathers |= self._gather(product_id, held)
            if held.was_crossed and self._is_in_auction(product_id):
                held.faults.add("auction")  # also of a snapshot, or before the auction was known
            if held.faults and held.pause.is_over(now):
                reason = self._fault(product_id, held)
                if reason is not None:
                    self._request(product_id, reason)
        return gathers

    def _fault(self, product_id: str, held: HeldBook) -> str | None:
        """Return a withheld fault, if any."""
        if held.faults == _AUCTION_ONLY:
            return None if self._is_in_auction(product_id) else "auction"
        return min(held.faults - _AUCTION_ONLY, default=None)

    def _gather(self, product_id: str, held: HeldBook) -> bool:
        wanted = held.is_level2 and self._demand.is_wanted(Topic(_BATCH, product_id))
        if not wanted:
            held.gathering = None
        elif held.gathering is None:
            held.gathering = Gathering()
        return wanted

    def _update(self, message: Message) -> list[Message]:
        held = self._held.get(message.topic.product_id)
        if held is None:  # else its subscribers would wait for ever
            held = self._held[message.topic.product_id] = HeldBook()
            self._ask_snapshot(message.topic.product_id, "no_book")
        if not held.book.is_ready:
            return [message]
        changes: Sequence[Change | None] = (None,)  # if unreadable, as one unreadable row
        time = ""
        with suppress(BadMessage):
            changes, time = read_update(message.payload)
        if held.gathering is not None:
            held.gathering.note(held.book, changes)
        skipped = held.book.skipped
        bare = held.book.apply(changes)
        held.received_us = message.received_us
        if held.book.skipped != skipped:
            self.unreadable += held.book.skipped - skipped
            self._resync(message.topic.product_id, "bad_update")
            held.sound_since = math.inf
        if time and not time.startswith(_YEAR_ONE):
            held.time = time
        self._watch_crossing(message.topic.product_id, held)
        return self._without(message, bare) if bare else [message]

    def _watch_crossing(self, product_id: str, held: HeldBook) -> None:
        """Call ``_resync`` when an update has crossed the book outside of an auction.

        Books of continuous trading are never crossed (COINBASE §6.6); orders of an auction cross
        until it ends: a book that is crossed after that requests a snapshot then. When the snapshot
        itself is crossed, the exchange means it.
        """
        is_crossed = held.book.is_crossed
        if is_crossed and not held.was_crossed:
            if self._is_in_auction(product_id):
                self._end_if_repaired(held)
                held.faults.add("auction")
            else:
                self._resync(product_id, "crossed")
        elif held.was_crossed and not is_crossed:
            held.sound_since = max(held.sound_since, trio.current_time())
            held.faults.discard("auction")
        held.was_crossed = is_crossed

    def _is_in_auction(self, product_id: str) -> bool:
        until = self._auctions_until.get(product_id, 0.0)
        return trio.current_time() < until or self.is_in_auction(product_id)

    def _note_auction(self, product_id: str) -> None:
        if product_id in self._auctions_until or len(self._auctions_until) < TOPICS_MAX:
            self._auctions_until[product_id] = trio.current_time() + AUCTION_SILENCE_S

    def _without(self, message: Message, bare: Sequence[int]) -> list[Message]:
        """Return ``message`` without the changes at ``bare``; an empty list when none is left."""
        self.bare_removals += len(bare)
        payload = without_changes(message.payload, bare)
        if payload is None:
            return []
        return [Message(message.topic, message.type, encode_text(payload), payload, None, None,
                        message.also, received_us=message.received_us)]  # fmt: skip

    def _resync(self, product_id: str, reason: str) -> None:
        """Request a new snapshot of a product with a book, now or at the end of the pause."""
        held = self._held[product_id]
        self._end_if_repaired(held)
        if held.pause.is_over(trio.current_time()):
            self._request(product_id, reason)
            return
        held.faults.add(reason)
        if held.is_requested:
            return  # the snapshot may repair this fault too
        self.withheld[reason] += 1
        if not held.is_reported and self._logged < RESYNCS_LOGGED_MAX:
            held.is_reported = True
            self._logged += 1
            log.warning(
                "a book has a fault again after a new snapshot; the next one follows after a pause",
                product_id=product_id, reason=reason,
            )  # fmt: skip

    def _end_if_repaired(self, held: HeldBook) -> None:
        """End the pause of a book that was sound for ``RESYNC_REPAIRED_S``."""
        if not held.was_crossed and trio.current_time() - held.sound_since >= RESYNC_REPAIRED_S:
            held.pause = ResyncPause()
            held.is_reported = False

    def _request(self, product_id: str, reason: str) -> None:
        """Request a new snapshot for a fault, and begin the pause after it."""
        held = self._held[product_id]
        held.faults.clear()
        held.is_requested = True
        held.pause.begin(trio.current_time())
        self._ask_snapshot(product_id, reason)

    def _ask_snapshot(self, product_id: str, reason: str) -> None:
        self.resyncs[reason] += 1
        for channel in (_LEVEL2, _BATCH):  # the feed holds one of them
            self._demand.ask_snapshot(intern_topic(channel, product_id))
