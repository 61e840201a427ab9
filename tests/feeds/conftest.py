"""A feed with a scripted exchange at its other end."""

import pytest
import trio

from hedgehogd.app.daemon import make_instance
from hedgehogd.domain.feed_address import parse_url
from hedgehogd.engine.delivery import Delivery
from hedgehogd.feeds.coinbase import CoinbaseFeed
from hedgehogd.feeds.dialer import Dialer
from hedgehogd.settings.keys import Settings
from tests.feeds.script import Exchange, LongestPauses, Running

FEED_OPTIONS = {"lines", "gap_patience_s", "on_missing_trades"}  # the rest is the dialer's


@pytest.fixture
def exchange():
    return Exchange()


@pytest.fixture
def make_feed(exchange):
    """Build a feed that holds ``pairs`` x ``channels``, not started."""

    def make(pairs=("BTC-USD",), channels=("ticker",), inbox=256, random=None, **options):
        settings = Settings(feed_pairs=tuple(pairs), feed_channels=tuple(channels))
        instance = make_instance(settings)
        # One more: the first delivery says which topics flow.
        tx, rx = trio.open_memory_channel[Delivery](inbox + 1)
        of_feed = {name: options.pop(name) for name in FEED_OPTIONS & options.keys()}
        dialer = Dialer(
            parse_url("ws://exchange.test/feed"),
            random or LongestPauses(),
            options.pop("wall_us", instance.pipe.wall_us),
            open_stream=exchange.open_stream,
            **options,
        )
        feed = CoinbaseFeed(dialer, instance.pipe.demand, tx, instance.health, **of_feed)
        return Running(exchange, instance, feed, rx)

    return make


@pytest.fixture
def start_feed(make_feed, nursery):
    """Build a feed and start it."""

    async def start(*args, **options):
        running = make_feed(*args, **options)
        await nursery.start(running.run)
        return running

    return start


@pytest.fixture
def serve(exchange, start_feed, nursery):
    """Start a feed; the scripted exchange serves its connections in the background."""

    async def serve(*args, **options):
        nursery.start_soon(exchange.serve, nursery)
        return await start_feed(*args, **({"stale_after_s": 1000} | options))

    return serve
