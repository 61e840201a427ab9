"""REST control: starting and stopping pairs, refusals, and forwarding to the owner instance."""

import pytest
import trio

from hedgehogd.domain import limits
from hedgehogd.relay.peers import Answer, PeerGone, PeerSilent
from hedgehogd.web.app import make_app
from tests.web.answers import body, channels, refused

SUBSCRIBE = "/api/v1/subscribe/"
NAMED = {"Hedgehog-Session": "1.key"}


@pytest.fixture
def client(instance):
    return make_app(instance).test_client()


async def test_a_pair_is_started_on_the_clients_stream(client, session):
    """The answer is the stream's whole state, as in an acknowledgement on the stream."""
    answer = await client.post(SUBSCRIBE + "BTC-USD", headers=NAMED)

    assert answer.status_code == 200
    state = await body(answer)
    assert state["session"] == "1.key"
    assert channels(state) == {"ticker": ["BTC-USD"], "matches": ["BTC-USD"]}


async def test_a_lower_case_pair_and_a_session_in_the_query_are_accepted(client, session):
    """People type lower case; a browser's EventSource cannot set headers."""
    answer = await client.post(SUBSCRIBE + "btc-usd?session=1.key&channels=ticker, level2")

    assert channels(await body(answer)) == {"ticker": ["BTC-USD"], "level2": ["BTC-USD"]}


async def test_post_and_delete_are_idempotent(client, session):
    """A client that received no answer repeats its request."""
    answers = [await client.post(SUBSCRIBE + "BTC-USD", headers=NAMED) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert len({await answer.get_data() for answer in answers}) == 1
    answers = [await client.delete(SUBSCRIBE + "BTC-USD", headers=NAMED) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200] * 3
    assert [channels(await body(answer)) for answer in answers] == [{}] * 3


async def test_delete_may_name_channels(client, session):
    """A client may stop the trades and keep the ticker."""
    await client.post(SUBSCRIBE + "BTC-USD", headers=NAMED)
    await client.post(SUBSCRIBE + "ETH-USD", headers=NAMED)
    answer = await client.delete(SUBSCRIBE + "BTC-USD?channels=matches", headers=NAMED)

    assert channels(await body(answer)) == {
        "ticker": ["BTC-USD", "ETH-USD"],
        "matches": ["ETH-USD"],
    }


@pytest.mark.parametrize("query", ["?policy=conflate", ""])
async def test_a_policy_goes_to_the_channels_that_conflate(client, session, query):
    """Trades are never conflated, even if a URL states the policy for all channels."""
    wish = {"channels": ["ticker", "matches"]} | ({} if query else {"policy": "conflate"})
    await client.post(SUBSCRIBE + "BTC-USD" + query, headers=NAMED, json=wish)

    assert [str(topic) for topic in session.subscription.conflated] == ["ticker:BTC-USD"]


async def test_the_statistics_of_a_session_are_returned(client, session):
    """Backlog size and age identify a slow consumer before it is closed."""
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
async def test_an_invalid_request_is_refused_and_changes_nothing(
    client, instance, session, query, wish, code, method
):
    """It is counted by its code; a 500 would report a bug."""
    await client.post(SUBSCRIBE + "BTC-USD", headers=NAMED)
    before = session.subscription.topics()
    answer = await getattr(client, method)(SUBSCRIBE + "BTC-USD" + query, headers=NAMED, data=wish)

    assert await refused(answer) == (400, code)
    assert session.subscription.topics() == before
    assert instance.counts.refusals == {code: 1}


@pytest.mark.parametrize("pair", ["DOGE-USD", "nonsense", "%00", "BTC-USD%0A", "x" * 500])
async def test_a_pair_that_is_not_listed_is_not_found(client, session, pair):
    """An error at once is better than a stream without messages."""
    for method in (client.post, client.delete):
        answer = await method(SUBSCRIBE + pair, headers=NAMED)
        assert await refused(answer) == (404, "unknown_pair")


async def test_a_channel_that_the_exchange_refuses_is_forbidden(client, instance, session):
    """The error is the exchange's: the operator of this instance has no key for the channel."""
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
    """All subscribers share one upstream account, and no subscriber may see its orders."""
    answer = await getattr(client, method)(SUBSCRIBE + "BTC-USD?channels=user", headers=NAMED)

    assert await refused(answer) == (403, "private_channel")
    assert session.subscription.topics() == set()
    assert instance.counts.refusals == {"private_channel": 1}


async def test_a_pair_that_was_delisted_can_be_stopped(client, instance, session):
    """A stream that holds the pair can stop it; for any other stream the pair is unknown."""
    await client.post(SUBSCRIBE + "BTC-USD", headers=NAMED)
    instance.pipe.catalogue.replace(frozenset({"ETH-USD"}))
    answers = [await client.delete(SUBSCRIBE + "BTC-USD", headers=NAMED) for _ in range(2)]

    assert channels(await body(answers[0])) == {}
    assert await refused(answers[1]) == (404, "unknown_pair")


@pytest.mark.parametrize("wish", [{"query_string": {"channels": ""}}, {"json": {"channels": []}}])
async def test_an_empty_list_of_channels_means_the_default_channels(client, session, wish):
    """As on GET: no client means a subscription to no channel."""
    answer = await client.post(SUBSCRIBE + "BTC-USD", headers=NAMED, **wish)

    assert channels(await body(answer)) == {"ticker": ["BTC-USD"], "matches": ["BTC-USD"]}


@pytest.mark.parametrize("path", ["/ws", "/ws-feed"])
async def test_a_websocket_path_without_an_upgrade_asks_for_one(client, path):
    """People test the address with a browser or curl (RFC 9110 §15.5.22)."""
    answer = await client.get(path)

    assert await refused(answer) == (426, "upgrade_required")
    assert answer.headers["Upgrade"] == "websocket"


async def test_a_session_must_be_named_and_open(client, instance, session):
    """The id grants control of the stream: a missing, wrong or closed id controls nothing."""
    assert await refused(await client.post(SUBSCRIBE + "BTC-USD")) == (400, "no_session")
    for wrong in ("1.other", "9.key", "", "1.key "):
        answer = await client.post(SUBSCRIBE + "BTC-USD?session=" + (wrong or "%20"))
        assert await refused(answer) == (404, "unknown_session")
    instance.sessions.discard(session)
    answer = await client.delete(SUBSCRIBE + "BTC-USD", headers=NAMED)
    assert await refused(answer) == (404, "unknown_session")
    answer = await client.get("/api/v1/sessions/1.key")
    assert await refused(answer) == (404, "unknown_session")


async def test_a_request_beyond_the_topic_limit_is_refused(client, session):
    """The limit applies to the stream, whether it is changed by REST or by a command."""
    all_channels = "ticker,matches,level2,heartbeat"
    await client.post(f"{SUBSCRIBE}BTC-USD?channels={all_channels}", headers=NAMED)
    before = session.subscription.topics()
    answer = await client.post(f"{SUBSCRIBE}ETH-USD?channels={all_channels}", headers=NAMED)

    assert await refused(answer) == (429, "too_many_subscriptions")
    assert session.subscription.topics() == before  # two of four would have fit


async def test_a_body_over_the_limit_is_refused(client, instance, session):
    """A list of channels is short, and a client must not be able to fill the memory."""
    answer = await client.post(SUBSCRIBE + "BTC-USD", headers=NAMED, data=b"x" * 70_000)

    assert await refused(answer) == (413, "request_entity_too_large")
    assert instance.counts.refusals == {"request_entity_too_large": 1}


# Streams of other instances


class FakePeers:
    """A fake of the peer instances: records each request and returns a chosen answer."""

    number = 1

    def __init__(self):
        self.asked = []
        self.answer = Answer(200, "application/json", b'{"session":"2.key","channels":[]}')

    async def ask(self, number, method, target, headers=None, body=b""):
        self.asked.append((number, method, target, headers, body))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def peers():
    return FakePeers()


@pytest.fixture
def app_with_peers(instance, peers):
    return make_app(instance, peers=peers).test_client()


THEIRS = {"Hedgehog-Session": "2.key"}


@pytest.mark.parametrize(
    ("method", "path", "headers", "wish"),
    [
        ("POST", SUBSCRIBE + "btc-usd", THEIRS, b""),
        ("POST", SUBSCRIBE + "BTC-USD?channels=ticker&policy=conflate", THEIRS, b""),
        ("POST", SUBSCRIBE + "BTC-USD", THEIRS, b'{"channels":["ticker"]}'),
        ("POST", SUBSCRIBE + "BTC-USD?session=2.key", {}, b""),
        ("DELETE", SUBSCRIBE + "BTC-USD", THEIRS, b"{"),  # the owner validates it
        ("GET", "/api/v1/sessions/2.key", {}, b""),
    ],
)
@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded"])
async def test_a_command_for_a_peers_stream_is_forwarded_unchanged(
    app_with_peers, instance, peers, method, path, headers, wish, kind
):
    """A load balancer without sticky sessions may send a command to any instance."""
    answer = await app_with_peers.open(
        path, method=method, headers={**headers, "Content-Type": kind}, data=wish
    )

    assert answer.status_code == 200
    assert await body(answer) == {"session": "2.key", "channels": []}
    sent = [(k.encode(), v.encode()) for k, v in ({**headers, "Content-Type": kind}).items()]
    assert peers.asked == [(2, method, path, sent, wish)]
    assert instance.counts.forwards == {"answered": 1}


@pytest.mark.parametrize("name", ["no%20pair", "%2e%2e", ".", "%2e"])
@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_a_path_without_a_valid_pair_is_not_forwarded(app_with_peers, peers, method, name):
    """Dots in a path would become another path at the owner."""
    answer = await app_with_peers.open(SUBSCRIBE + name, method=method, headers=THEIRS)

    assert answer.status_code == 404
    assert peers.asked == []


async def test_an_owners_refusal_is_the_answer(app_with_peers, instance, peers):
    """The owner has counted the refusal, so the forwarding instance does not."""
    peers.answer = Answer(429, "application/json", b'{"error":{"code":"full","message":"no room"}}')
    answer = await app_with_peers.post(SUBSCRIBE + "BTC-USD", headers=THEIRS)

    assert await refused(answer) == (429, "full")
    assert not instance.counts.refusals


@pytest.mark.parametrize(
    ("error", "status", "code", "words", "outcome"),
    [
        (
            PeerGone("x"),
            404,
            "unknown_session",
            "instance 2, which had this stream, has stopped",
            "gone",
        ),
        (PeerSilent("instance 2 is busy"), 504, "instance_silent", "instance 2 is busy", "silent"),
    ],
)
async def test_an_owner_that_does_not_answer_is_reported(
    app_with_peers, instance, peers, error, status, code, words, outcome
):
    """The client learns whether to reconnect or to repeat the request."""
    peers.answer = error
    answer = await app_with_peers.get("/api/v1/sessions/2.key")

    assert await refused(answer) == (status, code)
    assert words in (await body(answer))["error"]["message"]
    assert instance.counts.forwards == {outcome: 1}
    assert instance.counts.refusals == {code: 1}


@pytest.mark.parametrize(
    "session_id", ["1.key", "1.other", "x.key", "2", ".", "123456.key", "٢.key"]
)
async def test_requests_for_no_peers_stream_are_answered_here(
    app_with_peers, session, peers, session_id
):
    """These are this instance's sessions, and ids that no instance can have issued."""
    answer = await app_with_peers.get(f"/api/v1/sessions/{session_id}")

    assert answer.status_code == (200 if session_id == "1.key" else 404)
    assert peers.asked == []


async def test_an_app_without_peers_forwards_nothing(client):
    """Otherwise two instances that each name the other as owner would forward for ever."""
    answer = await client.get("/api/v1/sessions/2.key")

    assert await refused(answer) == (404, "unknown_session")


async def test_a_command_that_is_beyond_its_allowance_waits(client, instance, session, monkeypatch):
    """REST control and commands share one allowance; the answer is delayed, not an error."""
    monkeypatch.setattr(
        limits, "ADDRESS_TOPICS_PER_S", 0.001
    )  # the allowance does not recover meanwhile
    async with instance.turns.turn(session.share, limits.COMMAND_TOPICS_BURST):
        pass
    answer = await client.post(SUBSCRIBE + "BTC-USD", headers=NAMED)

    assert (answer.status_code, instance.turns.delayed) == (200, 1)


async def test_a_stream_that_ends_while_its_command_waits_is_unknown(
    client, instance, session, nursery
):
    """The command must not subscribe a session that has already been closed."""
    answers = []

    async def post():
        answers.append(await client.post(SUBSCRIBE + "BTC-USD", headers=NAMED))

    small = instance.turns.small
    small.total_tokens = 1
    holder = object()
    await small.acquire_on_behalf_of(holder)
    nursery.start_soon(post)
    while not small.statistics().tasks_waiting:
        await trio.sleep(0.001)
    session.close()
    small.release_on_behalf_of(holder)
    while not answers:
        await trio.sleep(0.001)

    assert await refused(answers[0]) == (404, "unknown_session")
