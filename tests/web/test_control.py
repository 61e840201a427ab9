"""REST control: every way to start and stop a pair, and to be refused, here and elsewhere."""

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


async def test_a_body_over_the_limit_is_refused(client, instance, session):
    """A list of channels is short; memory is not for strangers to fill."""
    answer = await client.post(SUBSCRIBE + "BTC-USD", headers=NAMED, data=b"x" * 70_000)

    assert await refused(answer) == (413, "request_entity_too_large")
    assert instance.counts.refusals == {"request_entity_too_large": 1}


# Streams of other instances


class Others:
    """Stands in for the other instances: remembers what it was asked, answers as told."""

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
def others():
    return Others()


@pytest.fixture
def among_others(instance, others):
    return make_app(instance, peers=others).test_client()


THEIRS = {"Hedgehog-Session": "2.key"}


@pytest.mark.parametrize(
    ("method", "path", "headers", "wish"),
    [
        ("POST", SUBSCRIBE + "btc-usd", THEIRS, b""),
        ("POST", SUBSCRIBE + "BTC-USD?channels=ticker&policy=conflate", THEIRS, b""),
        ("POST", SUBSCRIBE + "BTC-USD", THEIRS, b'{"channels":["ticker"]}'),
        ("POST", SUBSCRIBE + "BTC-USD?session=2.key", {}, b""),
        ("DELETE", SUBSCRIBE + "BTC-USD", THEIRS, b"{"),  # its owner is to say what is wrong
        ("GET", "/api/v1/sessions/2.key", {}, b""),
    ],
)
@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded"])
async def test_a_command_for_anothers_stream_is_passed_on_as_it_is(
    among_others, instance, others, method, path, headers, wish, kind
):
    """No sticky sessions: any instance will do for any stream."""
    answer = await among_others.open(
        path, method=method, headers={**headers, "Content-Type": kind}, data=wish
    )

    assert answer.status_code == 200
    assert await body(answer) == {"session": "2.key", "channels": []}
    sent = [(k.encode(), v.encode()) for k, v in ({**headers, "Content-Type": kind}).items()]
    assert others.asked == [(2, method, path, sent, wish)]
    assert instance.counts.forwards == {"answered": 1}


@pytest.mark.parametrize("name", ["no%20pair", "%2e%2e", ".", "%2e"])
@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_what_is_no_pair_is_not_passed_on(among_others, others, method, name):
    """Dots in a path would lead to another path of the owner."""
    answer = await among_others.open(SUBSCRIBE + name, method=method, headers=THEIRS)

    assert answer.status_code == 404
    assert others.asked == []


async def test_an_owners_refusal_is_the_answer(among_others, instance, others):
    """As if it had been asked itself; it has counted it, too."""
    others.answer = Answer(
        429, "application/json", b'{"error":{"code":"full","message":"no room"}}'
    )
    answer = await among_others.post(SUBSCRIBE + "BTC-USD", headers=THEIRS)

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
async def test_an_owner_that_does_not_answer_is_told(
    among_others, instance, others, error, status, code, words, outcome
):
    """A client then knows whether to connect again, or to ask again."""
    others.answer = error
    answer = await among_others.get("/api/v1/sessions/2.key")

    assert await refused(answer) == (status, code)
    assert words in (await body(answer))["error"]["message"]
    assert instance.counts.forwards == {outcome: 1}
    assert instance.counts.refusals == {code: 1}


@pytest.mark.parametrize(
    "session_id", ["1.key", "1.other", "x.key", "2", ".", "123456.key", "٢.key"]
)
async def test_what_is_nobody_elses_is_answered_here(among_others, session, others, session_id):
    """Our own sessions, and what no instance can have given out."""
    answer = await among_others.get(f"/api/v1/sessions/{session_id}")

    assert answer.status_code == (200 if session_id == "1.key" else 404)
    assert others.asked == []


async def test_alone_one_passes_nothing_on(client):
    """What came from another instance stays here: two that point at each other would go on."""
    answer = await client.get("/api/v1/sessions/2.key")

    assert await refused(answer) == (404, "unknown_session")


async def test_a_command_that_is_beyond_its_allowance_waits(client, instance, session, monkeypatch):
    """REST control and the stream itself share one allowance; the answer is late, not an error."""
    monkeypatch.setattr(limits, "ADDRESS_TOPICS_PER_S", 0.001)  # none is won back meanwhile
    async with instance.turns.turn(session.share, limits.COMMAND_TOPICS_BURST):
        pass
    answer = await client.post(SUBSCRIBE + "BTC-USD", headers=NAMED)

    assert (answer.status_code, instance.turns.delayed) == (200, 1)


async def test_a_stream_that_ends_while_its_command_waits_is_unknown(
    client, instance, session, nursery
):
    """The command must not subscribe a session that nobody closes again."""
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
