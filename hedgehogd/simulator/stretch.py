"""A stretch of the past, served as an exchange: to each client what it asked for, once.

One timeline per server, like a recording's (``replay``). It begins a moment after the first
client has subscribed to something: clients say what they want in several messages, or on
several connections. Who comes later gets what comes from then on, byte for byte; of a book
first a snapshot, made of what was played, because changes alone are of no use. Nothing else
greets: a ticker or a trade is the next one. At the end connections stay open and silent.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple

import trio

from hedgehogd.domain.book import Book
from hedgehogd.domain.channel import (
    BY_TOPIC_CHANNEL,
    CHANNELS,
    FULL,
    LEVEL2,
    LEVEL2_BATCH,
    LEVEL3,
    MATCHES,
    RFQ_MATCHES,
    TICKER,
    TICKER_BATCH,
    Topic,
)
from hedgehogd.domain.level2 import read_snapshot, read_update, snapshot_parts
from hedgehogd.domain.limits import TOPICS_MAX
from hedgehogd.domain.message import BadMessage, Message
from hedgehogd.domain.product import Catalogue
from hedgehogd.fanout.subscription import Subscription
from hedgehogd.protocol import coinbase
from hedgehogd.protocol.commands import (
    SUBSCRIBE_FAILED,
    Command,
    CommandError,
    parse,
    unknown_channel,
)
from hedgehogd.protocol.frames import encode_text
from hedgehogd.simulator.client import Client
from hedgehogd.simulator.order_messages import SCHEMA
from hedgehogd.simulator.replay import Playback

_GATHER_S = 0.5
# What has the messages of a channel too.
_INSTEAD = {
    TICKER_BATCH: TICKER,
    LEVEL2: LEVEL2_BATCH,
    LEVEL2_BATCH: LEVEL2,
    MATCHES: FULL,
}


class Due(NamedTuple):
    """One message of a stretch.

    Attributes:
        due_s: seconds after the first message; below 0 for what was before: the snapshots
            that books begin with, and what followed on them.
        message: what the exchange sent.
        topics: what it is given to the subscribers of.
    """

    due_s: float
    message: Message
    topics: tuple[Topic, ...]


def sources(kept: Collection[Topic]) -> dict[Topic, Topic | None]:
    """Return what can be asked for when ``kept`` is there, and what it is served from.

    A channel that was not kept itself is served from one that holds the same messages: trades
    from ``full``, ``ticker_batch`` from ``ticker``, each of the two books' channels from the
    other. The trades by request of all products together are served from each product's: None.
    """
    found: dict[Topic, Topic | None] = {}
    for product_id in sorted({topic.product_id for topic in kept}):
        for channel in CHANNELS:
            topic = channel.topic(product_id)
            instead = _INSTEAD.get(channel, channel).topic(product_id)
            if topic in kept or instead in kept:
                found[topic] = topic if topic in kept else instead
    if any(topic.channel == RFQ_MATCHES.topic_channel for topic in found):
        found.setdefault(RFQ_MATCHES.topic(""), None)
    return found


class StretchExchange:
    """Play one stretch to those who subscribe to what is in it.

    Attributes:
        ended: set when all has been given.
    """

    def __init__(
        self,
        opened: Callable[[], AbstractContextManager[Iterator[Due]]],
        offered: Collection[Topic],
        speed: float,
    ) -> None:
        """Prepare to play.

        Args:
            opened: opens the timeline; it is read in threads.
            offered: what can be subscribed to.
            speed: 1 for the pace it had, 2 for twice as fast, 0 for as fast as clients read.
        """
        self._offered = frozenset(offered)
        self._catalogue = _catalogue(self._offered)
        self._subscriptions: dict[Client, Subscription] = {}
        self._routes: dict[Topic, dict[Client, None]] = {}
        self._books: dict[Topic, _HeldBook] = {}
        self._wanted = trio.Event()
        self._playback = Playback(opened, speed, self._give, self._subscriptions)
        self.ended = self._playback.ended

    def heard(self, client: Client, text: str) -> None:
        """Do what the client asks, and answer."""
        try:
            command = parse(text)
        except CommandError as error:
            client.send(encode_text(coinbase.error(error.message, error.reason)))
            return
        client.has_subscribed |= command.subscribes
        subscription = self._subscriptions.setdefault(client, Subscription(TOPICS_MAX))
        before = subscription.topics()
        command = self._of_offered(command)
        for reason in subscription.apply(command, self._catalogue):
            client.send(encode_text(coinbase.error(command.failure, reason)))
        client.send(encode_text(coinbase.subscriptions(subscription.state)))
        after = subscription.topics()
        self._detach(client, before - after)
        self._attach(client, sorted(after - before))

    def left(self, client: Client) -> None:
        """Forget the client."""
        subscription = self._subscriptions.pop(client, None)
        if subscription is not None:
            self._detach(client, subscription.topics())

    async def run(self) -> None:
        """Wait for the first subscriber, play the stretch, then stay silent.

        Raises:
            OperatorError: the stretch cannot be read any more.
        """
        await self._wanted.wait()
        await trio.sleep(_GATHER_S)
        await self._playback.run()
        await trio.sleep_forever()

    def _of_offered(self, command: Command) -> Command:
        """Take out products of which a channel has nothing, although others have."""
        errors = list(command.errors)
        requests = []
        for request in command.requests:
            channel = request.channel
            lacking = [
                product_id
                for product_id in request.product_ids
                if command.subscribes
                and channel.takes_products
                and channel.topic(product_id) not in self._offered
                and self._catalogue.accepts(product_id)
                and self._catalogue.refusal_of(channel.topic_channel) is None
            ]
            errors += [f"no {channel.name} of {product_id} is kept" for product_id in lacking]
            there = tuple(each for each in request.product_ids if each not in lacking)
            if there or not lacking:
                requests.append(request._replace(product_ids=there))
        return command._replace(requests=tuple(requests), errors=tuple(errors))

    def _attach(self, client: Client, topics: Collection[Topic]) -> None:
        greeted: set[int] = set()
        for topic in topics:
            self._routes.setdefault(topic, {})[client] = None
            self._wanted.set()
            book = self._books.get(topic)
            if book is not None and book.is_ready and id(book) not in greeted:
                greeted.add(id(book))
                client.send(encode_text(book.snapshot(topic.product_id)))
        if any(topic.channel == LEVEL3.topic_channel for topic in topics):
            client.send(encode_text(SCHEMA))

    def _detach(self, client: Client, topics: Iterable[Topic]) -> None:
        for topic in topics:
            clients = self._routes[topic]
            del clients[client]
            if not clients:
                del self._routes[topic]

    def _give(self, due: Due) -> int:
        message, topics = due.message, due.topics
        if BY_TOPIC_CHANNEL[topics[0].channel].begins_with_snapshot:
            self._follow(topics, message)
        given_bytes = 0
        for client in self._receivers(topics):
            client.send(message.frame)
            given_bytes = len(message.frame)
        return given_bytes

    def _receivers(self, topics: tuple[Topic, ...]) -> Mapping[Client, None]:
        """Return who has asked for any of ``topics``, each once."""
        if len(topics) == 1:
            return self._routes.get(topics[0], {})
        return {client: None for topic in topics for client in self._routes.get(topic, ())}

    def _follow(self, topics: tuple[Topic, ...], message: Message) -> None:
        book = self._books.get(topics[0])
        if book is None:
            book = _HeldBook()
            self._books.update(dict.fromkeys(topics, book))
        book.follow(message)


class _HeldBook:
    """A book as far as it has been played, for who comes late."""

    def __init__(self) -> None:
        self._book = Book()
        self._time: str | None = None

    @property
    def is_ready(self) -> bool:
        return self._book.is_ready

    def follow(self, message: Message) -> None:
        """Apply a snapshot or an update, but for rows that cannot be read."""
        try:
            if message.type == "snapshot":
                self._book.load(*read_snapshot(message.payload))
            elif self._book.is_ready:
                changes, time = read_update(message.payload)
                self._book.apply(changes)
                self._time = time or self._time
        except BadMessage:
            self._book.clear()

    def snapshot(self, product_id: str) -> bytes:
        return b"".join(snapshot_parts(product_id, self._book.freeze(), time=self._time))


def _catalogue(offered: Collection[Topic]) -> Catalogue:
    """Return what there is to be had: the products, and a refusal of each other channel."""
    catalogue = Catalogue(frozenset(topic.product_id for topic in offered if topic.product_id))
    there = {topic.channel for topic in offered}
    for channel in CHANNELS:
        if channel.topic_channel not in there:
            reason = unknown_channel(channel.name)
            catalogue.refuse_channel(channel.topic_channel, SUBSCRIBE_FAILED, reason)
    return catalogue
