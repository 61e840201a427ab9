"""One connection of the feed against a scripted exchange, its errors included."""

import ssl
from itertools import pairwise
from random import Random

import pytest
import structlog
import trio
from trio.testing import wait_all_tasks_blocked

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.engine.health import FeedState
from hedgehogd.protocol.frames import encode_close, encode_pong, encode_text
from tests.feeds.script import CLOSE, PING, ack, error, heartbeat, level2, match, ticker

TICKER = Topic("ticker", "BTC-USD")
MATCHES = Topic("matches", "BTC-USD")
LEVEL2 = Topic("level2", "BTC-USD")


# Silence


async def test_a_line_without_a_byte_is_dialled_again(autojump_clock, exchange, start_feed):
    """Without a byte for ten seconds, although it was pinged, a connection is dead."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    frames = await line.receive_until_closed()
    await exchange.subscribed()

    assert PING in [first for first, _ in frames]
    assert exchange.dialled_at == pytest.approx([0, limits.STALE_AFTER_S + 0.5], abs=0.1)
    assert running.health.losses == {"silent": 1}
    assert "no byte" in running.notices()[0]["reason"]


async def test_a_line_that_answers_pings_without_heartbeats_is_dialled_again(
    autojump_clock, exchange, start_feed, nursery
):
    """An open and silent connection is the most common complaint about this exchange."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    await line.send(heartbeat())
    nursery.start_soon(line.answer_pings)
    await exchange.subscribed()

    assert exchange.dialled_at == pytest.approx([0, limits.STALE_AFTER_S + 0.5], abs=0.1)
    assert running.health.losses == {"silent": 1}
    assert "no heartbeat" in running.notices()[0]["reason"]


@pytest.mark.parametrize("heard_at", [0.1, 2.6, 4.9, 5.1, 9.9])
async def test_silence_is_noticed_at_its_limit_and_no_later(
    autojump_clock, exchange, start_feed, heard_at
):
    """A ping that waits for its pong must not extend the ten seconds by five."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    await trio.sleep(heard_at)
    await line.send(ticker())
    said_at = trio.current_time()
    while running.health.state is not FeedState.STALE:
        await trio.sleep(0.01)

    assert trio.current_time() - said_at == pytest.approx(10, abs=0.1)


async def test_a_slow_handshake_is_not_silence(autojump_clock, exchange, start_feed, nursery):
    """The time limit begins with the exchange's answer, not with the dial."""
    running = await start_feed(stale_after_s=5)
    line = await exchange.dialled()
    await trio.sleep(6)
    await line.shake_hands()
    await line.receive_request()
    nursery.start_soon(line.answer_pings)
    await trio.sleep(4.9)
    assert running.health.losses == {}
    await trio.sleep(0.2)

    assert running.health.losses == {"silent": 1}


async def test_a_silent_feed_is_dialled_again_although_it_answers_pings(
    autojump_clock, exchange, serve
):
    """An acknowledgement and pongs are no data, so they do not extend the time limit."""
    running = await serve(stale_after_s=10)
    (line,) = await exchange.lines_with("ticker")
    await line.send(ack(ticker=["BTC-USD"], heartbeat=["BTC-USD"]))
    await trio.sleep(10.1)
    ready, reason = running.instance.readiness()
    assert (ready, reason) == (False, "stale: silent: no data for 10.0 s")
    await trio.sleep(0.5)
    assert len(exchange.dialled_at) == 2

    await exchange.served[-1].send(heartbeat())
    await wait_all_tasks_blocked()
    assert running.instance.readiness() == (True, "live")
    assert [n["stale"] for n in running.notices()] == [True, False]


async def test_data_of_no_product_does_not_hide_that_all_products_are_silent(
    autojump_clock, exchange, serve
):
    """``status`` arrives each second, even if all markets are silent."""
    running = await serve(channels=("ticker", "status"), stale_after_s=10)
    (line,) = await exchange.lines_with("ticker")
    await line.send(heartbeat())
    for _ in range(9):
        await trio.sleep(1)
        await line.send(b'{"type":"status","products":[]}')
    assert not line.is_over
    await trio.sleep(1.1)
    assert running.health.losses == {"silent": 1}


async def test_a_full_inbox_is_not_silence(autojump_clock, exchange, start_feed, nursery):
    """Data that waits unread in the socket is not silence of the exchange."""
    running = await start_feed(inbox=1)
    line, _ = await exchange.subscribed()
    nursery.start_soon(line.answer_pings)
    for number in range(30):
        await line.send(ticker(sequence=number))
        await trio.sleep(1)
    got = []
    while len(got) < 30:
        messages, notices = running.received()
        got += messages
        assert notices == []
        await wait_all_tasks_blocked()

    assert got == [ticker(sequence=number) for number in range(30)]
    assert running.health.losses == {}
    for _ in range(10):
        running.received()
        await trio.sleep(0.99)
    assert running.health.losses == {}
    await trio.sleep(0.2)
    assert running.health.losses == {"silent": 1}


@pytest.mark.parametrize("channel", ["status", "rfq_matches"])
async def test_a_feed_without_products_is_not_stale(autojump_clock, exchange, serve, channel):
    """Without products no data is expected; a pong proves that the peer is alive."""
    running = await serve(pairs=(), channels=(channel,), stale_after_s=10)
    running.demand.want([Topic(channel, "")])
    await trio.sleep(100)

    assert len(exchange.dialled_at) == 1
    assert running.health.losses == {}


async def test_a_product_that_joins_a_connection_without_products_has_the_whole_limit(
    autojump_clock, exchange, serve
):
    """The time limit of a product begins with its subscribe, not with the connection."""
    running = await serve(pairs=(), channels=("status",), stale_after_s=10)
    running.demand.want([Topic("status", "")])
    await trio.sleep(100)
    running.demand.want([TICKER])
    (line,) = await exchange.lines_with("ticker")
    for _ in range(3):
        await trio.sleep(9)
        assert not line.is_over
        await line.send(heartbeat())

    assert running.health.losses == {}


@pytest.mark.parametrize("is_refused", [False, True])
@pytest.mark.parametrize("pairs", [("BTC-USD",), ("BTC-USD", "ETH-USD")])
async def test_an_exchange_without_heartbeats_is_not_dialled_again_while_data_flows(
    autojump_clock, exchange, serve, is_refused, pairs
):
    """The absence of heartbeats is no evidence if no product has them."""
    running = await serve(pairs=pairs, stale_after_s=10)
    (line,) = await exchange.lines_with("ticker")
    if is_refused:
        await line.send(error("heartbeat is not a valid channel"))
    for number in range(120):
        await line.send(ticker(sequence=number))
        await trio.sleep(1)

    assert len(exchange.dialled_at) == 1
    assert running.notices() == []
    assert running.instance.readiness()[0]


async def test_one_product_without_heartbeats_does_not_move_while_its_data_flows(
    autojump_clock, exchange, serve
):
    """Its data arrives, so another connection would not bring more."""
    running = await serve(pairs=("BTC-USD", "ETH-USD"), stale_after_s=10)
    (line,) = await exchange.lines_with("ticker")
    for number in range(120):
        await line.send(heartbeat(sequence=number), ticker("ETH-USD", number))
        await trio.sleep(1)

    assert len(exchange.dialled_at) == 1
    assert running.notices() == []


async def test_a_silent_product_is_moved_a_few_times_and_then_stays(
    autojump_clock, exchange, serve
):
    """Its silence does not end the connection, and is reported once."""
    running = await serve(pairs=("BTC-USD", "ETH-USD"), stale_after_s=10)
    (line,) = await exchange.lines_with("ticker")
    for number in range(900):
        await line.send(heartbeat(sequence=number))
        await trio.sleep(1)

    assert 1 < len(exchange.dialled_at) <= 1 + limits.MOVES_MAX
    assert running.health.losses == {}
    assert [(n["stale"], n["product_ids"]) for n in running.notices()] == [(True, ["ETH-USD"])]
    assert running.health.quiet_products == 1


async def test_a_silent_book_is_resubscribed_and_then_moved(autojump_clock, exchange, serve):
    """A snapshot always arrives; if it does not, another connection may get it."""
    with structlog.testing.capture_logs() as logs:
        running = await serve(channels=("level2",), stale_after_s=10)
        (line,) = await exchange.lines_with("level2")
        began_at = trio.current_time()
        while len(exchange.served) < 2:
            await line.send(heartbeat())
            await trio.sleep(1)
        moved_after_s = trio.current_time() - began_at
        (_, new) = await exchange.lines_with("level2", count=2)
        await new.send(heartbeat(sequence=2), level2("snapshot", bids=[], asks=[]))
        await trio.sleep(3)
    logged = [event["topics"] for event in logs if event["event"] == "silent topics"]
    subscribed = [kind for kind, channels in line.requests if "level2" in channels]

    assert logged == [["level2:BTC-USD"]]
    assert 0 <= subscribed.count("subscribe") - (1 + limits.RENEWALS_BEFORE_MOVE_MAX) <= 1
    assert moved_after_s < 4 * 10
    assert line.is_over
    assert running.notices() == []


async def test_a_silent_ticker_never_moves(autojump_clock, exchange, serve):
    """There may have been no trade."""
    running = await serve(stale_after_s=10)
    (line,) = await exchange.lines_with("ticker")
    for number in range(300):
        await line.send(heartbeat(sequence=number))
        await trio.sleep(1)

    assert len(exchange.dialled_at) == 1
    assert running.notices() == []


# Disconnects and reconnecting


async def _eof(line):
    await line.stream.send_eof()


async def _reset(line):
    line.break_next_read()
    await line.send(heartbeat())


def raw(data):
    async def send(line):
        await line.stream.send_all(data)

    return send


def close(code):
    async def send(line):
        await line.stream.send_all(encode_close(code, "because"))

    return send


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (_eof, "closed: 1006"),
        (_reset, "closed: 1006"),
        (close(1000), "closed: 1000 because"),
        (close(1001), "closed: 1001 because"),
        (close(1011), "closed: 1011 because"),
        (close(1012), "closed: 1012 because"),
        (close(4001), "closed: 4001 because"),
        (raw(encode_close(None)), "closed: 1005"),
        (raw(b"\x88\x01\x03"), "closed"),  # half a close code
        (raw(b"\x88\x02\x00\x01"), "closed"),  # code 1
        (raw(b"\xc1\x02{}"), "protocol: a data frame begins with 0xc1"),
        (raw(b"\x81\x82\x00\x00\x00\x00{}"), "protocol: "),  # masked
        (raw(b"\x81\xfe\x00\x80\x00\x00\x00\x00" + b"x" * 128), "protocol: "),  # masked, longer
        (raw(b"\x81\x02\xff\xff"), "protocol: a text message is not UTF-8"),
        (raw(b"\x80\x00"), "protocol: a continuation without a first frame"),
        (raw(b"\x81\x7e\x00\x01x"), "protocol: a frame's length is not in its shortest form"),
        (raw(b"\x81\x7f" + (1 << 40).to_bytes(8, "big")), "protocol: a frame of 1099511627776"),
        (raw(b"\x09\x00"), "protocol: a control frame begins with 0x09"),
        (raw(b"HTTP/1.1 500 oops\r\n\r\n"), ""),
    ],
)
async def test_all_topics_are_resubscribed_after_any_end_of_a_line(
    autojump_clock, exchange, start_feed, end, reason
):
    """Exchanges, proxies and networks end connections in all these ways."""
    running = await start_feed(channels=("ticker", "matches"))
    line, first = await exchange.subscribed()
    await line.send(ticker())
    assert await running.messages() == [ticker()]
    await end(line)
    again_line, again = await exchange.subscribed()

    assert again == first
    assert running.health.state is FeedState.STALE
    notices = running.notices()
    assert [(notice["type"], notice["stale"]) for notice in notices] == [("stale", True)]
    assert notices[0]["reason"].startswith(reason)
    assert sum(running.health.losses.values()) == 1

    await again_line.send(ticker(sequence=2))
    assert await running.messages() == [ticker(sequence=2)]
    await wait_all_tasks_blocked()
    assert [notice["stale"] for notice in running.notices()] == [False]
    assert running.health.state is FeedState.LIVE
    assert running.health.connects == 2


@pytest.mark.parametrize(
    ("wrong", "code"),
    [(b"\x81\x82", 1002), (b"\x81\x02\xff\xff", 1007), (b"\x81\x7e\x27\x10", 1009)],
)
async def test_a_protocol_violation_is_answered_with_its_code(
    autojump_clock, exchange, start_feed, wrong, code
):
    """The exchange's log shows why the connection was closed."""
    await start_feed(message_bytes_max=1000)
    line, _ = await exchange.subscribed()
    await line.stream.send_all(wrong)

    assert (await line.receive_until_closed())[-1] == (CLOSE, code.to_bytes(2, "big"))


async def test_an_outage_is_reported_once_and_its_end_once(autojump_clock, exchange, start_feed):
    """For a subscriber ten failed dials are one outage."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    await line.send(ticker())
    await running.messages()
    exchange.failures = [ConnectionRefusedError("refused")] * 5
    await line.stream.send_eof()
    again, _ = await exchange.subscribed()
    await again.send(ticker(sequence=2))
    await again.send(ticker(sequence=3))
    await wait_all_tasks_blocked()

    assert [notice["stale"] for notice in running.notices()] == [True, False]
    assert running.health.losses == {"closed": 1, "network": 5}


async def test_trades_missed_while_the_line_was_down_are_a_gap(
    autojump_clock, exchange, start_feed
):
    """Trade ids rise by one across connections, so the notice can state the missing ones."""
    running = await start_feed(channels=("matches",))
    line, _ = await exchange.subscribed()
    await line.send(match(10))
    await running.messages()
    await line.stream.send_eof()
    again, _ = await exchange.subscribed()
    await again.send(match(10), match(13))
    await wait_all_tasks_blocked()
    gaps = [notice for notice in running.notices() if notice["type"] == "gap"]

    assert [(gap["first_trade_id"], gap["last_trade_id"]) for gap in gaps] == [(11, 12)]
    assert (running.health.gaps, running.health.missing) == (1, {"matches": 2})
    assert running.health.dropped["repeat"] == 1


async def test_pauses_double_up_to_a_cap(autojump_clock, exchange, start_feed):
    """An exchange that is down should not be dialled every second."""
    exchange.failures = [ConnectionRefusedError("refused")] * 9
    running = await start_feed()
    await exchange.subscribed()
    at = exchange.dialled_at

    pauses = [later - earlier for earlier, later in pairwise(at)]
    assert pauses == pytest.approx([0.5, 1, 2, 4, 8, 16, 30, 30, 30])
    assert running.health.losses == {"network": 9}


async def test_pauses_are_jittered(autojump_clock, exchange, start_feed):
    """Instances that lost their feed at the same moment must not dial at the same moment."""
    exchange.failures = [OSError("no route")] * 30
    await start_feed(random=Random(7))
    await exchange.subscribed()
    at = exchange.dialled_at

    capped = [later - earlier for earlier, later in pairwise(at[10:])]
    assert all(15 <= pause <= 30 for pause in capped)
    assert len({round(pause, 6) for pause in capped}) == len(capped)


async def test_after_a_long_life_the_first_pause_is_short_again(
    autojump_clock, exchange, start_feed, nursery
):
    """An outage in the night must not delay a reconnect the next day."""
    exchange.failures = [OSError("no route")] * 6
    await start_feed()
    line, _ = await exchange.subscribed()
    nursery.start_soon(line.answer_pings)
    for number in range(round(limits.BACKOFF_RESET_S) + 1):
        await line.send(heartbeat(sequence=number))
        await trio.sleep(1)
    ended_at = trio.current_time()
    await line.stream.send_all(encode_close(1001))
    await exchange.subscribed()

    assert exchange.dialled_at[-1] - ended_at == pytest.approx(limits.BACKOFF_FIRST_S, abs=0.01)


async def test_a_line_that_ends_at_once_does_not_reset_the_backoff(
    autojump_clock, exchange, start_feed
):
    """An exchange that accepts and closes must not cause a loop of dials."""
    await start_feed()
    for _ in range(6):
        line, _ = await exchange.subscribed()
        await line.stream.send_all(encode_close(1008, "policy"))
    await exchange.dialled()
    at = exchange.dialled_at

    assert at[-1] - at[-2] == pytest.approx(16, abs=0.1)


# The handshake


@pytest.mark.parametrize("body", [b"", b'{"message":"not allowed"}'])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 451])
async def test_a_refusal_of_the_first_dial_is_permanent(
    autojump_clock, exchange, make_feed, nursery, status, body
):
    """A blocked address stays blocked: the daemon exits with status 69."""
    running = make_feed()
    nursery.start_soon(running.run)
    line = await exchange.dialled()
    await line.receive_head()
    head = b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
    await line.stream.send_all(head)
    await line.stream.send_all(body)
    await trio.sleep(1)

    assert running.ended_by.for_good
    assert str(running.ended_by) == f"ws://exchange.test/feed: refused: HTTP {status}"
    assert exchange.dialled_at == [0]
    with pytest.raises(trio.EndOfChannel):
        await running.inbox.receive()


@pytest.mark.parametrize("status", [301, 408, 425, 429, 500, 502, 503])
async def test_a_busy_exchange_is_dialled_again(autojump_clock, exchange, start_feed, status):
    """Rate limits and outages pass."""
    running = await start_feed()
    line = await exchange.dialled()
    await line.receive_head()
    await line.stream.send_all(b"HTTP/1.1 %d Wait\r\nContent-Length: 0\r\n\r\n" % status)
    await exchange.subscribed()

    assert running.health.losses == {"refused": 1}
    assert running.notices()[0]["reason"] == f"refused: HTTP {status}"


@pytest.mark.parametrize("status", [403, 404, 429])
async def test_after_a_connection_no_refusal_is_permanent(
    autojump_clock, exchange, start_feed, status
):
    """During a deployment the exchange may answer 404 for a minute."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    await line.stream.send_eof()
    line = await exchange.dialled()
    await line.receive_head()
    await line.stream.send_all(b"HTTP/1.1 %d No\r\n\r\n" % status)
    await exchange.subscribed()

    assert running.health.losses == {"closed": 1, "refused": 1}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "ended: the exchange closed the connection"),
        (b"HTTP/1.1 101 Swi", "ended: the exchange closed the connection"),
        (b"220 smtp.example ESMTP\r\n", "ended: the exchange's handshake answer is not HTTP"),
        (
            b"HTTP/1.1 101 Yes\r\n\r\n",
            "handshake: ",
        ),  # a peer that accepts every upgrade
    ],
)
async def test_a_failed_handshake_is_a_disconnect(
    autojump_clock, exchange, start_feed, answer, reason
):
    """The feed dials again, whichever service answers at the address."""
    running = await start_feed()
    line = await exchange.dialled()
    await line.stream.send_all(answer)
    await line.stream.send_eof()
    await exchange.subscribed()

    assert running.notices()[0]["reason"].startswith(reason)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"accept": b"bm9uc2Vuc2U="}, "Bad accept token"),
        ({"headers": b"Sec-WebSocket-Protocol: soap\r\n"}, "unrecognized subprotocol soap"),
        ({"headers": b"Sec-WebSocket-Extensions: rot13\r\n"}, "unrecognized extension"),
    ],
)
async def test_the_reason_of_a_wrong_handshake_is_its_fault(
    autojump_clock, exchange, start_feed, wrong, reason
):
    """The library's own error, "can't handle event type Response", would suggest a bug here."""
    running = await start_feed()
    line = await exchange.dialled()
    await line.shake_hands(**wrong)
    await exchange.subscribed()

    assert running.notices()[0]["reason"].startswith(f"handshake: {reason}")
    assert running.health.losses == {"handshake": 1}


async def test_a_handshake_without_an_answer_is_given_up(autojump_clock, exchange, start_feed):
    """The kernel accepts TCP connections even if the exchange's process hangs."""
    running = await start_feed()
    await exchange.dialled()
    await exchange.dialled()

    assert exchange.dialled_at == [0, limits.DIAL_TIMEOUT_S + 0.5]
    assert running.health.losses == {"timeout": 1}


async def test_dial_and_handshake_share_one_time_limit(
    autojump_clock, exchange, start_feed, monkeypatch
):
    """Two time limits in a row would count as a long connection and reset the backoff."""
    fast = exchange.open_stream

    async def slow(address):
        await trio.sleep(limits.DIAL_TIMEOUT_S - 1)
        return await fast(address)

    running = await start_feed(pairs=())
    running.feed.dialer.open_stream = slow
    running.demand.want([TICKER])
    await exchange.dialled()
    handshake_at = trio.current_time()
    while not running.health.losses:
        await trio.sleep(0.1)

    assert trio.current_time() - handshake_at == pytest.approx(1, abs=0.2)


async def test_a_dial_that_hangs_is_given_up(autojump_clock, exchange, start_feed):
    """A firewall that drops packets would delay the error for two minutes."""
    running = await start_feed(pairs=())

    async def hang(address):
        await trio.sleep_forever()

    running.feed.dialer.open_stream = hang
    running.demand.want([TICKER])
    await trio.sleep(limits.DIAL_TIMEOUT_S + 0.1)

    assert running.health.losses == {"timeout": 1}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("no route to host"), "network: no route to host"),
        (ssl.SSLCertVerificationError(1, "expired"), "network: "),
        (trio.BrokenResourceError(), "broken"),
        (trio.ClosedResourceError("gone"), "broken: gone"),
    ],
)
async def test_a_failed_dial_has_its_reason(autojump_clock, exchange, start_feed, error, reason):
    """``/readyz`` shows the reason to the operator on call."""
    exchange.failures = [error]
    running = await start_feed()
    await wait_all_tasks_blocked()

    assert running.health.state is FeedState.STALE
    assert running.instance.readiness()[0] is False
    assert running.health.reason.startswith(reason)


async def test_a_bug_is_not_a_disconnect(autojump_clock, exchange, make_feed):
    """Only errors of the exchange or the network lead to another dial; a bug ends the process."""
    exchange.failures = [ZeroDivisionError()]
    running = make_feed()
    with pytest.raises(ExceptionGroup) as caught:
        await running.run()
    assert caught.value.split(ZeroDivisionError)[1] is None


async def test_unsolicited_pongs_are_harmless(autojump_clock, exchange, start_feed):
    """RFC 6455 allows them as heartbeats."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    await line.stream.send_all(encode_pong(b"?") + encode_text(ticker()))

    assert await running.messages() == [ticker()]


async def test_a_feed_that_cannot_be_reached_is_one_line_in_the_log(
    autojump_clock, exchange, serve
):
    """The line has host, cause and remedy; the next one follows when the cause changes."""
    refused, unknown = OSError(111, "Connection refused"), OSError(-2, "Name not known")
    exchange.failures = [refused] * 5 + [unknown] * 3
    with structlog.testing.capture_logs() as logs:
        running = await serve()
        await exchange.lines_with("ticker")
        assert running.health.losses == {"network": 8}
        exchange.failures = [unknown] * 40
        await exchange.served[-1].stream.send_eof()
        await trio.sleep(limits.DIAL_LOGGED_S * 1.5)
    lines = [each for each in logs if each["log_level"] != "debug"]
    logged = [(each["event"], each.get("reason", "")) for each in lines]

    assert logged == [
        ("the feed cannot be reached", f"network: {refused}"),
        ("the feed cannot be reached", f"network: {unknown}"),
        ("feed connected", ""),
        ("feed lost", "closed: 1006"),
        ("the feed cannot be reached", f"network: {unknown}"),
        ("the feed cannot be reached", f"network: {unknown}"),
    ]
    assert lines[0]["host"] == "exchange.test"
    assert "--feed demo" in lines[0]["remedy"]
