"""The past, as the pipe sees it: what is no longer on the tape. A port.

``log.past`` is its adapter. A *place* is where something is in the past, one number for all topics:
the id of a record. It is no time, although most are close to one (``domain.record``); ``find_time``
finds the place of a time.
"""

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

import msgspec

from hedgehogd.domain.channel import FULL, MATCHES, Topic
from hedgehogd.domain.message import BadMessage, Message, read_head
from hedgehogd.protocol.frames import encode_text


def message_of(topic: Topic, payload: bytes) -> Message:
    """Return a message as it was, from its text alone; it has no receive time and no place."""
    try:
        head = read_head(payload)
        kind, sequence, trade_id = head.type, head.sequence, head.trade_id
    except BadMessage:  # what was relayed once is relayed again
        kind, sequence, trade_id = "", None, None
    message = Message(topic, kind, encode_text(payload), payload, sequence, trade_id)
    if kind == "match" and topic.channel == FULL.topic_channel:
        message.also = MATCHES.topic(topic.product_id)  # as when it came
    return message


CALLER: ContextVar[str] = ContextVar("caller", default="")
"""The address or network by which the request, resume or replay of this task is counted."""


class PastUnavailable(Exception):
    """The past cannot be read now; the text says why."""


class BackfilledTrade(Message, gc=False):
    """A backfilled trade at the place of its gap; it has a trade id and no sequence.

    Its place and its receive time are those of the gap, so a page has several messages with one
    place.

    Attributes:
        up_to: the last sequence before the next message of its topic: a subscriber at this
            sequence or above has passed the gap; None when it is not known.
    """

    up_to: int | None = None


class PastGap(NamedTuple):
    """Messages of a topic that are not in the past.

    Attributes:
        topic: the topic.
        place: its place, between messages; backfilled trades may have the same one.
        kind: ``missing`` numbers that no connection delivered; ``unrecorded`` and ``unreadable``
            ones were delivered; ``removed`` ones retention has removed since the reader was there.
        first: the first missing number: a trade id on ``matches``, else a sequence; None when it
            is not known.
        last: the last one, included; None when it is not known.
        received_us: when it was found, µs since the epoch.
    """

    topic: Topic
    place: int
    kind: str
    first: int | None
    last: int | None
    received_us: int

    @property
    def is_undated(self) -> bool:
        """True for lost and removed records: the time is not theirs, but one after them."""
        return self.kind in {"unrecorded", "unreadable", "removed"}


class PastStretch(NamedTuple):
    """Consecutive places.

    Attributes:
        after: the place before them.
        last: the last one.
    """

    after: int
    last: int


class PastStretches(NamedTuple):
    """Where all is that was received between two times.

    Attributes:
        stretches: the places; more than one stretch if the clock was set. They may have more than
            what was received then, and end at the newest record.
        known_to: the place of the newest record then, up to which backfilled trades are known; 0
            without records.
    """

    stretches: list[PastStretch]
    known_to: int


class PastExtent(NamedTuple):
    """The messages of one topic that are kept.

    Attributes:
        first_place: of the oldest message.
        last_place: of the newest one.
        first_us: the receive time of the oldest one, µs since the epoch.
        last_us: the receive time of the newest one.
        messages: how many.
    """

    first_place: int
    last_place: int
    first_us: int
    last_us: int
    messages: int


class PastPage(msgspec.Struct):
    """Some of the past, in the order of the feed.

    Attributes:
        messages: the place of each is its ``id``.
        gaps: what is missing between them.
        end: the place up to which this page goes; the next one begins after it.
        is_last: nothing is kept behind it at this moment.
        is_sealed: it will never be other than it is.
        written_to: up to when all that was received was kept as it was read, µs since the
            epoch; or 0.
        shared: what ``service`` makes of it for all who get it.
        known_to: backfilled trades that were recorded up to this place are at the place of their
            gap; 0 where there are none.
        read_s: seconds of the processor that it took to read, without waits; a reader that pauses
            for it sets it to 0.
    """

    messages: list[Message]
    gaps: list[PastGap]
    end: int
    is_last: bool
    is_sealed: bool
    written_to: int = 0
    shared: Any = None
    known_to: int = 0
    read_s: float = 0.0


class Others(Protocol):
    """Other instances, which may remember what nobody here does."""

    async def fetch(self, after: Mapping[Topic, int]) -> list[Message] | None:
        """Return all that came behind these positions, up to this moment, in order.

        None when nobody has all of it.
        """


class Past(Protocol):
    """Reads the past. All that wait raise ``PastUnavailable``; none holds up the loop."""

    def keeps(self, topic: Topic) -> bool:
        """Say whether ``topic`` is among what is kept; it does not raise."""

    async def find(self, topic: Topic, sequence: int) -> tuple[int, int] | None:
        """Return place and sequence of the newest message of ``topic`` up to ``sequence``.

        None when all that is kept of it is newer, or nothing is.
        """

    async def first_place(self, topic: Topic) -> int | None:
        """Return the place of the oldest message of ``topic``; None when there is none."""

    async def find_time(self, received_us: int) -> int:
        """Return the place before the first record that was received at ``received_us`` or later.

        With no such record, none is after it. Records after it may have been
        received earlier: a clock may have been set back.
        """

    async def stretches(self, since_us: int, until_us: int) -> PastStretches:
        """Return where all is that was received from ``since_us`` to before ``until_us``."""

    async def snapshot_before(self, topic: Topic, place: int) -> Message | None:
        """Return the newest snapshot of a book at or before ``place``, if any.

        What follows on its place are the changes to it.
        """

    async def page(
        self,
        topics: Iterable[Topic],
        after: int,
        known_to: int | None = None,
        limit: int | None = None,
    ) -> PastPage:
        """Return the messages after the place ``after``.

        Args:
            topics: their topics.
            after: the place.
            known_to: backfilled trades that were recorded up to this place are at the place of
                their gap, later ones nowhere; None for all that are known now.
            limit: messages that are enough, so that a short answer is a short read; the page may
                have more, or fewer without being the last. None for a page that other readers
                share.
        """

    async def page_before(
        self,
        topics: Iterable[Topic],
        before: int,
        known_to: int | None = None,
        limit: int | None = None,
    ) -> PastPage:
        """Return the messages before the place ``before``, newest first; otherwise as ``page``.

        The next page is the one before ``end``.
        """

    async def trades(self, product_id: str, first: int, last: int) -> dict[int, bytes]:
        """Return the trades of ``first`` to ``last``, both included, that are kept, by id."""
