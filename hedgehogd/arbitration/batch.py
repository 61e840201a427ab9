"""What one read of the feed brought, ready for the inbox."""

from collections.abc import Iterator, Sequence
from enum import Enum, auto
from typing import NamedTuple

from hedgehogd.domain.channel import LEVEL2, LEVEL2_BATCH, Topic
from hedgehogd.domain.gap import Gap
from hedgehogd.domain.message import Message, intern_topic
from hedgehogd.domain.secret import Secrets

_BOOKS = (LEVEL2.topic_channel, LEVEL2_BATCH.topic_channel)  # one of them flows


class NoticeKind(Enum):
    """What a notice means for those who come later.

    A gap stands until the next message of its topic, staleness until it is over (``BACK``);
    ``PASSING`` is for those who are there. ``WHOLE`` is told to nobody: of its topic nothing
    is missing although the feed was down.
    """

    GAP = auto()
    STALE = auto()
    BACK = auto()
    PASSING = auto()
    WHOLE = auto()


class TopicNotice(NamedTuple):
    """A notice for those who subscribe to it.

    Attributes:
        audience: a topic; a set of product ids, for those who have anything of them; or
            None for everybody.
        payload: the notice.
        kind: what it means for those who come later.
    """

    audience: Topic | frozenset[str] | None
    payload: bytes
    kind: NoticeKind = NoticeKind.PASSING


class Refusal(NamedTuple):
    """The exchange does not give us a product, or a channel; in its own words.

    Attributes:
        product_id: the product; empty when it is about a whole channel.
        message: the error's ``message``.
        reason: the error's ``reason``.
        channel: the topic channel, when ``product_id`` is empty.
    """

    product_id: str
    message: str
    reason: str
    channel: str = ""


class Received:
    """What one read brought, in order.

    Attributes:
        messages: data, in the order in which subscribers get them.
        notices: what subscribers must be told about it, in order.
        notices_at: for each of ``notices``, how many of ``messages`` came before it.
        refusals: products and channels that the exchange refused.
        complaints: all other ``error`` messages of the exchange: an alarm.
        oddities: what was dropped and deserves a line in the log.
        missing_trades: for each hole in trade ids, its product and its ends.
        resyncs: topics that have to begin anew with a snapshot.
        unacknowledged: topics that the exchange does not think we hold on this connection.
    """

    __slots__ = (
        "complaints",
        "messages",
        "missing_trades",
        "notices",
        "notices_at",
        "oddities",
        "refusals",
        "resyncs",
        "unacknowledged",
    )

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.notices: list[TopicNotice] = []
        self.notices_at: list[int] = []
        self.refusals: list[Refusal] = []
        self.complaints: list[str] = []
        self.oddities: list[str] = []
        self.missing_trades: list[tuple[str, Gap]] = []
        self.resyncs: list[Topic] = []
        self.unacknowledged: list[Topic] = []

    def tell(self, notice: TopicNotice) -> None:
        """Add ``notice``, to be told between the messages so far and those to come."""
        self.notices.append(notice)
        self.notices_at.append(len(self.messages))

    def hide(self, secrets: Secrets) -> None:
        """Remove ``secrets`` from the exchange's own words: they reach logs and subscribers."""
        if not (self.refusals or self.complaints or self.oddities):
            return
        hide = secrets.hide
        self.complaints = [hide(complaint) for complaint in self.complaints]
        self.oddities = [hide(oddity) for oddity in self.oddities]
        self.refusals = [
            refusal._replace(message=hide(refusal.message), reason=hide(refusal.reason))
            for refusal in self.refusals
        ]

    def resync_books(self, product_id: str) -> None:
        """The product's book may have missed something: it has to begin anew."""
        self.resyncs += [intern_topic(channel, product_id) for channel in _BOOKS]

    def parts(self) -> Iterator[tuple[list[Message], list[TopicNotice]]]:
        """Cut the messages at the notices: ``(messages, what is told before them)``.

        One part when there is nothing to tell; it may be empty.
        """
        return cut(self.messages, self.notices, self.notices_at)


def cut(
    messages: list[Message], notices: Sequence[TopicNotice], notices_at: Sequence[int]
) -> Iterator[tuple[list[Message], list[TopicNotice]]]:
    """Cut ``messages`` at the places where ``notices`` are to be told.

    Yields:
        ``(messages, what is told before them)``; at least one pair, perhaps empty.
    """
    begin = 0
    told: list[TopicNotice] = []
    for notice, at in zip(notices, notices_at, strict=True):
        if at > begin:
            yield messages[begin:at], told
            begin, told = at, []
        told.append(notice)
    yield messages[begin:], told
