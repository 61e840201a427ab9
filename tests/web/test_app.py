"""Every route of the control plane, and every way to be refused by it."""

import json

import pytest

from hedgehogd.engine.health import FeedState
from hedgehogd.web import app as module
from hedgehogd.web.app import make_app

SUBSCRIBE = "/api/v1/subscribe/"
NAMED = {"Hedgehog-Session": "1.key"}


@pytest.fixture
def client(instance):
    return make_app(instance).test_client()


async def body(answer):
    assert answer.content_type == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    return json.loads(await answer.get_data())


async def refused(answer):
    """Return an error's status and code; it always has words for people, too."""
    error = (await body(answer))["error"]
    assert error.keys() == {"code", "message"}
    assert len(error["message"]) > 5
    return answer.status_code, error["code"]


def channels(state):
    return {row["name"]: row["product_ids"] for row in state["channels"]}


# Health


@pytest.mark.parametrize(
    ("state", "reason", "status", "said"),
    [
        (FeedState.IDLE, "", 200, "idle"),
        (FeedState.CONNECTING, "", 503, "connecting"),
        (FeedState.LIVE, "", 200, "live"),
        (FeedState.STALE, "closed: 1006", 503, "stale: closed: 1006"),
        (FeedState.ENDED, "", 200, "recording ended"),
    ],
)
async def test_readyz_follows_the_feed(client, instance, state, reason, status, said):
    """A balancer sends subscribers where there is something to get."""
    instance.health.become(state, 0.0, reason)
    answer = await client.get("/readyz")

    assert answer.status_code == status
    assert await body(answer) == {"ready": status == 200, "reason": said}


async def test_a_draining_instance_is_neither_ready_nor_healthy(client, instance):
    """HAProxy must stop sending before the door closes."""
    assert (await client.get("/healthz")).status_code == 200
    instance.is_draining = True
    ready, healthy = await client.get("/readyz"), await client.get("/healthz")

    assert (ready.status_code, healthy.status_code) == (503, 503)
    assert (await body(ready))["reason"] == "draining"
    assert await body(healthy) == {"status": "draining"}


async def test_healthz_is_well_while_the_feed_is_not(client, instance):
    """Restarting us would not bring the exchange back."""
    instance.health.become(FeedState.STALE, 0.0, "closed")

    assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    ("path", "content_type"),
    [("/", "text/html; charset=utf-8"), ("/metrics", "text/plain"), ("/readyz", "application/")],
)
async def test_pages_can_be_asked_for_and_about(client, path, content_type):
    """HEAD is what monitoring sends."""
    got, asked = await client.get(path), await client.head(path)

    assert (got.status_code, asked.status_code) == (200, 200)
    assert got.content_type.startswith(content_type)
    assert asked.content_type == got.content_type


async def test_metrics_and_page_are_what_their_modules_make(client, instance):
    """The routes add nothing."""
    assert b"hedgehogd_feed_state" in await (await client.get("/metrics")).get_data()
    page = await (await client.get("/", headers={"Host": "relay:8001"})).get_data()
    assert b"http://relay:8001/api/v1/subscribe/BTC-USD" in page


# Control


async def test_a_pair_is_started_on_the_callers_stream(client, session):
    """The answer is the whole state, as on the stream itself."""
    answer = await client.post(SUBSCRIBE + "BTC-USD", headers=NAMED)

    assert answer.status_code == 200
    state = await body(answer)
    assert state["session"] == "1.key"
    assert channels(state) == {"ticker": ["BTC-USD"], "matches": ["BTC-USD"]}


async def test_a_lower_case_pair_and_a_session_in_the_query_do_as_well(client, session):
    """People type; browsers' EventSource cannot set headers."""
    answer = await client.post(SUBSCRIBE + "btc-usd?session=1.key&channels=ticker, level2")

    assert channels(await body(answer)) == {"ticker": ["BTC-USD"], "level2": ["BTC-USD"]}


async def test_post_and_delete_are_idempotent(client, session):
    """A client that got no answer asks again."""
    answers = [await client.post(SUBSCRIBE + "BTC-USD", headers=NAMED) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert len({await answer.get_data() for answer in answers}) == 1
    answers = [await client.delete(SUBSCRIBE + "BTC-USD", headers=NAMED) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200] * 3
    assert [channels(await body(answer)) for answer in answers] == [{}] * 3


async def test_delete_may_name_channels(client, session):
    """Stop the trades, keep the price."""
    await client.post(SUBSCRIBE + "BTC-USD", headers=NAMED)
    await client.post(SUBSCRIBE + "ETH-USD", headers=NAMED)
    answer = await client.delete(SUBSCRIBE + "BTC-USD?channels=matches", headers=NAMED)

    assert channels(await body(answer)) == {
        "ticker": ["BTC-USD", "ETH-USD"],
        "matches": ["ETH-USD"],
    }


@pytest.mark.parametrize("query", ["?policy=conflate", ""])
async def test_a_policy_goes_to_the_channels_that_conflate(client, session, query):
    """Trades are never conflated, whatever a URL says about all of them."""
    wish = {"channels": ["ticker", "matches"]} | ({} if query else {"policy": "conflate"})
    await client.post(SUBSCRIBE + "BTC-USD" + query, headers=NAMED, json=wish)

    assert [str(topic) for topic in session.subscription.conflated] == ["ticker:BTC-USD"]


async def test_a_session_can_be_looked_at(client, session):
    """Queue and lag tell a slow consumer before it is closed."""
    await client.post(SUBSCRIBE + "BTC-USD?channels=ticker", headers=NAMED)
    state = await body(await client.get("/api/v1/sessions/1.key"))

    assert channels(state) == {"ticker": ["BTC-USD"]}
    assert (state["waiting_bytes"], state["oldest_s"]) == (100, 1.5)
    assert (state["delivered"], state["skipped"]) == (7, 2)


BAD_WISHES = [
    ("", b"{", "bad_request"),
    ("", b"\xff", "bad_request"),
    ("", b'{"channels":["\xff"]}', "bad_request"),
    ("", b"[" * 60_000, "bad_request"),  # once a 500
    ("", b"[]", "bad_request"),
    ("", b'"ticker"', "bad_request"),
    ("", b'{"channel":["ticker"]}', "bad_request"),
    ("", b'{"channels":"ticker"}', "bad_request"),
    ("", b'{"channels":null}', "bad_request"),
    ("", b'{"channels":[1]}', "bad_request"),
    ("?channels=tickr", b"", "unknown_channel"),
    ("", b'{"channels":["levell2"]}', "unknown_channel"),
]
BAD_POLICIES = [
    ("", b'{"policy":1}', "bad_request"),
    ("", b'{"policy":"drop"}', "bad_request"),
    ("?policy=drop", b"", "bad_request"),
]


@pytest.mark.parametrize(
    ("method", "query", "wish", "code"),
    [
        *(("post", *wish) for wish in BAD_WISHES + BAD_POLICIES),
        *(("delete", *wish) for wish in BAD_WISHES),
    ],
)
async def test_a_bad_wish_is_refused_and_changes_nothing(
    client, instance, session, query, wish, code, method
):
    """It is counted by its reason; a 500 would be our fault."""
    await client.post(SUBSCRIBE + "BTC-USD", headers=NAMED)
    before = session.subscription.topics()
    answer = await getattr(client, method)(SUBSCRIBE + "BTC-USD" + query, headers=NAMED, data=wish)

    assert await refused(answer) == (400, code)
    assert session.subscription.topics() == before
    assert instance.counts.refusals == {code: 1}


@pytest.mark.parametrize("pair", ["DOGE-USD", "nonsense", "%00", "BTC-USD%0A", "x" * 500])
async def test_a_pair_that_is_not_listed_is_not_found(client, session, pair):
    """Better now than never a message."""
    for method in (client.post, client.delete):
        answer = await method(SUBSCRIBE + pair, headers=NAMED)
        assert await refused(answer) == (404, "unknown_pair")


async def test_a_channel_that_the_exchange_does_not_give_us_is_forbidden(client, instance, session):
    """In the exchange's own words: it is its operator who lacks a key, not the caller."""
    instance.pipe.catalogue.refuse_channel("full", "Failed to subscribe", "sign it")
    await client.post(SUBSCRIBE + "BTC-USD?channels=ticker", headers=NAMED)
    before = session.subscription.topics()
    answer = await client.post(SUBSCRIBE + "BTC-USD?channels=matches,full", headers=NAMED)

    assert await refused(answer) == (403, "refused_channel")
    assert (await body(answer))["error"]["message"] == "sign it"
    assert session.subscription.topics() == before
    assert instance.counts.refusals == {"refused_channel": 1}


@pytest.mark.parametrize("method", ["post", "delete"])
async def test_a_channel_about_an_account_is_forbidden(client, instance, session, method):
    """One upstream account for all subscribers: nobody may see its orders."""
    answer = await getattr(client, method)(SUBSCRIBE + "BTC-USD?channels=user", headers=NAMED)

    assert await refused(answer) == (403, "private_channel")
    assert session.subscription.topics() == set()
    assert instance.counts.refusals == {"private_channel": 1}


async def test_a_pair_that_was_delisted_can_be_stopped(client, instance, session):
    """Who holds it must be able to let it go; who does not is told that there is no such pair."""
    await client.post(SUBSCRIBE + "BTC-USD", headers=NAMED)
    instance.pipe.catalogue.replace(frozenset({"ETH-USD"}))
    answers = [await client.delete(SUBSCRIBE + "BTC-USD", headers=NAMED) for _ in range(2)]

    assert channels(await body(answers[0])) == {}
    assert await refused(answers[1]) == (404, "unknown_pair")


@pytest.mark.parametrize("wish", [{"query_string": {"channels": ""}}, {"json": {"channels": []}}])
async def test_no_channels_are_the_default_ones(client, session, wish):
    """As on GET: a stream of nothing is what nobody means."""
    answer = await client.post(SUBSCRIBE + "BTC-USD", headers=NAMED, **wish)

    assert channels(await body(answer)) == {"ticker": ["BTC-USD"], "matches": ["BTC-USD"]}


@pytest.mark.parametrize("path", ["/ws", "/ws-feed"])
async def test_a_websocket_path_without_an_upgrade_says_what_it_expects(client, path):
    """Browsers and curl come to look whether the address is right (RFC 9110 §15.5.22)."""
    answer = await client.get(path)

    assert await refused(answer) == (426, "upgrade_required")
    assert answer.headers["Upgrade"] == "websocket"


async def test_a_session_must_be_named_and_open(client, instance, session):
    """The id is the key to the stream: none, a wrong one, or a closed one opens nothing."""
    assert await refused(await client.post(SUBSCRIBE + "BTC-USD")) == (400, "no_session")
    for wrong in ("1.other", "9.key", "", "1.key "):
        answer = await client.post(SUBSCRIBE + "BTC-USD?session=" + (wrong or "%20"))
        assert await refused(answer) == (404, "unknown_session")
    instance.sessions.discard(session)
    answer = await client.delete(SUBSCRIBE + "BTC-USD", headers=NAMED)
    assert await refused(answer) == (404, "unknown_session")
    answer = await client.get("/api/v1/sessions/1.key")
    assert await refused(answer) == (404, "unknown_session")


async def test_more_than_a_subscriber_may_have_is_refused(client, session):
    """The limit is the stream's, however it is asked."""
    all_channels = "ticker,matches,level2,heartbeat"
    await client.post(f"{SUBSCRIBE}BTC-USD?channels={all_channels}", headers=NAMED)
    before = session.subscription.topics()
    answer = await client.post(f"{SUBSCRIBE}ETH-USD?channels={all_channels}", headers=NAMED)

    assert await refused(answer) == (429, "too_many_subscriptions")
    assert session.subscription.topics() == before  # two of four would have fit


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/api/v1/sessions/", 404, "not_found"),
        ("POST", SUBSCRIBE, 404, "not_found"),
        ("PUT", SUBSCRIBE + "BTC-USD", 405, "method_not_allowed"),
        ("POST", "/readyz", 405, "method_not_allowed"),
        ("DELETE", "/api/v1/sessions/1.key", 405, "method_not_allowed"),
        ("GET", SUBSCRIBE + "BTC-USD", 421, "misdirected"),
        ("GET", "/api/v1/stream", 421, "misdirected"),
    ],
)
async def test_what_is_not_served_here_says_so(client, method, path, status, code):
    """Errors have one form, the framework's own included."""
    answer = await client.open(path, method=method)

    assert await refused(answer) == (status, code)


async def test_a_body_over_the_limit_is_refused(client, instance, session):
    """A list of channels is short; memory is not for strangers to fill."""
    answer = await client.post(SUBSCRIBE + "BTC-USD", headers=NAMED, data=b"x" * 70_000)

    assert await refused(answer) == (413, "request_entity_too_large")
    assert instance.counts.refusals == {"request_entity_too_large": 1}


async def test_a_bug_is_told_to_the_log_and_not_to_the_caller(client, instance, monkeypatch):
    """One request fails; the next one is served."""

    def broken(instance):
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(module, "exposition", broken)
    answer = await client.get("/metrics")

    assert await refused(answer) == (500, "bug")
    assert b"secret" not in await answer.get_data()
    assert instance.counts.refusals == {"bug": 1}
    assert (await client.get("/healthz")).status_code == 200


# CORS


@pytest.mark.parametrize(
    ("allowed", "origin", "expected"),
    [
        ((), "https://a.example", None),
        (("https://a.example",), "https://a.example", "https://a.example"),
        (("https://a.example",), "https://b.example", None),
        (("https://a.example",), None, None),
        (("*",), "https://b.example", "*"),
        (("*",), None, "*"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
async def test_pages_of_allowed_origins_may_read_us(instance, allowed, origin, expected, method):
    """Nobody else's page may drive a visitor's relay."""
    client = make_app(instance, allowed).test_client()
    headers = {"Origin": origin} if origin else {}
    answer = await client.open("/readyz", method=method, headers=headers)

    assert answer.headers.get("Access-Control-Allow-Origin") == expected
    exposed = answer.headers.get("Access-Control-Expose-Headers")
    assert exposed == ("Hedgehog-Session, CB-BEFORE, CB-AFTER, Retry-After" if expected else None)


async def test_a_preflight_allows_what_control_needs(instance):
    """A page that subscribes sends DELETE, JSON and the session's header."""
    client = make_app(instance, ("https://a.example",)).test_client()
    answer = await client.options(SUBSCRIBE + "BTC-USD", headers={"Origin": "https://a.example"})

    assert answer.status_code == 200
    assert "DELETE" in answer.headers["Access-Control-Allow-Methods"]
    assert "Hedgehog-Session" in answer.headers["Access-Control-Allow-Headers"]
    assert "Content-Type" in answer.headers["Access-Control-Allow-Headers"]
    assert answer.headers["Vary"] == "Origin"


async def test_errors_can_be_read_by_the_page_too(instance):
    """Without the header a browser hides even the status."""
    client = make_app(instance, ("*",)).test_client()
    answer = await client.post(SUBSCRIBE + "NO-SUCH", headers={"Origin": "https://a.example"})

    assert answer.status_code == 404
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
