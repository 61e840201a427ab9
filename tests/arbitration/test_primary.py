"""Leaders: state comes from one connection, and moves without a hole in the book."""

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
    """Two lines' updates mixed would be no book."""
    two = Two(*lines(BOOK, BOOK))

    assert [SNAPSHOT, UPDATE] == two.hear(0, 0, SNAPSHOT, UPDATE)
    assert [] == two.hear(1, 0, SNAPSHOT, UPDATE)
    assert {"spare": 2} == two.arbiter.dropped


def test_updates_before_a_snapshot_are_no_book():
    """Nobody could apply them."""
    two = Two(*lines(BOOK))

    assert [SNAPSHOT, UPDATE] == two.hear(0, 0, UPDATE, SNAPSHOT, UPDATE)
    assert {"no_snapshot": 1} == two.arbiter.dropped
    assert [] == two.resyncs


def test_a_snapshot_that_does_not_come_is_asked_for():
    """It was lost on its way, and the updates behind it would be of no use for ever."""
    two = Two(*lines(BOOK))

    assert [] == two.hear(0, 10, UPDATE)
    assert [] == two.hear(0, 10 + PRODUCT_SILENCE_S, UPDATE)
    assert [] == two.resyncs
    assert [] == two.hear(0, 10.1 + PRODUCT_SILENCE_S, UPDATE, UPDATE)
    assert [LEVEL2] == two.resyncs
    assert [] == two.hear(0, 10 + 2 * PRODUCT_SILENCE_S, UPDATE)
    assert [LEVEL2] == two.resyncs  # one at a time
    assert [SNAPSHOT, UPDATE] == two.hear(0, 11 + 2 * PRODUCT_SILENCE_S, SNAPSHOT, UPDATE)
    assert two.session.products["BTC-USD"].unknown_since is None


def test_when_the_leader_is_lost_the_other_line_begins_anew():
    """Its snapshot is asked for; its updates mean nothing until then."""
    one, other = lines(BOOK, BOOK)
    two = Two(one, other)
    two.hear(0, 0, SNAPSHOT, UPDATE)
    two.hear(1, 0, SNAPSHOT)
    two.out(two.session.lost(one, 1))

    assert [LEVEL2] == two.resyncs
    assert [SNAPSHOT, UPDATE] == two.hear(1, 1, UPDATE, SNAPSHOT, UPDATE)


def test_who_follows_a_lost_leader_carries_the_product():
    """One that let it go would keep the others silent; one without its book, the book."""
    lost, empty, beats, book = (Source(n, WITH_MATCHES) for n in (0, 0, 1, 1))
    two = Two(lost, empty, beats, book)
    for number in range(4):
        two.hear(number, 0, BEAT)
    empty.held, beats.held = frozenset(), BEATS
    two.out(two.session.lost(lost, 1))

    assert two.session.products["BTC-USD"].leader is book
    assert [LEVEL2] == two.resyncs


@pytest.mark.parametrize("others", [0, 1])
def test_when_nobody_else_carries_it_the_next_one_leads(others):
    """A connection that is dialled again."""
    one, again = Source(0, BOOK), Source(0, BOOK)
    two = Two(one, again, *[Source(1, {Topic("ticker", "ETH-USD")})] * others)
    two.hear(0, 0, SNAPSHOT)
    two.out(two.session.lost(one, 1))

    assert [SNAPSHOT] == two.hear(1, 1, SNAPSHOT)
    assert [] == two.resyncs


def test_a_leader_that_is_silent_while_the_other_speaks_leads_no_longer():
    """A half-dead line must not hold back a live one."""
    two = Two(*lines(BOOK, BOOK))
    two.hear(0, 0, SNAPSHOT)
    at = 100.0

    assert [] == two.hear(1, at, UPDATE)
    assert [] == two.hear(1, at + LEADER_SILENCE_S, UPDATE)
    assert [] == two.hear(1, at + LEADER_SILENCE_S + 0.1, UPDATE)
    assert [LEVEL2] == two.resyncs
    assert [SNAPSHOT, UPDATE] == two.hear(1, at + 4, SNAPSHOT, UPDATE)
    assert [] == two.hear(0, at + 4, UPDATE)


def test_a_quiet_market_moves_no_lead():
    """An update each minute, first here and then there, is not silence of either."""
    two = Two(*lines(BOOK, BOOK))
    two.hear(0, 0, SNAPSHOT)
    for minute in range(1, 5):
        assert [] == two.hear(1, 60 * minute, UPDATE)
        assert [UPDATE] == two.hear(0, 60 * minute + 0.01, UPDATE)
    assert [] == two.resyncs


def test_a_silent_leader_may_be_replaced_by_a_snapshot():
    """Then there is none to ask for."""
    two = Two(*lines(BOOK, BOOK))
    two.hear(0, 0, SNAPSHOT)
    two.hear(1, 1, UPDATE)

    assert [SNAPSHOT, UPDATE] == two.hear(1, 9, SNAPSHOT, UPDATE)
    assert [] == two.resyncs


def test_a_book_moves_within_a_line_with_its_snapshot():
    """The old variant is good until the new one begins (DESIGN §5)."""
    old, new = Source(0, BOOK | BEATS), Source(0, BOOK | BEATS)
    two = Two(old, new)
    two.hear(0, 0, SNAPSHOT)

    assert [] == two.hear(1, 0, BEAT, UPDATE)
    assert [UPDATE, BEAT] == two.hear(0, 0, UPDATE, BEAT)
    assert [SNAPSHOT, UPDATE] == two.hear(1, 0, SNAPSHOT, UPDATE)
    assert [] == two.hear(0, 0, UPDATE, BEAT)


def test_heartbeats_move_within_a_line_when_the_old_connection_lets_go():
    """Each of them once, though both bring it for a while."""
    old, new = Source(0, BEATS), Source(0, BEATS)
    two = Two(old, new)

    assert [BEAT] == two.hear(0, 0, BEAT)
    assert [] == two.hear(1, 0, BEAT)
    assert [BEAT] == two.hear(0, 1, BEAT)
    old.held = frozenset()
    assert [BEAT] == two.hear(1, 2, BEAT)


def test_what_the_old_connection_does_not_hold_comes_from_the_new_one():
    """And the lead does not move for it, or the old one's book would end."""
    old, new = Source(0, BOOK), Source(0, BOOK | {HEARTBEAT})
    two = Two(old, new)
    two.hear(0, 0, SNAPSHOT)

    assert [BEAT] == two.hear(1, 0, BEAT)
    assert [UPDATE] == two.hear(0, 0, UPDATE)


def test_a_leader_that_lets_the_product_go_is_followed_by_the_other_line():
    """At once; its snapshot was spare when it came, so there has to be another."""
    one, other = lines(BOOK, BOOK)
    two = Two(one, other)
    two.hear(0, 0, SNAPSHOT)
    two.hear(1, 0, SNAPSHOT)
    one.held = frozenset({Topic("ticker", "ETH-USD")})
    two.session.let_go(one)

    assert [] == two.hear(1, 0.1, UPDATE)
    assert [LEVEL2] == two.resyncs
    assert [SNAPSHOT, UPDATE] == two.hear(1, 0.2, SNAPSHOT, UPDATE)


def test_a_connection_that_has_ended_takes_no_lead():
    """What waited behind a hole may come out after its end."""
    a, b, c = (Source(n, {FULL, HEARTBEAT}) for n in (0, 1, 1))
    two = Two(a, b, c)
    two.hear(0, 0, message("open", sequence=1), message("open", sequence=3), BEAT)
    two.hear(1, 0, message("open", sequence=1))
    two.out(two.session.lost(a, 0.01))
    two.session.products["BTC-USD"].leader = None

    assert BEAT not in two.out(two.session.expire(0.05))
    assert [BEAT] == two.hear(1, 1, BEAT)


def test_rfqs_of_all_products_do_not_lead_theirs():
    """They come on another connection than the product's book, which they would silence."""
    everything, book = Source(0, {ALL_RFQ}), Source(0, BOOK | BEATS)
    two = Two(everything, book)
    rfq = message("rfq_match", trade_id=1)

    assert [SNAPSHOT] == two.hear(1, 0, SNAPSHOT)
    assert [rfq] == two.hear(0, 0, rfq)
    assert [UPDATE, BEAT] == two.hear(1, 0, UPDATE, BEAT)


def test_rfqs_of_all_products_come_once_from_two_lines():
    """They have no numbers to compare."""
    two = Two(*lines({ALL_RFQ}, {ALL_RFQ}))
    rfq = message("rfq_match", trade_id=1)

    assert [rfq] == two.hear(0, 0, rfq)
    assert [] == two.hear(1, 0, rfq)


def test_status_and_the_schema_of_level3_come_from_different_connections():
    """Both are about no product."""
    light, heavy = Source(0, {Topic("status", "")}), Source(0, {Topic("level3", "BTC-USD")})
    two = Two(light, heavy)
    status, schema = b'{"type":"status"}', b'{"type":"level3","schema":{}}'

    assert [status] == two.hear(0, 0, status)
    assert [schema] == two.hear(1, 0, schema)
    assert [status] == two.hear(0, 1, status)


def test_a_source_of_everything_leads_like_any_other():
    """A recording is played as one connection that holds whatever comes."""
    one, other = Source(0, None), Source(1, None)
    two = Two(one, other)

    assert [SNAPSHOT] == two.hear(0, 0, SNAPSHOT)
    assert [] == two.hear(1, 0, SNAPSHOT)
    two.out(two.session.lost(one, 1))
    assert [] == two.resyncs
    assert [SNAPSHOT] == two.hear(1, 1, SNAPSHOT)
