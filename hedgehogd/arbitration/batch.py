"""Messages and notices in the order of their delivery: the results of the upstream session."""

from collections.abc import Iterator, Sequence
from enum import Enum, auto
from typing import NamedTuple

from hedgehogd.domain.channel import LEVEL2, LEVEL2_BATCH, Topic
from hedgehogd.domain.gap import Gap
from hedgehogd.domain.message import Message, intern_topic
from hedgehogd.domain.secret import Secrets

_BOOKS = (LEVEL2.topic_channel, LEVEL2_BATCH.topic_channel)  # a connection holds one at most


class NoticeKind(Enum):
    """How long a notice is in force: a subscriber that joins while it is in force gets it too.

    ``GAP`` is in force until the next message of its topic, ``STALE`` until a ``BACK`` for its
    products or for all; both also end when the feed no longer holds the topic or product.
    ``BACK`` and ``PASSING`` go only to subscribers that are present when they are sent. ``WHOLE``
    goes to no subscriber: it records that no message of its topic is missing although the feed
    was down.
    """

    GAP = auto()
    STALE = auto()
    BACK = auto()
    PASSING = auto()
    WHOLE = auto()


class TopicNotice(NamedTuple):
    """A notice and the subscribers that receive it.

    Attributes:
        audience: a topic, for its subscribers; a set of product ids, for the subscribers of any
            topic of them; or None for all subscribers. Of a ``WHOLE``: the topic that it is about.
        payload: the notice in JSON; empty for ``WHOLE``.
        kind: how long it is in force.
    """

    audience: Topic | frozenset[str] | None
    payload: bytes
    kind: NoticeKind = NoticeKind.PASSING


class Refusal(NamedTuple):
    """The exchange refuses a product or a channel in an ``error``.

    Attributes:
        product_id: the product; empty when a whole channel is refused.
        message: the error's ``message``.
        reason: the error's ``reason``.
        channel: the topic channel; empty when a product is refused.
    """

    product_id: str
    message: str
    reason: str
    channel: str = ""


class Received:
    """The result of one socket read, of one lost connection, or of the gaps due at one time.

    Attributes:
        messages: data, in the order in which subscribers receive it.
        notices: notices for subscribers, in order.
        notices_at: for each of ``notices``, how many of ``messages`` precede it.
        refusals: one for each ``error`` about a product, and one for each channel that was not
            refused before.
        complaints: texts of the ``error`` messages about our key, and of those about neither a
            refused product nor a refused channel: each is an alarm.
        oddities: texts about unexpected messages, one for each log line.
        missing_trades: product and gap, for each gap in trade ids that this instance found; not for
            those that an upstream relay reported.
        resyncs: book topics that need a new snapshot; some may be repeated, or not held.
        unacknowledged: held topics that an acknowledgement in this read omits.
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
        """Add ``notice`` after the messages so far."""
        self.notices.append(notice)
        self.notices_at.append(len(self.messages))

    def hide(self, secrets: Secrets) -> None:
        """Hide ``secrets`` in refusals, complaints and oddities: logs and subscribers get these."""
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
        """Add both level-2 topics of a product to ``resyncs``: an update may be missing."""
        self.resyncs += [intern_topic(channel, product_id) for channel in _BOOKS]

    def parts(self) -> Iterator[tuple[list[Message], list[TopicNotice]]]:
        """Yield messages and notices in order, as ``split_at_notices`` does."""
        return split_at_notices(self.messages, self.notices, self.notices_at)


def split_at_notices(
    messages: list[Message], notices: Sequence[TopicNotice], notices_at: Sequence[int]
) -> Iterator[tuple[list[Message], list[TopicNotice]]]:
    """Split ``messages`` at the places of ``notices``.

    Args:
        messages: the messages.
        notices: the notices, in order.
        notices_at: for each notice, how many of ``messages`` precede it; in ascending order.

    Yields:
        Pairs: a part of the messages, and the notices that precede it. At least one pair; the
        messages of the last pair may be empty, and so may the notices of the first.
    """
    begin = 0
    preceding: list[TopicNotice] = []
    for notice, at in zip(notices, notices_at, strict=True):
        if at > begin:
            yield messages[begin:at], preceding
            begin, preceding = at, []
        preceding.append(notice)
    yield messages[begin:], preceding
