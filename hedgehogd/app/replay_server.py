"""Replay of a stretch of history, served on a port as an exchange serves its feed.

A client that subscribes to a book first gets the book at the current place, as a snapshot; where
the book is not known, it gets the messages of the book from the next recorded snapshot on.
Backfilled trades are at the place of their gap. The archive is read page by page, in threads, when
the messages are needed; a daemon may write it meanwhile. Log lines report the gaps that remain, and
messages that retention has removed before their replay.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
import trio

from hedgehogd.app.past_files import open_past
from hedgehogd.domain import limits
from hedgehogd.domain.channel import (
    BY_ALIAS,
    BY_TOPIC_CHANNEL,
    FULL,
    RFQ_MATCHES,
    Topic,
)
from hedgehogd.domain.errors import EXIT_USAGE, OperatorError
from hedgehogd.domain.instant import NEVER_US, to_text
from hedgehogd.domain.message import Message
from hedgehogd.log.archive.errors import ArchiveError
from hedgehogd.log.past_reader import PastReader
from hedgehogd.protocol.frames import encode_text
from hedgehogd.recovery.history_port import PastGap, PastPage, PastStretch
from hedgehogd.simulator import Address, address_of
from hedgehogd.simulator.replay import product_object
from hedgehogd.simulator.rest import catalogue_app
from hedgehogd.simulator.server import Server, listen
from hedgehogd.simulator.stretch import Due, StretchExchange, sources

log = structlog.get_logger("replay")

_FULL = FULL.topic_channel
_RFQ = RFQ_MATCHES.topic_channel
_US = 1_000_000
_TOPICS_SHOWN_MAX = 10


@dataclass(frozen=True)
class Replay:
    """The stretch to replay, and the address to serve it on.

    Attributes:
        directory: directory of the archive.
        since_us: begin of the stretch, µs since the epoch, included.
        until_us: end of the stretch, excluded.
        pairs: the products to replay; empty for all recorded ones.
        channels: the channels to replay, by any of their names; empty for all.
        speed: factor to the recorded speed; 0 is as fast as clients read.
        host: address to listen on.
        port: port to listen on; 0 selects a free one.
    """

    directory: Path
    since_us: int
    until_us: int
    pairs: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    speed: float = 1.0
    host: str = "127.0.0.1"
    port: int = 0


async def replay(
    wish: Replay, *, task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve a stretch of history until cancelled; started, with the address, once it listens.

    Raises:
        OperatorError: as for ``Stretch``; or the address cannot be bound; or, in an exception
            group, the archive can no longer be read.
    """
    stretch = await trio.to_thread.run_sync(Stretch, wish)
    try:
        exchange = StretchExchange(
            stretch.opened, stretch.offered, stretch.books_at, stretch.begin, wish.speed
        )
        products = sorted({topic.product_id for topic in stretch.offered if topic.product_id})
        app = catalogue_app([product_object(name) for name in products], time.time_ns)
        listeners = await listen(wish.host, wish.port)
        address = address_of(wish.host, listeners)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_log_end, exchange, stretch)
            log.info(
                "replaying", url=address.url, rest=address.rest_url,
                since=to_text(wish.since_us), until=_end_text(wish.until_us), speed=wish.speed,
                products=products, channels=sorted({topic.channel for topic in stretch.offered}),
            )  # fmt: skip
            task_status.started(address)
            await Server(exchange, app).run(listeners)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(stretch.close)


def _end_text(until_us: int) -> str:
    return "the newest record" if until_us == NEVER_US else to_text(until_us)


async def _log_end(exchange: StretchExchange, stretch: "Stretch") -> None:
    await exchange.ended.wait()
    log.info("replay ended", messages=stretch.messages, gaps=stretch.gaps.total())


class Stretch:
    """A stretch of recorded messages, to be replayed once.

    Attributes:
        offered: the topics that clients can subscribe to.
        begin: the place after which the stretch begins.
        messages: number of messages read so far.
        gaps: number of gaps read so far, by kind (``PastGap.kind``).
    """

    def __init__(self, wish: Replay) -> None:
        """Open the archive and find the stretch.

        This and all other methods read the disk: call them in a thread, not in the event loop.

        Raises:
            OperatorError: there is no archive, or it cannot be read, or a store of an older version
                is beside it; the stretch has no message, or none of a requested pair or channel.
        """
        self.messages = 0
        self.gaps: Counter[str] = Counter()
        self._wish = wish
        self._books_reader: PastReader | None = None  # opened when a client needs a book
        with self._readable():
            self._reader = open_past(wish.directory)
        try:
            with self._readable():
                self._extents = self._reader.extents()
                self._stretches = self._reader.stretches(wish.since_us, wish.until_us)
                self._topics = self._choose()
                self._skip_to_begin()
                self._begin_us = self._before_us = self._first_time()
                self.begin = self._stretches[0].after
        except BaseException:
            self._reader.close()
            raise
        self.offered = frozenset(each for topics in self._topics.values() for each in topics)

    def close(self) -> None:
        """Close the archive."""
        self._reader.close()
        if self._books_reader is not None:
            self._books_reader.close()

    @contextmanager
    def opened(self) -> Iterator[Iterator[Due]]:
        """Yield an iterator of the messages in the order of the feed, with their due times.

        The iterator raises OperatorError if the archive cannot be read.
        """
        yield self._timeline()

    def books_at(self, topics: frozenset[Topic], place: int) -> dict[Topic, bytes]:
        """Return the books of ``topics`` at ``place``, as payloads of ``snapshot`` messages.

        Topics that are served from one recorded topic have one object. It has a reader of its own,
        because the timeline may be read in another thread at the same time.

        Raises:
            OperatorError: the archive cannot be read.
        """
        recorded = {
            source: served
            for source, served in self._topics.items()
            if BY_TOPIC_CHANNEL[source.channel].begins_with_snapshot
            and not topics.isdisjoint(served)
        }
        with self._readable():
            if self._books_reader is None:
                self._books_reader = open_past(self._wish.directory)
            found = self._books_reader.books_at(recorded, place)
        if unknown := recorded.keys() - found.keys():
            shown = sorted(map(str, unknown))[:_TOPICS_SHOWN_MAX]
            log.warning("books are not known here", count=len(unknown), topics=shown)
        return {
            topic: payload
            for source, payload in found.items()
            for topic in recorded[source]
            if topic in topics
        }

    def _timeline(self) -> Iterator[Due]:
        with self._readable():
            place = self.begin
            simple = {t: each for t, each in self._topics.items() if t.channel != _FULL}
            since_us, until_us = self._wish.since_us, self._wish.until_us
            step_us = limits.REPLAY_STEP_S * _US
            books = {t for t in self._topics if BY_TOPIC_CHANNEL[t.channel].begins_with_snapshot}
            left_out: set[Topic] = set()  # books with messages after ``place`` that were left out
            for stretch in self._stretches:
                if stretch.after > place:
                    left_out |= books
                for page in self._pages(self._topics.keys(), stretch):
                    self._account([gap for gap in page.gaps if self._has_gap(gap)])
                    for message in page.messages:
                        received_us = message.received_us
                        if not since_us <= received_us < until_us:
                            left_out |= books & {message.topic, message.also}
                            continue
                        if abs(received_us - self._before_us) > step_us:
                            # The clock was set: the pace goes on from the message before.
                            self._begin_us += received_us - self._before_us
                        self._before_us = received_us
                        due_s = max(0, received_us - self._begin_us) / _US
                        if left_out:
                            for book in self._books_after(left_out, place, message.id - 1):
                                yield Due(due_s, book, self._topics[book.topic])
                            left_out = set()
                        place = message.id
                        receiving = simple.get(message.topic) if message.also is None else None
                        topics = self._receiving(message) if receiving is None else receiving
                        if topics:
                            self.messages += 1
                            yield Due(due_s, message, topics)

    def _is_then(self, received_us: int) -> bool:
        return self._wish.since_us <= received_us < self._wish.until_us

    def _has_gap(self, gap: PastGap) -> bool:
        """Say whether a gap may be of the wanted times; of lost records the times are not known."""
        return gap.is_undated or self._is_then(gap.received_us)

    def _books_after(self, topics: set[Topic], before: int, place: int) -> Iterator[Message]:
        """Yield those of ``topics`` that changed between two places, as snapshots at ``place``."""
        old = self._reader.books_at(topics, before)
        for topic, payload in self._reader.books_at(topics, place).items():
            if payload != old.get(topic):
                yield Message(topic, "snapshot", encode_text(payload), payload, id=place)

    def _pages(self, topics: Iterable[Topic], stretch: PastStretch) -> Iterator[PastPage]:
        """Yield page after page; the last one has no messages after the end of the stretch."""
        after, last = stretch
        while after < last:
            page = self._reader.page(topics, after)
            after = page.end
            if page.end > last:
                page.messages = [message for message in page.messages if message.id <= last]
                page.gaps = [gap for gap in page.gaps if gap.place <= last]
            yield page
            if page.is_last:
                break

    def _receiving(self, message: Message) -> tuple[Topic, ...]:
        """Return the topics that receive ``message``; of ``full``, ``matches`` gets only trades."""
        topics = self._topics[message.topic]
        if message.also is not None:
            return (*topics, *self._topics.get(message.also, ()))
        if message.topic.channel != _FULL or message.type == "match":
            return topics
        return tuple(topic for topic in topics if topic.channel == _FULL)

    def _account(self, gaps: Sequence[PastGap]) -> None:
        """Count and log gaps."""
        if gaps:
            kinds = Counter(gap.kind for gap in gaps)
            self.gaps += kinds
            topics = sorted({str(gap.topic) for gap in gaps})[:_TOPICS_SHOWN_MAX]
            log.warning("gaps in history", count=len(gaps), kinds=dict(kinds), topics=topics)

    def _choose(self) -> dict[Topic, tuple[Topic, ...]]:
        """Return the recorded topics to read, each with the topics that it is served as.

        Raises:
            OperatorError: a requested pair or channel has no recorded topic in the stretch.
        """
        wish = self._wish
        kept = {
            topic
            for topic, extent in self._extents.items()
            # Of pairs, rfq_matches of all products are sent from those of each.
            if not (wish.pairs and topic.channel == _RFQ and not topic.product_id)
            and any(
                after < extent.last_place and extent.first_place <= last
                for after, last in self._stretches
            )
        }
        channels = {BY_ALIAS[name].topic_channel: name for name in wish.channels}
        found = {
            topic: source
            for topic, source in sources(kept).items()
            if topic.channel in (channels or BY_TOPIC_CHANNEL)
            and (not topic.product_id or topic.product_id in (wish.pairs or (topic.product_id,)))
        }
        for pair in wish.pairs:
            if not any(topic.product_id == pair for topic in found):
                raise self._nothing(f" of {pair}")
        for channel, name in channels.items():
            if not any(topic.channel == channel for topic in found):
                raise self._nothing(f" of {name}")
        of_all = tuple(topic for topic, source in found.items() if source is None)
        chosen: dict[Topic, tuple[Topic, ...]] = {}
        for topic, source in found.items():
            if source is not None:
                also = of_all if source.channel == _RFQ else ()
                chosen[source] = (*chosen.get(source, also), topic)
        return chosen

    def _skip_to_begin(self) -> None:
        """Let the first stretch begin with the first message of the time; it may begin earlier."""
        if self._stretches:
            after, last = self._stretches[0]
            place = self._reader.find_time(self._wish.since_us, frozenset(self._topics))
            self._stretches[0] = PastStretch(max(after, min(place, last)), last)

    def _first_time(self) -> int:
        """Return the receive time of the first message, µs since the epoch.

        Raises:
            OperatorError: the stretch has no message.
        """
        for stretch in self._stretches:
            for page in self._pages(self._topics.keys(), stretch):
                for message in page.messages:
                    if self._is_then(message.received_us) and self._receiving(message):
                        return message.received_us
        raise self._nothing()

    def _nothing(self, of: str = "") -> OperatorError:
        """Return the error for an empty stretch; it lists the recorded topics."""
        since, until = to_text(self._wish.since_us), _end_text(self._wish.until_us)
        rows = [
            f"\n  {topic} from {to_text(extent.first_us)} to {to_text(extent.last_us)}"
            for topic, extent in sorted(self._extents.items())
        ]
        more = len(rows) - _TOPICS_SHOWN_MAX
        shown = "".join(rows[:_TOPICS_SHOWN_MAX]) + (f"\n  and {more} more" if more > 0 else "")
        kept = f"\n  Recorded:{shown}" if rows else "\n  The history is empty."
        return OperatorError(f"nothing is recorded{of} from {since} to {until}{kept}", EXIT_USAGE)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except ArchiveError as error:
            raise OperatorError(
                f"the history in {self._wish.directory} cannot be read: {error}"
                "\n  Expected the directory that --history of a hedgehogd named."
            ) from None
