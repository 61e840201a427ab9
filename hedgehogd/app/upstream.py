"""The producers of an instance's inbox: the feed, derived channels, and REST reads.

Derived channels are ``ticker_batch`` and ``level2_batch``; REST provides the products, level-3
books and missing trades. Producers are started last and stopped first.
"""

import os
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import structlog
import trio

from hedgehogd.app.log import KeepTrades
from hedgehogd.arbitration.batch import TopicNotice
from hedgehogd.books.level2_batch import Level2Batch
from hedgehogd.domain import limits
from hedgehogd.domain.channel import MATCHES
from hedgehogd.domain.feed_address import FeedAddress, parse_url
from hedgehogd.engine.delivery import Delivery
from hedgehogd.fanout.instance import Instance
from hedgehogd.fanout.ticker_batch import TickerBatch
from hedgehogd.feeds.backfill import Backfill, Deliver
from hedgehogd.feeds.catalogue import keep_catalogue
from hedgehogd.feeds.coinbase import CoinbaseFeed
from hedgehogd.feeds.dial import COINBASE_REST_URL, COINBASE_URL, SANDBOX_REST_URL, SANDBOX_URL
from hedgehogd.feeds.dialer import Dialer
from hedgehogd.feeds.order_book_bootstrap import Bootstrap
from hedgehogd.feeds.recording import RecordingFeed
from hedgehogd.feeds.rest_client import RestClient
from hedgehogd.logs.setup import hide_in_logs
from hedgehogd.protocol import notices
from hedgehogd.protocol.recording import find_recording
from hedgehogd.relay.sockets import numbers_in
from hedgehogd.settings.credentials import check_secrecy, read_credentials
from hedgehogd.settings.keys import Settings
from hedgehogd.simulator import Simulation, serve_exchange
from hedgehogd.web.exchange import Companion
from hedgehogd.web.own_books import OwnBooks

log = structlog.get_logger("upstream")

_NAMED_FEEDS = {
    "coinbase": (COINBASE_URL, COINBASE_REST_URL),
    "sandbox": (SANDBOX_URL, SANDBOX_REST_URL),
}

Inbox = trio.MemorySendChannel[Delivery]


class Upstream:
    """The producers of an instance's inbox, and the reader of the list of products.

    Args:
        instance: the instance to deliver to.
        settings: the address of the feed, and its limits.
        random: source of jitter.
        keep_trades: records backfilled trades of a product.
    """

    def __init__(
        self, instance: Instance, settings: Settings, random: Random, keep_trades: KeepTrades
    ) -> None:
        self._instance = instance
        self._settings = settings
        self._random = random
        self._keep_trades = keep_trades

    async def start(self, producers: trio.Nursery, inbox: Inbox) -> Companion:
        """Start all producers in the nursery ``producers``; return the sources of REST answers.

        It waits for the first list of products, for a few seconds at most. Later errors end the
        nursery ``producers``: FeedError if the exchange refuses the first connection permanently,
        OperatorError if the feed is a recording that is not valid.

        Raises:
            OperatorError: the feed or the credentials of the settings cannot be used.
        """
        pipe = self._instance.pipe
        producers.start_soon(TickerBatch(pipe.hub, pipe.latest).run, inbox.clone())
        producers.start_soon(Level2Batch(pipe.books).run, inbox.clone())
        producers.start_soon(pipe.snapshots.run)
        producers.start_soon(pipe.resumes.run)
        address = await self._address(producers)
        if address is None:
            path = Path(self._settings.feed_where)
            recording = RecordingFeed(path, pipe, inbox.clone(), self._instance.health)
            await producers.start(recording.run)
            return Companion(books=OwnBooks(pipe, can_fetch=False))
        hide_in_logs(address.secrets)
        rest = RestClient(
            address.rest_url,
            self._random,
            authorization=address.authorization,
            secrets=address.secrets,
            exists=self._settings.feed_where in _NAMED_FEEDS,
        )
        await producers.start(rest.run)
        backfill = Backfill(rest, self._deliver_to(inbox), self._random)
        producers.start_soon(backfill.run)
        producers.start_soon(Bootstrap(pipe.orders, rest).run, inbox.clone())
        feed = self._feed(address, inbox, backfill)
        await producers.start(keep_catalogue, pipe.catalogue, rest)
        await producers.start(feed.run)
        if self._settings.serve_runtime_dir:
            producers.start_soon(self._share, rest, feed)
        return Companion(rest, OwnBooks(pipe), backfill)

    def _feed(self, address: FeedAddress, inbox: Inbox, backfill: Backfill) -> CoinbaseFeed:
        settings = self._settings
        credentials = read_credentials(settings.feed_credentials, os.environ)
        if credentials is not None:
            check_secrecy(address)
            hide_in_logs(credentials.secrets)
        dialer = Dialer(
            address,
            self._random,
            self._instance.pipe.wall_us,
            credentials=credentials,
            stale_after_s=settings.feed_stale_after_s,
            message_bytes_max=settings.feed_message_bytes_max,
        )
        return CoinbaseFeed(
            dialer,
            self._instance.pipe.demand,
            inbox.clone(),
            self._instance.health,
            lines=settings.feed_lines,
            gap_patience_s=settings.feed_gap_patience_s,
            on_missing_trades=lambda product_id, gap: backfill.ask(product_id, *gap),
        )

    async def _share(self, rest: RestClient, feed: CoinbaseFeed) -> None:
        """Divide the exchange's limits among the instances of the machine, for ever.

        The exchange counts by address, so all instances of a machine share its limits.
        """
        directory = Path(self._settings.serve_runtime_dir)
        while True:
            with suppress(OSError):  # no file descriptor is free: keep the previous number
                among = max(1, len(numbers_in(directory)))
                rest.share(among)
                feed.dialer.share(among)
            await trio.sleep(limits.INSTANCES_LOOK_S)

    def _deliver_to(self, inbox: Inbox) -> Deliver:
        """Return the function that delivers backfilled trades of a product.

        It records them, keeps them for resuming subscribers, sends a notice with them and pauses.
        """
        backfilled = self._instance.pipe.backfilled

        async def deliver(product_id: str, trades: list[dict[str, Any]]) -> None:
            self._keep_trades(product_id, trades)
            backfilled.add(product_id, trades, trio.current_time())
            notice = TopicNotice(MATCHES.topic(product_id), notices.backfilled(product_id, trades))
            await inbox.send(Delivery([], [notice]))
            await trio.sleep(limits.BACKFILL_CHUNK_PAUSE_S)

        return deliver

    async def _address(self, producers: trio.Nursery) -> FeedAddress | None:
        """Return the address of the feed, None for a recording; start the exchange of a demo.

        Raises:
            OperatorError: the URL or the settings of the demo are not valid, or there is no such
                recording.
        """
        where = self._settings.feed_where
        if where in _NAMED_FEEDS:
            return parse_url(*_NAMED_FEEDS[where])
        if where == "demo":
            simulation = Simulation(
                seed=self._settings.demo_seed or None,
                pairs=self._settings.feed_pairs,
                rate=self._settings.demo_rate,
                modifies=self._settings.demo_modify_orders,
            )
            exchange = await producers.start(serve_exchange, simulation)
            log.info("demo market", seed=exchange.seed, url=exchange.url)
            return parse_url(exchange.url, exchange.rest_url)
        if "://" in where:
            return parse_url(where)
        find_recording(Path(where))
        return None
