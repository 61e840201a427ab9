"""One hedgehogd without sockets, fed by a simulated exchange, on the mock clock.

All parts between the exchange's byte stream and the subscribers' outlets are the real ones: feed,
arbiter, inbox, broker, books, hub, sessions, REST client, backfill, bootstrap.
"""

from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial
from random import Random

import httpx
import trio

from hedgehogd.arbitration.batch import TopicNotice
from hedgehogd.books.level2_batch import Level2Batch
from hedgehogd.domain.channel import MATCHES
from hedgehogd.domain.errors import FeedError
from hedgehogd.domain.feed_address import parse_url
from hedgehogd.domain.product import Catalogue
from hedgehogd.engine.delivery import Delivery
from hedgehogd.engine.demand import Demand
from hedgehogd.engine.health import FeedHealth
from hedgehogd.engine.tape import Tape
from hedgehogd.fanout.broker import Broker
from hedgehogd.fanout.pipe import Pipe
from hedgehogd.fanout.session import Session
from hedgehogd.fanout.sessions import Sessions
from hedgehogd.fanout.ticker_batch import TickerBatch
from hedgehogd.feeds.backfill import Backfill
from hedgehogd.feeds.coinbase import CoinbaseFeed
from hedgehogd.feeds.dialer import Dialer
from hedgehogd.feeds.order_book_bootstrap import Bootstrap
from hedgehogd.feeds.rest_client import RestClient
from hedgehogd.protocol import notices
from hedgehogd.protocol.signing import Credentials
from hedgehogd.protocol.wire import WEBSOCKET
from hedgehogd.simulator.exchange import MarketExchange
from hedgehogd.simulator.faults import Faults
from hedgehogd.simulator.inprocess import connect
from hedgehogd.simulator.keys import TEST_KEY, TEST_PASSPHRASE, TEST_SECRET, Keyring
from hedgehogd.simulator.market import Market
from hedgehogd.simulator.products import LISTED
from hedgehogd.simulator.rest import market_app
from hedgehogd.simulator.server import Server
from tests.campaign.witness import Witness

START_NS = 1_790_000_000_000_000_000


PRODUCTS = ("LTC-USD", "ADA-USD", "ETH-BTC")
WINDOW_NS = 50_000_000
REMEMBERED = frozenset({"matches", "full", "level3", "ticker", "heartbeat"})


class Truth:
    """The messages that the market has sent on the channels that are checked byte for byte."""

    def __init__(self, market):
        self.sent = {}  # (channel, product) -> payloads, in order
        self._end_ns = None
        self._market = market
        self._routes = ()
        self._advance, self._add_levels = market.advance, market.add_levels
        market.advance, market.add_levels = self.advance, self.add_levels

    def __contains__(self, topic):
        return topic[0] in REMEMBERED or topic in self._routes

    def advance(self, until_ns, wanted=()):
        self._routes = wanted
        end_ns = self._end_ns
        if end_ns is None or self._market.now_ns < end_ns:
            until = until_ns if end_ns is None else min(until_ns, end_ns)
            yield from self._note(self._advance(until, self))
        self._market.now_ns = until_ns

    def end(self):
        """Stop the market at the end of the current 50 ms, so that no window is incomplete."""
        self._end_ns = -(-self._market.now_ns // WINDOW_NS) * WINDOW_NS

    def add_levels(self, product_id, levels, wanted=()):
        self._routes = wanted
        yield from self._note(self._add_levels(product_id, levels, self))

    def of(self, channel, product_id):
        return self.sent.get((channel, product_id), [])

    def _note(self, messages):
        for message in messages:
            if message.channel in REMEMBERED:
                sent = self.sent.setdefault((message.channel, message.product_id), [])
                sent.append(message.payload)
            yield message


class World:
    """The daemon's pipe, and the exchange that feeds it."""

    def __init__(self, seed, *, lines=1, require_auth=False, has_key=False, rate=0.15):
        self.random = Random(seed)
        listed = [product for product in LISTED if product.id in PRODUCTS]
        self.market = Market(seed, START_NS, listed, rate)
        self.truth = Truth(self.market)
        self.faults = Faults(self.market)
        keyring = Keyring() if require_auth else None
        exchange = MarketExchange(self.market, seed, faults=self.faults, keyring=keyring)
        app = market_app(self.market, self.faults)
        self.server = Server(exchange, app, faults=self.faults)
        self.pipe = Pipe.build(Tape(), Demand(linger_s=2.0), Catalogue(), trio.current_time)
        self.sessions = Sessions()
        self.broker = Broker(self.pipe, self.sessions)
        self.health = FeedHealth()
        self.refused_for_good = False
        self.facts = None  # set when the market has stopped
        self._lines = lines
        key = Credentials(TEST_KEY, TEST_SECRET, TEST_PASSPHRASE)
        self._credentials = key if has_key else None

    @asynccontextmanager
    async def running(self):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.server.run)
            tx, rx = trio.open_memory_channel[Delivery](256)
            await nursery.start(self.broker.run, rx)
            transport = httpx.ASGITransport(app=self.server.app)
            self.rest = rest = RestClient("http://exchange.test", self.random, transport=transport)
            await nursery.start(rest.run)
            self.backfill = Backfill(rest, partial(self._deliver, tx), self.random)
            nursery.start_soon(self.backfill.run)
            nursery.start_soon(Bootstrap(self.pipe.orders, rest).run, tx.clone())
            nursery.start_soon(TickerBatch(self.pipe.hub, self.pipe.latest).run, tx.clone())
            nursery.start_soon(Level2Batch(self.pipe.books).run, tx.clone())
            nursery.start_soon(self.pipe.snapshots.run)

            async def open_stream(address):
                await trio.lowlevel.checkpoint()
                return connect(self.server, nursery)

            dialer = Dialer(
                parse_url("ws://exchange.test/"),
                self.random,
                lambda: START_NS // 1000 + int(trio.current_time() * 1e6),
                credentials=self._credentials,
                open_stream=open_stream,
            )
            self.feed = CoinbaseFeed(
                dialer,
                self.pipe.demand,
                tx.clone(),
                self.health,
                lines=self._lines,
                on_missing_trades=lambda product_id, gap: self.backfill.ask(product_id, *gap),
            )
            nursery.start_soon(self._feed)
            yield self
            nursery.cancel_scope.cancel()

    async def _feed(self):
        try:
            await self.feed.run()
        except* FeedError:
            self.refused_for_good = True

    async def _deliver(self, tx, product_id, trades):
        self.pipe.backfilled.add(product_id, trades, trio.current_time())
        payload = notices.backfilled(product_id, trades)
        await tx.send(Delivery([], [TopicNotice(MATCHES.topic(product_id), payload)]))

    @property
    def awaits_resync(self):
        """Whether a new snapshot is to be requested at the end of a pause."""
        connections = [each for line in self.feed._lines for each in line.connections.values()]
        withheld = any(each.source.is_resync_withheld for each in connections if each.source)
        return withheld or self.pipe.books.faulty > 0

    def true_book(self, product_id):
        """Return the market's current book, by side: price to size."""
        product = self.market.products[product_id]
        book = self.market.trading(product_id).engine.book
        return {
            side: {
                Decimal(tick).scaleb(-product.price_decimals): Decimal(units).scaleb(
                    -product.size_decimals
                )
                for tick, units in book.side(side).rows()
            }
            for side in ("buy", "sell")
        }

    def join(self):
        witness = Witness()
        session = Session(f"1.{self.sessions.opened.total()}", witness, WEBSOCKET, self.pipe, 1000)
        witness.session = session
        self.sessions.add(session)
        return witness

    def leave(self, witness):
        witness.has_left = True
        self.sessions.discard(witness.session)
