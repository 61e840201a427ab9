"""A time range of history, served as an exchange: each client gets its topics, once.

A server has one timeline, as for a recording (``replay``). It starts 0.5 s after the first client
has subscribed: clients may subscribe with several messages, or on several connections. A client
that subscribes later gets the messages from then on, byte for byte. For a book it first gets a
snapshot, made from the messages played so far, because changes alone are useless. Other channels
have no initial state: the next ticker or trade is the first. At the end connections stay open
and silent.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple

import trio

from hedgehogd.domain.book import Book, Change
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

_START_DELAY_S = 0.5
# Changes of one book that wait for a client: as many as a book of BTC-USD has in some minutes.
_CHANGES_MAX = 10_000
# A channel that carries the same messages.
_EQUIVALENT = {
    TICKER_BATCH: TICKER,
    LEVEL2: LEVEL2_BATCH,
    LEVEL2_BATCH: LEVEL2,
    MATCHES: FULL,
}


class Due(NamedTuple):
    """One message of a time range.

    Attributes:
        due_s: seconds after the first message; negative for messages before the range: the
            initial snapshots of the books, and the updates after them.
        message: the exchange's message.
        topics: it is delivered once to each subscriber of any of these; at least one.
    """

    due_s: float
    message: Message
    topics: tuple[Topic, ...]


def sources(kept: Collection[Topic]) -> dict[Topic, Topic | None]:
    """Return the topics on offer when ``kept`` are recorded, each with its source.

    A channel that was not recorded itself is served from one that carries the same messages:
    trades from ``full``, ``ticker_batch`` from ``ticker``, each of the two book channels from
    the other. ``rfq_matches`` of all products is served from each product's topic: None.
    """
    found: dict[Topic, Topic | None] = {}
    for product_id in sorted({topic.product_id for topic in kept}):
        for channel in CHANNELS:
            topic = channel.topic(product_id)
            equivalent = _EQUIVALENT.get(channel, channel).topic(product_id)
            if topic in kept or equivalent in kept:
                found[topic] = topic if topic in kept else equivalent
    if any(topic.channel == RFQ_MATCHES.topic_channel for topic in found):
        found.setdefault(RFQ_MATCHES.topic(""), None)
    return found


class StretchExchange:
    """Play one time range to the subscribers of its topics.

    Attributes:
        ended: set when all messages are delivered.
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
            offered: the topics on offer.
            speed: 1 for the pace it had, 2 for twice as fast, 0 for as fast as clients read.
        """
        self._offered = frozenset(offered)
        self._catalogue = _catalogue(self._offered)
        self._subscriptions: dict[Client, Subscription] = {}
        self._routes: dict[Topic, dict[Client, None]] = {}
        self._books: dict[Topic, _PlayedBook] = {}
        self._has_subscriber = trio.Event()
        self._playback = Playback(opened, speed, self._deliver, self._subscriptions)
        self.ended = self._playback.ended

    def receive(self, client: Client, text: str) -> None:
        """Carry out the client's command, and answer; new books begin with a snapshot."""
        try:
            command = parse(text)
        except CommandError as error:
            client.send(encode_text(coinbase.error(error.message, error.reason)))
            return
        client.has_subscribed |= command.subscribes
        subscription = self._subscriptions.setdefault(client, Subscription(TOPICS_MAX))
        before = subscription.topics()
        command = self._without_missing(command)
        for reason in subscription.apply(command, self._catalogue):
            client.send(encode_text(coinbase.error(command.failure, reason)))
        client.send(encode_text(coinbase.subscriptions(subscription.state)))
        after = subscription.topics()
        self._detach(client, before - after)
        self._attach(client, sorted(after - before))

    def left(self, client: Client) -> None:
        """Forget the client and its subscriptions."""
        subscription = self._subscriptions.pop(client, None)
        if subscription is not None:
            self._detach(client, subscription.topics())

    async def run(self) -> None:
        """Wait for the first subscriber, play the range, then stay silent.

        Raises:
            OperatorError: the history cannot be read any more.
        """
        await self._has_subscriber.wait()
        await trio.sleep(_START_DELAY_S)
        await self._playback.run()
        await trio.sleep_forever()

    def _without_missing(self, command: Command) -> Command:
        """Return a subscribe without the topics that are not on offer, and with an error for each.

        Only products and channels of the catalogue are removed, which refuses any other itself.
        An unsubscribe is returned unchanged.
        """
        errors = list(command.errors)
        requests = []
        for request in command.requests:
            channel = request.channel
            missing = [
                product_id
                for product_id in request.product_ids
                if command.subscribes
                and channel.takes_products
                and channel.topic(product_id) not in self._offered
                and self._catalogue.accepts(product_id)
                and self._catalogue.refusal_of(channel.topic_channel) is None
            ]
            errors += [f"no {channel.name} of {product_id} is kept" for product_id in missing]
            kept = tuple(each for each in request.product_ids if each not in missing)
            if kept or not missing:
                requests.append(request._replace(product_ids=kept))
        return command._replace(requests=tuple(requests), errors=tuple(errors))

    def _attach(self, client: Client, topics: Collection[Topic]) -> None:
        initialized: set[int] = set()
        for topic in topics:
            self._routes.setdefault(topic, {})[client] = None
            self._has_subscriber.set()
            book = self._books.get(topic)
            if book is not None and book.is_ready and id(book) not in initialized:
                initialized.add(id(book))
                client.send(encode_text(book.snapshot(topic.product_id)))
        if any(topic.channel == LEVEL3.topic_channel for topic in topics):
            client.send(encode_text(SCHEMA))

    def _detach(self, client: Client, topics: Iterable[Topic]) -> None:
        for topic in topics:
            clients = self._routes[topic]
            del clients[client]
            if not clients:
                del self._routes[topic]

    def _deliver(self, due: Due) -> int:
        message, topics = due.message, due.topics
        if BY_TOPIC_CHANNEL[topics[0].channel].begins_with_snapshot:
            self._follow(topics, message)
        sent_bytes = 0
        for client in self._receivers(topics):
            client.send(message.frame)
            sent_bytes = len(message.frame)
        return sent_bytes

    def _receivers(self, topics: tuple[Topic, ...]) -> Mapping[Client, None]:
        """Return the subscribers of any of ``topics``, each once."""
        if len(topics) == 1:
            return self._routes.get(topics[0], {})
        return {client: None for topic in topics for client in self._routes.get(topic, ())}

    def _follow(self, topics: tuple[Topic, ...], message: Message) -> None:
        book = self._books.get(topics[0])
        if book is None:
            book = _PlayedBook()
            self._books.update(dict.fromkeys(topics, book))
        book.follow(message)


class _PlayedBook:
    """The state of a book at the current time of the playback, for clients that join later.

    It is made when a client joins: until then the newest snapshot waits, and of each price the
    newest change. Applying each change would take more than all other work of a playback.
    """

    def __init__(self) -> None:
        self._book = Book()
        self._snapshot: bytes | None = None
        self._changes: dict[tuple[str, str], Change] = {}  # in the order of the newest change
        self._time: str | None = None

    @property
    def is_ready(self) -> bool:
        self._update()
        return self._book.is_ready

    def follow(self, message: Message) -> None:
        """Note a snapshot or an update; a message that cannot be read clears the book."""
        if message.type == "snapshot":
            self._snapshot = message.payload
            self._changes.clear()
        elif self._snapshot is not None or self._book.is_ready:
            try:
                changes, time = read_update(message.payload)
            except BadMessage:
                self._snapshot = None
                self._changes.clear()
                self._book.clear()
                return
            for change in changes:
                if change is not None:
                    key = change[:2]
                    self._changes.pop(key, None)
                    self._changes[key] = change
            self._time = time or self._time
            if len(self._changes) > _CHANGES_MAX:
                self._update()

    def _update(self) -> None:
        snapshot, self._snapshot = self._snapshot, None
        if snapshot is not None:
            try:
                self._book.load(*read_snapshot(snapshot))
            except BadMessage:
                self._book.clear()
        if self._book.is_ready:
            self._book.apply(list(self._changes.values()))
        self._changes.clear()

    def snapshot(self, product_id: str) -> bytes:
        return b"".join(snapshot_parts(product_id, self._book.freeze(), time=self._time))


def _catalogue(offered: Collection[Topic]) -> Catalogue:
    """Return the catalogue: the products on offer, and a refusal of each channel without one."""
    catalogue = Catalogue(frozenset(topic.product_id for topic in offered if topic.product_id))
    kept = {topic.channel for topic in offered}
    for channel in CHANNELS:
        if channel.topic_channel not in kept:
            reason = unknown_channel(channel.name)
            catalogue.refuse_channel(channel.topic_channel, SUBSCRIBE_FAILED, reason)
    return catalogue
