"""The REST companion: Coinbase's form, and one upstream request shared by all clients."""

import json
import re
import time

import httpx
import pytest
import trio
import trio.lowlevel

from hedgehogd.app.daemon import make_instance
from hedgehogd.domain import limits
from hedgehogd.engine.delivery import Delivery
from hedgehogd.feeds.rest_cache import failure
from hedgehogd.settings.keys import Settings
from hedgehogd.simulator.market import Market
from hedgehogd.simulator.products import products_for
from hedgehogd.simulator.rest import market_app
from hedgehogd.web.app import make_app
from hedgehogd.web.exchange import Companion
from tests.fakes import make_message
from tests.feeds.upstream import Upstream, reply, rest_client

LISTED = frozenset({"BTC-USD", "ETH-USD", "ADA-USD"})


@pytest.fixture
def open_instance():
    """An instance that serves every pair of the exchange's list."""
    instance = make_instance(Settings())
    instance.pipe.catalogue.replace(LISTED)
    return instance


@pytest.fixture
def upstream():
    return Upstream(lambda request: reply({"asked": request.url.raw_path.decode()}))


@pytest.fixture
async def rest(nursery, upstream):
    client = rest_client(upstream)
    await nursery.start(client.run)
    return client


@pytest.fixture
def client(open_instance, rest):
    return make_app(open_instance, ("*",), Companion(rest)).test_client()


async def response_body(answer, status=200):
    assert answer.status_code == status
    assert answer.content_type == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    return json.loads(await answer.get_data())


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/products", "/products"),
        ("/products/BTC-USD", "/products/BTC-USD"),
        ("/products/btc-usd/ticker", "/products/BTC-USD/ticker"),
        ("/products/BTC-USD/stats", "/products/BTC-USD/stats"),
        ("/products/stats", "/products/stats"),
        ("/products/volume-summary", "/products/volume-summary"),
        ("/products/spark-lines", "/products/spark-lines"),
        (
            "/products/BTC-USD/trades?before=1000000000000000000",
            "/products/BTC-USD/trades?before=1000000000000000000",
        ),
        ("/products/BTC-USD/book", "/products/BTC-USD/book?level=1"),
        ("/products/BTC-USD/book?level=2", "/products/BTC-USD/book?level=2"),
        (
            "/products/BTC-USD/trades?limit=2000&after=9",
            "/products/BTC-USD/trades?after=9&limit=1000",
        ),
        (
            "/products/BTC-USD/candles?granularity=900&start=0",
            "/products/BTC-USD/candles?granularity=900&start=1970-01-01T00%3A00%3A00Z",
        ),
        ("/currencies", "/currencies"),
        ("/currencies/btc", "/currencies/BTC"),
    ],
)
async def test_a_read_is_forwarded_in_canonical_form(client, upstream, path, asked):
    answers = [await client.get(path) for _ in range(3)]

    for answer in answers:
        assert await response_body(answer) == {"asked": asked}
    assert upstream.asked == [asked]


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/products/NO-USD", 404, "NotFound"),
        ("/products/nonsense", 404, "NotFound"),
        ("/products/NO-USD/book?level=9", 404, "NotFound"),
        ("/currencies/a.b", 404, "NotFound"),
        ("/products/BTC-USD/book?level=4", 400, "unexpected level: _"),
        ("/products/BTC-USD/trades?limit=x", 400, "limit has to be a whole number"),
        ("/products/BTC-USD/candles?granularity=7", 400, "Unsupported granularity"),
    ],
)
async def test_an_invalid_request_does_not_reach_the_exchange(
    client, open_instance, upstream, path, status, message
):
    """Its clients read ``message``; an invalid request must not count against our rate limit."""
    assert await response_body(await client.get(path), status) == {"message": message}
    assert upstream.asked == []
    code = {404: "not_found", 400: "bad_request"}[status]
    assert open_instance.counts.refusals == {code: 1}


async def test_cursors_are_forwarded(client, upstream):
    """Clients request pages by them, and a web page can read them."""
    upstream.answer = lambda _: reply([], cb_before="9", cb_after="3")
    answer = await client.get("/products/BTC-USD/trades", headers={"Origin": "http://a"})

    assert (answer.headers["cb-before"], answer.headers["cb-after"]) == ("9", "3")
    exposed = answer.headers["Access-Control-Expose-Headers"].lower().split(", ")
    assert {"cb-before", "cb-after", "retry-after"} <= set(exposed)


async def test_head_has_the_same_head(client):
    got, asked = await client.get("/products"), await client.head("/products")

    assert asked.status_code == 200
    assert asked.headers["Content-Length"] == got.headers["Content-Length"]


@pytest.mark.parametrize("accept", ["*/*", "text/html", "image/png", ""])
async def test_any_accept_gets_json(client, accept):
    """Coinbase ignores the header."""
    await response_body(await client.get("/products", headers={"Accept": accept}))


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        (lambda: reply({"message": "NotFound"}, 404), 404, "NotFound"),
        (lambda: reply({"message": "bad"}, 400), 400, "bad"),
        (lambda: reply({}, 500), 502, "the exchange answered HTTP 500"),
        (lambda: httpx.ConnectError("no"), 502, "the exchange cannot be reached: no"),
        (lambda: httpx.ReadTimeout(""), 504, "the exchange did not answer in time"),
        (lambda: reply({}, 429, Retry_After="99"), 503, "the exchange's rate limit is reached"),
    ],
)
async def test_a_failure_of_the_exchange_is_explained(
    client, open_instance, upstream, answer, status, message
):
    upstream.answer = lambda _: answer()
    got = await client.get("/products")

    assert await response_body(got, status) == {"message": message}
    assert ("Retry-After" in got.headers) == (status == 503)
    assert open_instance.counts.refusals.total() == 1


async def test_retry_after_is_in_whole_seconds_rounded_up(open_instance):
    """``Retry-After`` has whole seconds only, and a retry before the time is refused again."""

    class Busy:
        exists = True

        async def get(self, path, query, *, keeping):
            return failure(503, "later", 1.2)

    client = make_app(open_instance, (), Companion(Busy())).test_client()

    assert (await client.get("/products")).headers["Retry-After"] == "2"


async def test_a_client_does_not_wait_for_ever(autojump_clock, client, upstream):
    """The answer may still arrive for the next client."""
    upstream.gate = trio.Event()
    upstream.answer = lambda _: reply({}, 429)
    upstream.gate.set()
    began = trio.current_time()
    answers = []
    async with trio.open_nursery() as nursery:

        async def ask(number):
            answers.append((await client.get(f"/currencies/C{number}")).status_code)

        for number in range(40):
            nursery.start_soon(ask, number)

    assert set(answers) <= {503, 504}
    assert trio.current_time() - began <= limits.REST_ASKER_S + 0.1


async def test_a_slow_exchange_is_a_504(autojump_clock, open_instance):
    class Hanging:
        exists = True

        async def get(self, path, query, *, keeping):
            await trio.sleep_forever()

    client = make_app(open_instance, (), Companion(Hanging())).test_client()

    answer = await response_body(await client.get("/products"), 504)
    assert answer == {"message": "the exchange did not answer in time"}
    assert trio.current_time() == limits.REST_ASKER_S
    assert limits.REST_ASKER_S < int(limits.HEAD_TIMEOUT_S)  # else Hypercorn ends them


async def test_the_time_is_that_of_this_instance(client, upstream):
    """Clients use it for signatures, and request it often."""
    before = time.time()
    answer = await response_body(await client.get("/time"))

    assert before - 0.001 <= answer["epoch"] <= time.time()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", answer["iso"])
    assert upstream.asked == []


# Only some pairs


async def test_only_pairs_restrict_the_list(instance, rest, upstream):
    """``--only-pairs``: other pairs cannot be subscribed to; listed entries are unchanged."""
    raw = b'[{"id":"BTC-USD", "x":1.10},{"id":"ADA-USD"},{"no":1}]'
    upstream.answer = lambda _: reply(raw=raw)
    client = make_app(instance, (), Companion(rest)).test_client()
    body = await (await client.get("/products")).get_data()

    assert body == b'[{"id":"BTC-USD", "x":1.10}]'
    assert (await client.get("/products/BTC-USD")).status_code == 200
    assert (await client.get("/products/ADA-USD")).status_code == 404


@pytest.mark.parametrize(
    ("name", "raw", "expected"),
    [
        ("stats", b'{"BTC-USD":{"x":1.10},"ADA-USD":{}}', b'{"BTC-USD":{"x":1.10}}'),
        ("spark-lines", b'{"ADA-USD":[],"BTC-USD":[[1,2.0]]}', b'{"BTC-USD":[[1,2.0]]}'),
        ("volume-summary", b'[{"id":"ADA-USD"},{"id":"BTC-USD"}]', b'[{"id":"BTC-USD"}]'),
    ],
)
async def test_only_pairs_restrict_overviews_of_all_products(
    instance, rest, upstream, name, raw, expected
):
    """The overviews are no products, although two of their names look like product ids."""
    upstream.answer = lambda _: reply(raw=raw)
    restricted = make_app(instance, (), Companion(rest)).test_client()
    answer = await restricted.get(f"/products/{name}")

    assert (answer.status_code, await answer.get_data()) == (200, expected)
    assert upstream.asked == [f"/products/{name}"]
    alone = make_app(instance, (), Companion(None)).test_client()
    await response_body(await alone.get(f"/products/{name}"), 503)


@pytest.mark.parametrize("name", ["stats", "spark-lines", "volume-summary"])
async def test_an_answer_of_another_form_is_not_restricted(instance, rest, upstream, name):
    """Otherwise it would be returned with pairs that are not served here."""
    upstream.answer = lambda _: reply(raw=b"7")
    client = make_app(instance, (), Companion(rest)).test_client()

    await response_body(await client.get(f"/products/{name}"), 502)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{}", 502),
        (b"[1]", 502),
        (b'[{"id":"\xff"}]', 502),
        (b'[{"id":"BTC-USD","x":"\xff"}]', 502),
    ],
)
async def test_an_answer_that_is_no_list_is_not_returned(instance, rest, upstream, body, status):
    upstream.answer = lambda _: reply(raw=body)
    client = make_app(instance, (), Companion(rest)).test_client()

    await response_body(await client.get("/products"), status)


async def test_an_unreadable_entry_does_not_spoil_the_restricted_list(instance, rest, upstream):
    raw = b'[{"id":7},null,{"id":"BTC-USD"},{"id":"BTC-USD","x":"\xff"},"x"]'
    upstream.answer = lambda _: reply(raw=raw)
    client = make_app(instance, (), Companion(rest)).test_client()

    assert await response_body(await client.get("/products")) == [{"id": "BTC-USD"}]


async def test_an_error_is_not_restricted(instance, rest, upstream):
    upstream.answer = lambda _: reply({}, 404)
    client = make_app(instance, (), Companion(rest)).test_client()

    assert await response_body(await client.get("/products"), 404) == {"message": "NotFound"}


# Books of this instance


class Books:
    """A fake that holds BTC-USD at levels 1 and 2."""

    def __init__(self):
        self.asked = []

    async def rest_book(self, product_id, level):
        self.asked.append((product_id, level))
        is_held = product_id == "BTC-USD" and level < 3
        return b'{"held":%d}' % level if is_held else None


async def test_a_held_book_is_not_fetched(open_instance, rest, upstream):
    """It is newer, and needs no request to the exchange."""
    books = Books()
    client = make_app(open_instance, (), Companion(rest, books)).test_client()

    assert await response_body(await client.get("/products/BTC-USD/book?level=2")) == {"held": 2}
    assert upstream.asked == []
    await response_body(await client.get("/products/BTC-USD/book?level=3"))
    await response_body(await client.get("/products/ETH-USD/book"))
    await response_body(await client.get("/products/BTC-USD/ticker"))
    assert upstream.asked == [
        "/products/BTC-USD/book?level=3",
        "/products/ETH-USD/book?level=1",
        "/products/BTC-USD/ticker",
    ]
    assert books.asked == [("BTC-USD", 2), ("BTC-USD", 3), ("ETH-USD", 1)]


# A recording has no REST


@pytest.mark.parametrize("path", ["/products/BTC-USD/ticker", "/currencies", "/currencies/BTC"])
async def test_a_read_that_a_recording_cannot_answer_is_explained(open_instance, path):
    client = make_app(open_instance).test_client()

    answer = await response_body(await client.get(path), 503)
    assert answer["message"].startswith("this feed has no REST service")


@pytest.mark.parametrize("is_reachable", [True, False])
async def test_a_feed_without_rest_is_answered_from_memory(rest, upstream, is_reachable):
    """A ws:// URL may have no REST service, or one without the path."""

    def answer(_):
        if is_reachable:
            return reply({"message": "no"}, 404)
        raise httpx.ConnectError("refused")

    upstream.answer = answer
    instance = make_instance(Settings())
    client = make_app(instance, (), Companion(rest)).test_client()
    paths = ("/products/BTC-USD/ticker", "/products/BTC-USD/stats", "/products")
    for path in paths:
        assert (await client.get(path)).status_code in {404, 502}
    await fill(instance)

    ticker, stats, products = [await response_body(await client.get(path)) for path in paths]
    assert (ticker["price"], stats["open"]) == ("10", "9")
    assert [product["id"] for product in products] == ["BTC-USD"]
    assert (await client.get("/products/ETH-USD/ticker")).status_code in {404, 502}


@pytest.mark.parametrize("status", [403, 502, 503])
async def test_a_failing_service_is_not_replaced_by_memory(rest, upstream, status):
    """A client that loads its list of products would see three of eight hundred."""
    instance = make_instance(Settings())
    await fill(instance)
    client = make_app(instance, (), Companion(rest)).test_client()
    upstream.answer = lambda _: reply({"message": "no"}, status)

    for path in ("/products", "/products/BTC-USD/ticker", "/products/BTC-USD/book"):
        assert (await client.get(path)).status_code == 502


async def test_an_answer_of_the_exchange_takes_precedence_over_memory(
    open_instance, rest, upstream
):
    """Its ticker is newer, and its refusals are final."""
    await fill(open_instance)
    client = make_app(open_instance, (), Companion(rest)).test_client()
    assert (await response_body(await client.get("/products/BTC-USD/ticker")))["asked"]

    upstream.answer = lambda _: reply({"message": "no"}, 400)
    assert await response_body(await client.get("/products/BTC-USD/stats"), 400) == {
        "message": "no"
    }


async def test_a_recording_without_a_list_lists_its_live_products():
    """No other product is known, and none is invented."""
    instance = make_instance(Settings())
    await fill(instance)
    client = make_app(instance).test_client()

    assert [p["id"] for p in await response_body(await client.get("/products"))] == ["BTC-USD"]


async def fill(instance):
    """Publish a ticker of BTC-USD."""
    ticker = make_message(
        "ticker", sequence=7, price="10", open_24h="9", high_24h="11", low_24h="8",
        volume_24h="5", volume_30d="50", best_bid="9.9", best_ask="10.1", last_size="1",
        time="t", trade_id=3,
    )  # fmt: skip
    await instance.broker.publish([Delivery([ticker])])


async def test_a_recording_lists_its_known_products(open_instance):
    """Clients that load the list of markets first can start."""
    client = make_app(open_instance, (), Companion(None, Books())).test_client()
    products = await response_body(await client.get("/products"))
    one = await response_body(await client.get("/products/BTC-USD"))

    assert [product["id"] for product in products] == sorted(LISTED)
    assert one == products[1]
    assert (one["base_currency"], one["quote_currency"], one["status"]) == ("BTC", "USD", "online")
    assert (await client.get("/products/NO-USD")).status_code == 404
    assert await response_body(await client.get("/products/BTC-USD/book")) == {"held": 1}


async def test_a_recording_without_any_product_is_a_503():
    client = make_app(make_instance(Settings())).test_client()

    answer = await response_body(await client.get("/products"), 503)
    assert answer == {"message": "the products of this feed are not known"}


# With the simulated exchange


async def test_answers_of_the_simulated_exchange_are_forwarded(open_instance, nursery):
    """The whole path is tested except for the sockets."""
    app = market_app(Market(1, 10**18, products_for(()), 1.0))
    rest = rest_client(httpx.ASGITransport(app))
    await nursery.start(rest.run)
    ours, theirs = make_app(open_instance, (), Companion(rest)).test_client(), app.test_client()

    for path in (
        "/products",
        "/products/BTC-USD",
        "/products/BTC-USD/book?level=2",
        "/products/BTC-USD/trades?limit=3",
        "/products/BTC-USD/ticker",
        "/products/stats",
        "/products/volume-summary",
        "/products/spark-lines",
        "/currencies",
    ):
        got, expected = await ours.get(path), await theirs.get(path)
        assert await got.get_data() == await expected.get_data(), path
        assert got.headers.get("cb-after") == expected.headers.get("cb-after")
