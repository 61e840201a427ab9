"""A time range of history, served as an exchange: each client gets its topics, once.

A server has one timeline, as for a recording (``replay``). It starts 0.5 s after the first client
has subscribed: clients may subscribe with several messages, or on several connections. A client
that subscribes later gets the messages from then on, byte for byte. For a book it first gets a
snapshot of the current place, because changes alone are useless; the playback waits while it is
made. Where the book is not known, the client gets it from its next recorded snapshot on. Other
channels have no initial state: the next ticker or trade is the first. At the end connections stay
open and silent.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple

import trio

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
from hedgehogd.domain.limits import TOPICS_MAX
from hedgehogd.domain.message import Message
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
from hedgehogd.simulator.replay import Playback, wait_written

_START_DELAY_S = 0.5
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
        due_s: seconds after the first message.
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
        books_at: Callable[[frozenset[Topic], int], dict[Topic, bytes]],
        begin: int,
        speed: float,
    ) -> None:
        """Prepare to play.

        Args:
            opened: opens the timeline; it is read in threads.
            offered: the topics on offer.
            books_at: returns the books of topics at a place, as payloads of ``snapshot`` messages;
                one object for the topics that have one book. It is called in threads.
            begin: the place at which the timeline begins.
            speed: 1 for the pace it had, 2 for twice as fast, 0 for as fast as clients read.
        """
        self._offered = frozenset(offered)
        self._catalogue = _catalogue(self._offered)
        self._subscriptions: dict[Client, Subscription] = {}
        self._routes: dict[Topic, dict[Client, None]] = {}
        self._books_at = books_at
        self._place = begin
        self._joining: dict[Client, dict[Topic, None]] = {}  # clients that wait for books
        self._has_joining = trio.Event()
        self._awaiting: dict[Topic, dict[Client, None]] = {}  # those that wait for a snapshot
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
            OperatorError: in an exception group; the history cannot be read any more.
        """
        async with trio.open_nursery() as nursery:
            await self._has_subscriber.wait()
            ends = trio.current_time() + _START_DELAY_S
            await self._begin_books()
            await trio.sleep_until(ends)
            await self._begin_books()
            nursery.start_soon(self._begin_later_books)
            await self._playback.run()

    async def _begin_later_books(self) -> None:
        """Begin books in the middle of the playback, for ever; at least half of the time it runs.

        Raises:
            OperatorError: the history cannot be read any more.
        """
        while True:
            await self._has_joining.wait()
            self._has_joining = trio.Event()
            began = trio.current_time()
            self._playback.pause()
            await self._begin_books()
            self._playback.resume()
            await trio.sleep(trio.current_time() - began)

    async def _begin_books(self) -> None:
        """Send their books to the clients that wait for books; the playback must not run.

        Raises:
            OperatorError: the history cannot be read any more.
        """
        joining, self._joining = self._joining, {}
        wanted = frozenset(topic for topics in joining.values() for topic in topics)
        if not wanted:
            return
        books = await trio.to_thread.run_sync(self._books_at, wanted, self._place)
        for client, topics in joining.items():
            subscription = self._subscriptions.get(client)
            held = frozenset() if subscription is None else subscription.topics()
            begun = [t for t in topics if t in held and t not in self._joining.get(client, ())]
            for topic in begun:
                table = self._routes if topic in books else self._awaiting
                table.setdefault(topic, {})[client] = None
            for payload in {id(books[t]): books[t] for t in begun if t in books}.values():
                client.send(encode_text(payload))
                if client.waiting_bytes > client.backlog_bytes_max // 2:
                    await wait_written(client)

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
        for topic in topics:
            if BY_TOPIC_CHANNEL[topic.channel].begins_with_snapshot:
                self._joining.setdefault(client, {})[topic] = None
                self._has_joining.set()
            else:
                self._routes.setdefault(topic, {})[client] = None
            self._has_subscriber.set()
        if any(topic.channel == LEVEL3.topic_channel for topic in topics):
            client.send(encode_text(SCHEMA))

    def _detach(self, client: Client, topics: Iterable[Topic]) -> None:
        joining = self._joining.get(client, {})
        for topic in topics:
            joining.pop(topic, None)
            for table in (self._routes, self._awaiting):
                clients = table.get(topic)
                if clients is not None:
                    clients.pop(client, None)
                    if not clients:
                        del table[topic]
        if not joining:
            self._joining.pop(client, None)

    def _deliver(self, due: Due) -> int:
        frame = due.message.frame
        self._place = due.message.id
        if self._awaiting and due.message.type == "snapshot":
            for topic in due.topics:
                self._routes.setdefault(topic, {}).update(self._awaiting.pop(topic, {}))
        sent_bytes = 0
        for client in self._receivers(due.topics):
            client.send(frame)
            sent_bytes = len(frame)
        return sent_bytes

    def _receivers(self, topics: tuple[Topic, ...]) -> Mapping[Client, None]:
        """Return the subscribers of any of ``topics``, each once."""
        if len(topics) == 1:
            return self._routes.get(topics[0], {})
        return {client: None for topic in topics for client in self._routes.get(topic, ())}


def _catalogue(offered: Collection[Topic]) -> Catalogue:
    """Return the catalogue: the products on offer, and a refusal of each channel without one."""
    catalogue = Catalogue(frozenset(topic.product_id for topic in offered if topic.product_id))
    kept = {topic.channel for topic in offered}
    for channel in CHANNELS:
        if channel.topic_channel not in kept:
            reason = unknown_channel(channel.name)
            catalogue.refuse_channel(channel.topic_channel, SUBSCRIBE_FAILED, reason)
    return catalogue
