"""One element of the inbox: messages, notices and changes of state from one producer."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from hedgehogd.arbitration.batch import Refusal, TopicNotice
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message


class FetchedOrders(NamedTuple):
    """A level-3 book from REST.

    Attributes:
        product_id: the product.
        bids: rows ``[price, size, order_id]``, best first; a row may be unreadable.
        asks: rows of the same form, best first.
        sequence: the sequence of the last event in it.
    """

    product_id: str
    bids: Sequence[Any]
    asks: Sequence[Any]
    sequence: int


class Delivery(NamedTuple):
    """One element of the inbox, from one producer.

    The broker applies refusals first, then allowed channels, flows, notices with the messages
    between them, the end of a window, and the level-3 book.

    Attributes:
        messages: data; may be empty.
        notices: notices for subscribers.
        notices_at: for each notice, how many of ``messages`` precede it; when empty, all notices
            precede the messages.
        refusals: products and channels that the exchange refused.
        flows: the topics that the feed holds from now on; None for no change. All state of other
            topics is forgotten, and their messages still in flight are dropped.
        allowed: channels, by their names in topics, that were refused and may be subscribed to
            again.
        ends_window: a window of 50 ms ends: the net changes go to ``level2_batch``.
        order_book: a level-3 book fetched by REST.
    """

    messages: list[Message]
    notices: Sequence[TopicNotice] = ()
    notices_at: Sequence[int] = ()
    refusals: Sequence[Refusal] = ()
    flows: frozenset[Topic] | None = None
    allowed: Sequence[str] = ()
    ends_window: bool = False
    order_book: FetchedOrders | None = None
