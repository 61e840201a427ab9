"""The list of products, from a REST service that may be anything."""

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
    """They stay in Coinbase's list for years, and subscribing to them fails."""
    assert read_products(json.dumps(PRODUCTS).encode()) == (LISTED, frozenset(), 0)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"null", b'["a"', b"<html>", b'[{"id":"a","x":' + b"[" * 5000]
)
def test_what_is_no_list_is_refused(body):
    """A proxy's login page is not a market without products."""
    with pytest.raises(msgspec.DecodeError):
        read_products(body)


ODD_ENTRIES = [
    "null", "7", "[]", "{}", '"BTC-USD"', '{"id":7}', '{"id":null}', '{"status":"online"}',
    '{"id":"no such shape"}', '{"id":""}', '{"id":"A-B","id":5}',
]  # fmt: skip


@given(st.lists(st.one_of(st.sampled_from(ODD_ENTRIES), st.sampled_from(PRODUCTS))))
def test_an_odd_entry_costs_itself(entries):
    """Without the rest of the list, unknown pairs would open streams."""
    good = [entry for entry in entries if isinstance(entry, dict)]
    texts = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    products = read_products(f"[{','.join(texts)}]".encode())

    assert products.ids == {e["id"] for e in good if e.get("status") != "delisted"}
    assert products.unreadable == len(entries) - len(good)


def test_bad_text_costs_its_entry():
    """It once got past the handler and ended the daemon."""
    assert read_products(b'[{"id":"\xff"},{"id":"A-B"}]') == ({"A-B"}, frozenset(), 1)


def test_odd_fields_do_not_cost_the_product():
    """Only the id says which product it is; auctions are those that are said to be one."""
    products = [
        {"id": "A-B", "status": None, "auction_mode": True},
        {"id": "C-D", "status": 7, "auction_mode": "true"},
    ]
    assert read_products(json.dumps(products).encode()) == ({"A-B", "C-D"}, {"A-B"}, 0)


async def test_odd_entries_are_reported_once(autojump_clock, nursery, queue, rest, capsys):
    """Every five minutes the same line would say nothing new."""
    queue.append(listing([*PRODUCTS, None, {"id": 7}]))
    catalogue = Catalogue()
    await nursery.start(keep_catalogue, catalogue, rest)
    await trio.sleep(3 * limits.CATALOGUE_REFRESH_S)

    assert catalogue.unreadable == 2
    assert not catalogue.accepts("NO-SUCH")
    assert capsys.readouterr().out.count("unreadable entries") == 1


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
