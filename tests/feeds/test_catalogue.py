"""The list of products, from a REST service that may be anything."""

import json

import httpx
import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hedgehogd.domain import limits
from hedgehogd.domain.product import Catalogue
from hedgehogd.feeds.catalogue import keep_catalogue, read_products
from tests.feeds.upstream import Upstream, reply, rest_client

PRODUCTS = [
    {"id": "BTC-USD", "status": "online", "base_currency": "BTC"},
    {"id": "ETH-USD"},
    {"id": "OLD-USD", "status": "delisted"},
    {"id": "NEW-USD", "status": "offline"},
]
LISTED = {"BTC-USD", "ETH-USD", "NEW-USD"}


def test_delisted_products_are_not_listed():
    """They stay in Coinbase's list for years, and subscribing to them fails."""
    assert read_products(json.dumps(PRODUCTS).encode()) == LISTED


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"null", b"[1]", b'[{"id":7}]', b'[{"status":"online"}]', b"<html>"]
)
def test_what_is_no_list_is_refused(body):
    """A proxy's login page is not a market without products."""
    with pytest.raises(msgspec.DecodeError):
        read_products(body)


@pytest.mark.parametrize("body", [b'[{"id":"\xff"}]', b'[{"id":"a","x":' + b"[" * 5000])
def test_bad_text_and_endless_nesting_are_no_list_either(body):
    """Both once got past the handler and ended the daemon."""
    with pytest.raises(msgspec.DecodeError):
        read_products(body)


@pytest.fixture
def queue():
    """What the service answers, one after the other, the last again and again."""
    return []


@pytest.fixture
def upstream(queue):
    return Upstream(lambda _: (queue.pop(0) if len(queue) > 1 else queue[0])())


@pytest.fixture
async def rest(nursery, upstream):
    client = rest_client(upstream)
    await nursery.start(client.run)
    return client


def listing(products=PRODUCTS):
    return lambda: reply(products)


async def test_the_list_is_there_when_it_has_started(autojump_clock, nursery, queue, rest):
    """The first subscriber is refused a wrong pair already."""
    queue.append(listing())
    catalogue = Catalogue()
    await nursery.start(keep_catalogue, catalogue, rest)

    assert catalogue.accepts("BTC-USD")
    assert not catalogue.accepts("OLD-USD")


async def test_the_list_is_read_again_now_and_then(autojump_clock, nursery, queue, upstream, rest):
    """Coinbase lists new products every week, and we run for months."""
    queue += [listing(PRODUCTS[:1]), listing()]
    catalogue = Catalogue()
    await nursery.start(keep_catalogue, catalogue, rest)
    assert not catalogue.accepts("ETH-USD")
    await trio.sleep(limits.CATALOGUE_REFRESH_S + 1)

    assert catalogue.accepts("ETH-USD")
    assert [at for at, _ in upstream.seen] == [0, limits.CATALOGUE_REFRESH_S]


@pytest.mark.parametrize(
    "failure",
    [
        lambda: httpx.ConnectError("refused"),
        lambda: reply({}, 404),
        lambda: reply({}, 503),
        lambda: reply(raw=b"<html>"),
        lambda: reply(raw=b'[{"id":"\xff"}]'),
        lambda: reply([]),
    ],
    ids=range(6),
)
async def test_without_a_list_every_well_formed_pair_may_exist(
    autojump_clock, nursery, queue, rest, failure
):
    """A feed may have no REST, and an outage of it must not stop the feed."""
    queue += [failure, listing()]
    catalogue = Catalogue()
    await nursery.start(keep_catalogue, catalogue, rest)
    assert not catalogue.is_known
    assert catalogue.accepts("ANY-THING")
    # asked again sooner than a list that is known, unless it was one that may be kept
    await trio.sleep(76)

    assert not catalogue.accepts("ANY-THING")


async def test_what_was_known_stays_when_the_service_fails(autojump_clock, nursery, queue, rest):
    """An empty list during maintenance once would have refused every pair."""
    queue += [listing(), listing([]), lambda: reply({}, 500)]
    catalogue = Catalogue()
    await nursery.start(keep_catalogue, catalogue, rest)
    await trio.sleep(3 * limits.CATALOGUE_REFRESH_S)

    assert catalogue.accepts("BTC-USD")


async def test_a_slow_service_does_not_hold_up_the_start(
    autojump_clock, nursery, queue, upstream, rest
):
    """Streams matter more than a list."""
    upstream.gate = trio.Event()
    queue.append(listing())
    await nursery.start(keep_catalogue, Catalogue(), rest)

    assert trio.current_time() == 3


async def test_nobody_there_is_no_error(nursery):
    """``--feed ws://…`` with nothing but a feed is fine."""
    client = rest_client(None)
    client.url = "http://127.0.0.1:1"
    await nursery.start(client.run)
    catalogue = Catalogue()
    await nursery.start(keep_catalogue, catalogue, client)
    await wait_all_tasks_blocked()

    assert not catalogue.is_known
