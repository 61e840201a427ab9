"""What a producer delivers to the broker: messages, notices and state of one moment."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from hedgehogd.arbitration.batch import Refusal, TopicNotice
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message


class FetchedOrders(NamedTuple):
    """A level-3 book from REST.

    Attributes:
        product_id: whose.
        bids: rows ``[price, size, order_id]``, best first.
        asks: the same.
        sequence: of the last event in it.
    """

    product_id: str
    bids: Sequence[Any]
    asks: Sequence[Any]
    sequence: int


class Delivery(NamedTuple):
    """What a producer puts into the inbox: things that happened together, in order.

    Attributes:
        messages: data; may be empty.
        notices: what subscribers are told beside it.
        notices_at: for each notice, how many of ``messages`` come before it; empty for none.
        refusals: products that the exchange refused.
        flows: the topics that the feed holds from here on, if that has changed. All state of
            other topics is forgotten, and their messages still in flight are dropped.
        allowed: topic channels that were refused and may be asked for again.
        ends_window: 50 ms are over: ``level2_batch`` gets what they came to.
        order_book: a level-3 book that was fetched.
    """

    messages: list[Message]
    notices: Sequence[TopicNotice] = ()
    notices_at: Sequence[int] = ()
    refusals: Sequence[Refusal] = ()
    flows: frozenset[Topic] | None = None
    allowed: Sequence[str] = ()
    ends_window: bool = False
    order_book: FetchedOrders | None = None
