"""The state that late joiners receive first."""

import json

from hedgehogd.domain.channel import TICKER_BATCH, Topic
from hedgehogd.fanout import last_values as latest_module
from hedgehogd.fanout.last_values import LastValues
from tests.fakes import make_message, make_row

MATCHES = Topic("matches", "BTC-USD")
TICKER = Topic("ticker", "BTC-USD")


def kept(*messages):
    latest = LastValues()
    latest.keep(list(messages))
    return latest


def test_the_newest_of_each_state_is_kept_and_nothing_else():
    """A joiner needs the state; a heartbeat or a change to a book is none."""
    newest = make_message("ticker", sequence=2)
    status = make_message("status", "")
    latest = kept(make_message("ticker", sequence=1), newest, status, make_message("heartbeat"))
    latest.keep([make_message("level2")])

    assert newest is latest.greeting(TICKER)
    assert newest is latest.ticker("BTC-USD")
    assert status is latest.greeting(Topic("status", ""))
    assert latest.greeting(Topic("heartbeat", "BTC-USD")) is None
    assert latest.greeting(Topic("level2", "BTC-USD")) is None
    assert latest.ticker("ETH-USD") is None


def test_the_last_trade_is_sent_as_last_match():
    """As by Coinbase; a client that books every match would otherwise book this one twice."""
    match = make_message("matches", sequence=7, trade_id=3, price="6.10", side="match")
    greeting = kept(match).greeting(MATCHES)

    assert json.loads(match.payload) | {"type": "last_match"} == json.loads(greeting.payload)
    assert greeting.frame.endswith(greeting.payload)
    assert (
        greeting.topic,
        greeting.type,
        greeting.sequence,
        greeting.trade_id,
    ) == (MATCHES, "last_match", 7, 3)
    assert match.type == "match"


def test_a_last_match_is_made_once_per_trade():
    """A thousand late joiners cost one."""
    latest = kept(make_message("matches", sequence=7))
    first = latest.greeting(MATCHES)
    assert first is latest.greeting(MATCHES)

    latest.keep([make_message("matches", sequence=8)])
    assert latest.greeting(MATCHES).sequence == 8


def test_a_last_match_of_the_exchange_is_sent_unchanged():
    """Messages stay raw: there is nothing to change in it."""
    last_match = make_message("matches", kind="last_match", sequence=7)

    assert last_match is kept(last_match).greeting(MATCHES)


def test_the_state_of_ticker_batch_is_the_ticker():
    """The feed holds no ticker_batch; it is the same message at other times."""
    ticker = make_message("ticker", sequence=2)

    assert ticker is kept(ticker).greeting(TICKER_BATCH.topic("BTC-USD"))


def test_a_trade_of_full_is_state_of_matches():
    """Matches are made from full where the feed holds it."""
    trade = make_message("full", kind="match", sequence=7, trade_id=3, also=MATCHES)
    latest = kept(make_message("full", kind="open", sequence=6), trade)
    greeting = latest.greeting(MATCHES)

    assert (greeting.topic, greeting.type, greeting.sequence) == (MATCHES, "last_match", 7)
    assert latest.greeting(Topic("full", "BTC-USD")) is None


def test_the_state_of_level3_is_its_schema():
    """The exchange sends it once per connection; a later joiner needs it too."""
    schema = make_message("level3", "", schema={})
    latest = kept(schema, make_row("done", "BTC-USD", 7, "a", "t"))

    assert schema is latest.greeting(Topic("level3", "BTC-USD"))
    assert schema is latest.greeting(Topic("level3", "ETH-USD"))


def test_a_forgotten_topic_has_no_state():
    """A price from before the feed released the topic is worse than none."""
    latest = kept(make_message("ticker", sequence=2))
    latest.forget(TICKER)
    latest.forget(MATCHES)

    assert latest.greeting(TICKER) is None


def test_the_number_of_topics_with_state_is_bounded(monkeypatch):
    """A recording may hold any number of products; known topics are still updated."""
    monkeypatch.setattr(latest_module, "TOPICS_MAX", 1)
    newest = make_message("ticker", sequence=2)
    latest = kept(make_message("ticker", sequence=1), make_message("ticker", "X-Y"), newest)

    assert newest is latest.greeting(TICKER)
    assert latest.greeting(Topic("ticker", "X-Y")) is None
