"""The list of products, from a REST service that is not trusted."""

import json

import httpx
import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
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
    """Delisted products stay in Coinbase's list for years; subscribing to them fails."""
    assert read_products(json.dumps(PRODUCTS).encode()) == (LISTED, frozenset(), 0)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"null", b'["a"', b"<html>", b'[{"id":"a","x":' + b"[" * 5000]
)
def test_a_body_that_is_not_a_list_is_refused(body):
    """A proxy's login page must not count as a market without products."""
    with pytest.raises(msgspec.DecodeError):
        read_products(body)


ODD_ENTRIES = [
    "null", "7", "[]", "{}", '"BTC-USD"', '{"id":7}', '{"id":null}', '{"status":"online"}',
    '{"id":"no such shape"}', '{"id":""}', '{"id":"A-B","id":5}',
]  # fmt: skip


@given(st.lists(st.one_of(st.sampled_from(ODD_ENTRIES), st.sampled_from(PRODUCTS))))
def test_an_unreadable_entry_alone_is_left_out(entries):
    """Without the rest of the list, streams of unknown pairs would be accepted."""
    good = [entry for entry in entries if isinstance(entry, dict)]
    texts = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    products = read_products(f"[{','.join(texts)}]".encode())

    assert products.ids == {e["id"] for e in good if e.get("status") != "delisted"}
    assert products.unreadable == len(entries) - len(good)


def test_invalid_text_alone_is_left_out():
    """Invalid UTF-8 once raised an unhandled error that ended the daemon."""
    assert read_products(b'[{"id":"\xff"},{"id":"A-B"}]') == ({"A-B"}, frozenset(), 1)


def test_a_product_with_unexpected_fields_is_listed():
    """Only the id is required; ``auction_mode`` counts only if it is true."""
    products = [
        {"id": "A-B", "status": None, "auction_mode": True},
        {"id": "C-D", "status": 7, "auction_mode": "true"},
    ]
    assert read_products(json.dumps(products).encode()) == ({"A-B", "C-D"}, {"A-B"}, 0)


async def test_unreadable_entries_are_reported_once(autojump_clock, nursery, queue, rest, capsys):
    """The same line every five minutes would be no news."""
    queue.append(listing([*PRODUCTS, None, {"id": 7}]))
    catalogue = Catalogue()
    await nursery.start(keep_catalogue, catalogue, rest)
    await trio.sleep(3 * limits.CATALOGUE_REFRESH_S)

    assert catalogue.unreadable == 2
    assert not catalogue.accepts("NO-SUCH")
    assert capsys.readouterr().out.count("unreadable entries") == 1


@pytest.fixture
def queue():
    """The answers of the service, in order; it repeats the last one."""
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
    """Even the first subscriber gets an error for an unknown pair."""
    queue.append(listing())
    catalogue = Catalogue()
    await nursery.start(keep_catalogue, catalogue, rest)

    assert catalogue.accepts("BTC-USD")
    assert not catalogue.accepts("OLD-USD")


async def test_the_list_is_read_again_now_and_then(autojump_clock, nursery, queue, upstream, rest):
    """Coinbase lists new products every week, and a daemon runs for months."""
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
    """A feed may have no REST service, and an outage of REST must not stop the feed."""
    queue += [failure, listing()]
    catalogue = Catalogue()
    await nursery.start(keep_catalogue, catalogue, rest)
    assert not catalogue.is_known
    assert catalogue.accepts("ANY-THING")
    # a missing list is requested sooner again than a known one, unless it may be cached
    await trio.sleep(76)

    assert not catalogue.accepts("ANY-THING")


async def test_the_last_list_stays_when_the_service_fails(autojump_clock, nursery, queue, rest):
    """An empty list during maintenance would refuse every pair."""
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


async def test_a_missing_service_is_not_an_error(nursery):
    """``--feed ws://…`` without a REST service is valid."""
    client = rest_client(None)
    client.url = "http://127.0.0.1:1"
    await nursery.start(client.run)
    catalogue = Catalogue()
    await nursery.start(keep_catalogue, catalogue, client)
    await wait_all_tasks_blocked()

    assert not catalogue.is_known
