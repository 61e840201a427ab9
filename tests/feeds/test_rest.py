"""The list of products, from a REST service that may be anything."""

import json
import re

import httpx
import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hedgehogd.domain import limits
from hedgehogd.domain.product import Catalogue
from hedgehogd.feeds import rest
from hedgehogd.feeds.rest import keep_catalogue, read_products

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
def answers(monkeypatch):
    """Let the service answer from a list, its last answer again and again; count requests."""
    queue, seen = [], []

    def answer(request):
        seen.append((trio.current_time(), request))
        found = queue.pop(0) if len(queue) > 1 else queue[0]
        if isinstance(found, Exception):
            raise found
        return found

    real = httpx.AsyncClient
    transport = httpx.MockTransport(answer)
    monkeypatch.setattr(rest.httpx, "AsyncClient", lambda **kw: real(**kw, transport=transport))
    return queue, seen


def listing():
    return httpx.Response(200, json=PRODUCTS)


async def test_the_list_is_there_when_it_has_started(autojump_clock, nursery, answers):
    """The first subscriber is refused a wrong pair already."""
    queue, seen = answers
    queue.append(listing())
    catalogue = Catalogue()
    await nursery.start(keep_catalogue, catalogue, "http://exchange.test")

    assert catalogue.accepts("BTC-USD")
    assert not catalogue.accepts("OLD-USD")
    request = seen[0][1]
    assert str(request.url) == "http://exchange.test/products"
    assert re.fullmatch(r"hedgehogd/\S+", request.headers["user-agent"])


async def test_the_list_is_read_again_now_and_then(autojump_clock, nursery, answers):
    """Coinbase lists new products every week, and we run for months."""
    queue, seen = answers
    queue += [httpx.Response(200, json=PRODUCTS[:1]), listing()]
    catalogue = Catalogue()
    await nursery.start(keep_catalogue, catalogue, "http://exchange.test")
    assert not catalogue.accepts("ETH-USD")
    await trio.sleep(limits.CATALOGUE_REFRESH_S + 1)

    assert catalogue.accepts("ETH-USD")
    assert [at for at, _ in seen] == [0, limits.CATALOGUE_REFRESH_S]


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout(""),
        OSError("no route"),
        httpx.Response(404),
        httpx.Response(301, headers={"Location": "/elsewhere"}),
        httpx.Response(503),
        httpx.Response(200, content=b"<html>"),
        httpx.Response(200, content=b'[{"id":"\xff"}]'),
        httpx.Response(200, content=b"[]"),
        httpx.Response(200, content=b"x" * 17_000_000),
    ],
    ids=str,
)
async def test_without_a_list_every_well_formed_pair_may_exist(
    autojump_clock, nursery, answers, failure
):
    """Another hedgehogd has no REST, and an outage of it must not stop the feed."""
    queue, _ = answers
    queue += [failure, listing()]
    catalogue = Catalogue()
    await nursery.start(keep_catalogue, catalogue, "http://exchange.test")
    assert not catalogue.is_known
    assert catalogue.accepts("ANY-THING")
    await trio.sleep(16)  # asked again sooner than a list that is known

    assert not catalogue.accepts("ANY-THING")


async def test_what_was_known_stays_when_the_service_fails(autojump_clock, nursery, answers):
    """An empty list during maintenance once would have refused every pair."""
    queue, _ = answers
    queue += [listing(), httpx.Response(200, content=b"[]"), httpx.Response(500)]
    catalogue = Catalogue()
    await nursery.start(keep_catalogue, catalogue, "http://exchange.test")
    await trio.sleep(3 * limits.CATALOGUE_REFRESH_S)

    assert catalogue.accepts("BTC-USD")


async def test_a_slow_service_does_not_hold_up_the_start(autojump_clock, nursery, monkeypatch):
    """Streams matter more than a list."""

    async def hang(client, catalogue):
        await trio.sleep_forever()

    monkeypatch.setattr(rest, "_refresh", hang)
    await nursery.start(keep_catalogue, Catalogue(), "http://exchange.test")

    assert trio.current_time() == 3


async def test_nobody_there_is_no_error(nursery):
    """``--feed ws://…`` with nothing but a feed is fine."""
    catalogue = Catalogue()
    await nursery.start(keep_catalogue, catalogue, "http://127.0.0.1:1")
    await wait_all_tasks_blocked()

    assert not catalogue.is_known
