"""The primary: state is supplied by one connection, and moves without a gap in the book."""

import pytest

from hedgehogd.arbitration.connection_state import Source
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.limits import LEADER_SILENCE_S, PRODUCT_SILENCE_S
from tests.arbitration.exchange_model import FULL, HEARTBEAT, LEVEL2, MATCHES, WITH_MATCHES
from tests.arbitration.test_arbiter import Two, lines, message

BOOK = frozenset({LEVEL2})
BEATS = frozenset({HEARTBEAT, MATCHES})
SNAPSHOT, UPDATE, BEAT = message("snapshot"), message("l2update"), message("heartbeat", sequence=1)
ALL_RFQ = Topic("rfq_matches", "")


def test_a_book_comes_from_one_line():
    """A mix of two lines' updates would be no book."""
    two = Two(*lines(BOOK, BOOK))

    assert [SNAPSHOT, UPDATE] == two.receive(0, 0, SNAPSHOT, UPDATE)
    assert [] == two.receive(1, 0, SNAPSHOT, UPDATE)
    assert {"spare": 2} == two.arbiter.dropped


def test_updates_before_a_snapshot_are_dropped():
    """No subscriber could apply them."""
    two = Two(*lines(BOOK))

    assert [SNAPSHOT, UPDATE] == two.receive(0, 0, UPDATE, SNAPSHOT, UPDATE)
    assert {"no_snapshot": 1} == two.arbiter.dropped
    assert [] == two.resyncs


def test_a_snapshot_that_does_not_arrive_is_requested():
    """It was lost, and without it the updates would be useless for ever."""
    two = Two(*lines(BOOK))

    assert [] == two.receive(0, 10, UPDATE)
    assert [] == two.receive(0, 10 + PRODUCT_SILENCE_S, UPDATE)
    assert [] == two.resyncs
    assert [] == two.receive(0, 10.1 + PRODUCT_SILENCE_S, UPDATE, UPDATE)
    assert [LEVEL2] == two.resyncs
    assert [] == two.receive(0, 10 + 2 * PRODUCT_SILENCE_S, UPDATE)
    assert [LEVEL2] == two.resyncs  # one at a time
    assert [SNAPSHOT, UPDATE] == two.receive(0, 11 + 2 * PRODUCT_SILENCE_S, SNAPSHOT, UPDATE)
    assert two.session.products["BTC-USD"].unknown_since is None


def test_when_the_primary_is_lost_the_other_line_starts_with_a_snapshot():
    """Its snapshot is requested; its updates are useless before it."""
    one, other = lines(BOOK, BOOK)
    two = Two(one, other)
    two.receive(0, 0, SNAPSHOT, UPDATE)
    two.receive(1, 0, SNAPSHOT)
    two.out(two.session.lost(one, 1))

    assert [LEVEL2] == two.resyncs
    assert [SNAPSHOT, UPDATE] == two.receive(1, 1, UPDATE, SNAPSHOT, UPDATE)


def test_the_successor_of_a_lost_primary_carries_the_product():
    """A connection without the product would silence it; one without its book, the book."""
    lost, empty, beats, book = (Source(n, WITH_MATCHES) for n in (0, 0, 1, 1))
    two = Two(lost, empty, beats, book)
    for number in range(4):
        two.receive(number, 0, BEAT)
    empty.held, beats.held = frozenset(), BEATS
    two.out(two.session.lost(lost, 1))

    assert two.session.products["BTC-USD"].leader is book
    assert [LEVEL2] == two.resyncs


@pytest.mark.parametrize("others", [0, 1])
def test_without_another_carrier_the_next_connection_becomes_primary(others):
    """This is a connection that is dialled again."""
    one, again = Source(0, BOOK), Source(0, BOOK)
    two = Two(one, again, *[Source(1, {Topic("ticker", "ETH-USD")})] * others)
    two.receive(0, 0, SNAPSHOT)
    two.out(two.session.lost(one, 1))

    assert [SNAPSHOT] == two.receive(1, 1, SNAPSHOT)
    assert [] == two.resyncs


def test_a_primary_that_is_silent_while_the_other_line_delivers_is_replaced():
    """A half-dead line must not hold back a live one."""
    two = Two(*lines(BOOK, BOOK))
    two.receive(0, 0, SNAPSHOT)
    at = 100.0

    assert [] == two.receive(1, at, UPDATE)
    assert [] == two.receive(1, at + LEADER_SILENCE_S, UPDATE)
    assert [] == two.receive(1, at + LEADER_SILENCE_S + 0.1, UPDATE)
    assert [LEVEL2] == two.resyncs
    assert [SNAPSHOT, UPDATE] == two.receive(1, at + 4, SNAPSHOT, UPDATE)
    assert [] == two.receive(0, at + 4, UPDATE)


def test_a_quiet_market_keeps_its_primary():
    """An update each minute, first on one line and then on the other, is silence of neither."""
    two = Two(*lines(BOOK, BOOK))
    two.receive(0, 0, SNAPSHOT)
    for minute in range(1, 5):
        assert [] == two.receive(1, 60 * minute, UPDATE)
        assert [UPDATE] == two.receive(0, 60 * minute + 0.01, UPDATE)
    assert [] == two.resyncs


def test_a_silent_primary_may_be_replaced_by_a_snapshot():
    """Then no snapshot needs to be requested."""
    two = Two(*lines(BOOK, BOOK))
    two.receive(0, 0, SNAPSHOT)
    two.receive(1, 1, UPDATE)

    assert [SNAPSHOT, UPDATE] == two.receive(1, 9, SNAPSHOT, UPDATE)
    assert [] == two.resyncs


def test_a_book_moves_within_a_line_with_its_snapshot():
    """The old variant is valid until the new one begins."""
    old, new = Source(0, BOOK | BEATS), Source(0, BOOK | BEATS)
    two = Two(old, new)
    two.receive(0, 0, SNAPSHOT)

    assert [] == two.receive(1, 0, BEAT, UPDATE)
    assert [UPDATE, BEAT] == two.receive(0, 0, UPDATE, BEAT)
    assert [SNAPSHOT, UPDATE] == two.receive(1, 0, SNAPSHOT, UPDATE)
    assert [] == two.receive(0, 0, UPDATE, BEAT)


def test_heartbeats_move_within_a_line_when_the_old_connection_releases_them():
    """Each is delivered once, though both connections receive it for a while."""
    old, new = Source(0, BEATS), Source(0, BEATS)
    two = Two(old, new)

    assert [BEAT] == two.receive(0, 0, BEAT)
    assert [] == two.receive(1, 0, BEAT)
    assert [BEAT] == two.receive(0, 1, BEAT)
    old.held = frozenset()
    assert [BEAT] == two.receive(1, 2, BEAT)


def test_a_topic_that_the_old_connection_does_not_hold_comes_from_the_new_one():
    """The primary does not move for it, or the old connection's book would end."""
    old, new = Source(0, BOOK), Source(0, BOOK | {HEARTBEAT})
    two = Two(old, new)
    two.receive(0, 0, SNAPSHOT)

    assert [BEAT] == two.receive(1, 0, BEAT)
    assert [UPDATE] == two.receive(0, 0, UPDATE)


def test_a_primary_that_releases_the_product_is_replaced_by_the_other_line():
    """At once. Its snapshot was dropped as spare, so another one is requested."""
    one, other = lines(BOOK, BOOK)
    two = Two(one, other)
    two.receive(0, 0, SNAPSHOT)
    two.receive(1, 0, SNAPSHOT)
    one.held = frozenset({Topic("ticker", "ETH-USD")})
    two.session.let_go(one)

    assert [] == two.receive(1, 0.1, UPDATE)
    assert [LEVEL2] == two.resyncs
    assert [SNAPSHOT, UPDATE] == two.receive(1, 0.2, SNAPSHOT, UPDATE)


def test_a_connection_that_has_ended_does_not_become_primary():
    """Messages queued after a gap may be delivered after its end."""
    a, b, c = (Source(n, {FULL, HEARTBEAT}) for n in (0, 1, 1))
    two = Two(a, b, c)
    two.receive(0, 0, message("open", sequence=1), message("open", sequence=3), BEAT)
    two.receive(1, 0, message("open", sequence=1))
    two.out(two.session.lost(a, 0.01))
    two.session.products["BTC-USD"].leader = None

    assert BEAT not in two.out(two.session.expire(0.05))
    assert [BEAT] == two.receive(1, 1, BEAT)


def test_rfqs_of_all_products_do_not_change_a_primary():
    """They arrive on another connection than the product's book, which they would silence."""
    everything, book = Source(0, {ALL_RFQ}), Source(0, BOOK | BEATS)
    two = Two(everything, book)
    rfq = message("rfq_match", trade_id=1)

    assert [SNAPSHOT] == two.receive(1, 0, SNAPSHOT)
    assert [rfq] == two.receive(0, 0, rfq)
    assert [UPDATE, BEAT] == two.receive(1, 0, UPDATE, BEAT)


def test_rfqs_of_all_products_come_once_from_two_lines():
    """They have no numbers to compare."""
    two = Two(*lines({ALL_RFQ}, {ALL_RFQ}))
    rfq = message("rfq_match", trade_id=1)

    assert [rfq] == two.receive(0, 0, rfq)
    assert [] == two.receive(1, 0, rfq)


def test_status_and_the_schema_of_level3_come_from_different_connections():
    """Neither has a product."""
    light, heavy = Source(0, {Topic("status", "")}), Source(0, {Topic("level3", "BTC-USD")})
    two = Two(light, heavy)
    status, schema = b'{"type":"status"}', b'{"type":"level3","schema":{}}'

    assert [status] == two.receive(0, 0, status)
    assert [schema] == two.receive(1, 0, schema)
    assert [status] == two.receive(0, 1, status)


def test_a_connection_that_holds_every_topic_becomes_primary():
    """A recording is played as one connection that holds every topic."""
    one, other = Source(0, None), Source(1, None)
    two = Two(one, other)

    assert [SNAPSHOT] == two.receive(0, 0, SNAPSHOT)
    assert [] == two.receive(1, 0, SNAPSHOT)
    two.out(two.session.lost(one, 1))
    assert [] == two.resyncs
    assert [SNAPSHOT] == two.receive(1, 1, SNAPSHOT)
