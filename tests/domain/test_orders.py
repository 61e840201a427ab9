"""The level-3 book: after any events it equals a simple list of orders."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.domain.amount import BadAmount
from hedgehogd.domain.book import BookNotReady
from hedgehogd.domain.order_event import OrderEvent, from_full
from hedgehogd.domain.orders import OrderBook, SequenceGap
from tests.domain.plain_orders import Reference
from tests.domain.test_amount import MALFORMED
from tests.recordings import FULL, recording

ids = st.sampled_from("abcdefgh")
sides = st.sampled_from(["buy", "sell"])
prices = st.sampled_from(["1", "1.0", "1.5", "2.25", "3"])
sizes = st.sampled_from(["0", "0.5", "1", "1.00", "2.75"])
events = st.one_of(
    st.builds(OrderEvent, st.just("open"), st.just(0), ids, sides, prices, sizes),
    st.builds(OrderEvent, st.just("match"), st.just(0), ids, size=sizes),
    st.builds(OrderEvent, st.just("change"), st.just(0), ids, price=prices | st.just(""),
              size=sizes),
    st.builds(OrderEvent, st.sampled_from(["done", "noop"]), st.just(0), ids),
)  # fmt: skip
rest_rows = st.lists(st.tuples(prices, sizes, ids), max_size=12)


def ready(bids=(), asks=(), sequence=100):
    book = OrderBook()
    book.load(bids, asks, sequence)
    return book


def rows(frozen):
    return [list(frozen.rows(side)) for side in ("buy", "sell")]


def levels(frozen):
    return [
        [(Decimal(price), Decimal(size), count) for price, size, count in frozen.levels(side)]
        for side in ("buy", "sell")
    ]


def apply(book, kind, *arguments, **fields):
    return book.apply(OrderEvent(kind, book.sequence + 1, *arguments, **fields))


@given(rest_rows, rest_rows, st.lists(events, max_size=60), st.integers(1, 8))
def test_events_build_the_book_of_the_reference(bids, asks, events_, freeze_every):
    """Orders are in price-time order with exact sizes; later events change no frozen book."""
    book, reference = ready(bids, asks), Reference(bids, asks)
    assert reference.rows() == rows(book.freeze())
    frozen = []
    for event in events_:
        assert book.apply(event._replace(sequence=book.sequence + 1))
        reference.apply(event)
        if book.sequence % freeze_every == 0:
            frozen.append((book.freeze(), reference.rows(), reference.levels()))
    frozen.append((book.freeze(), reference.rows(), reference.levels()))

    for then, rows_then, levels_then in frozen:
        assert rows_then == rows(then)
        assert levels_then == levels(then)
    assert 100 + len(events_) == book.sequence
    again = ready(*rows(frozen[-1][0]))
    assert rows(again.freeze()) == rows(frozen[-1][0])


@given(rest_rows, rest_rows, st.lists(events, max_size=60))
def test_freezing_does_not_change_a_book(bids, asks, events_):
    """Levels shared with frozen books must not change the result of events."""
    book, frozen = ready(bids, asks), ready(bids, asks)
    for event in events_:
        book.apply(event._replace(sequence=book.sequence + 1))
        frozen.freeze()
        frozen.apply(event._replace(sequence=frozen.sequence + 1))

    assert rows(frozen.freeze()) == rows(book.freeze())


@given(rest_rows, rest_rows, st.integers(1, 30))
def test_a_book_loaded_in_slices_equals_the_book_loaded_at_once(bids, asks, rows_per_slice):
    """The book is not ready before the last slice."""
    book = OrderBook()
    for _ in book.load_parts(bids, asks, 7, rows_per_slice):
        assert not book.is_ready

    assert book.is_ready
    assert (rows(ready(bids, asks).freeze()), 7) == (rows(book.freeze()), book.sequence)


def test_the_rest_sample_loads_completely():
    """The book has all rows of a real level-3 book, in their order."""
    sample = json.loads(
        recording("rest-samples/bennycode-2020-BTC-USD-book-level-3.json").read_bytes()
    )
    book = ready(sample["bids"], sample["asks"], sample["sequence"])

    assert (0, 115154667) == (book.skipped, book.sequence)
    assert [[tuple(row) for row in sample[side]] for side in ("bids", "asks")] == rows(
        book.freeze()
    )


@pytest.mark.parametrize(
    ("product_id", "first", "last"),
    [("BTC-USD", 3419023013, 3419023022), ("ETH-USD", 617133250, 617133261)],
)
def test_the_recorded_events_build_a_book(product_id, first, last):
    """The recorded sequences have no gap, and every open order is in the book."""
    book = ready(sequence=first - 1)
    opened = []
    for line in recording(f"{FULL}/feed.jsonl").read_bytes().splitlines():
        message = json.loads(line)
        event = from_full(line)
        if message["product_id"] == product_id and event is not None:
            assert book.apply(event)
            if message["type"] == "open":
                row = (message["price"], message["remaining_size"], message["order_id"])
                opened.append(row)

    assert last == book.sequence
    assert sorted(opened) == sorted(row for side in rows(book.freeze()) for row in side)


def test_a_repeat_is_ignored_and_a_gap_is_raised():
    """After lost events sizes are wrong without a sign; a new REST book is needed (COINBASE §9)."""
    book = ready([("1", "1", "a")])
    assert not book.apply(OrderEvent("done", 100, "a"))
    with pytest.raises(SequenceGap) as gap:
        book.apply(OrderEvent("done", 102, "a"))

    assert (101, 102) == (gap.value.expected, gap.value.found)
    assert [[("1", "1", "a")], []] == rows(book.freeze())
    assert apply(book, "done", "a")
    assert [[], []] == rows(book.freeze())


BAD_AMOUNTS = [
    *(("open", "b", "buy", bad, "1") for bad in [*MALFORMED, "0"]),
    *(("open", "a", "buy", "2", bad) for bad in MALFORMED),
    *(("match", "a", "", "", bad) for bad in MALFORMED),
    *(("change", "a", "", "", bad) for bad in MALFORMED),
    *(("change", "a", "", bad, "1") for bad in [*MALFORMED[1:], "0"]),
    ("open", "b", "bid", "1", "1"),
    ("open", "b" * 101, "buy", "1", "1"),
]


@pytest.mark.parametrize("event", BAD_AMOUNTS, ids=lambda event: repr(event)[:60])
def test_a_malformed_event_changes_nothing(event):
    """Only its own order is lost: the next event can be applied."""
    book = ready([("1", "1", "a")])
    with pytest.raises(BadAmount):
        apply(book, *event)

    assert [[("1", "1", "a")], []] == rows(book.freeze())
    assert 101 == book.sequence


BAD_ROWS = [[bad, "1", "x"] for bad in [*MALFORMED, "0"]] + [["1", bad, "x"] for bad in MALFORMED]
BAD_ROWS += [[], None, 7, "123", ["1", "1"], [True, "1", "x"], ["1", 1.5, "x"], ["1", "1", []]]
BAD_ROWS += [["1", "1", 5], {"1": 1}, ["1", "1", "x" * 101]]


@pytest.mark.parametrize("bad", BAD_ROWS, ids=lambda row: repr(row)[:40])
def test_a_malformed_row_is_skipped_and_counted(bad):
    """A malformed REST answer must not end the process."""
    book = ready([["3", "1", "a"], bad], [["4", "1", "b"]])

    assert [[("3", "1", "a")], [("4", "1", "b")]] == rows(book.freeze())
    assert 1 == book.skipped
    assert apply(book, "done", "x")


def test_numbers_of_any_form_and_further_elements_are_read():
    """REST may write numbers in any form, and add columns."""
    book = ready([[3, "1E-8", "a", "more"]], [["4.0000000000000000000001", 2, "b", None, 7]])

    expected = [[("3", "1E-8", "a")], [("4.0000000000000000000001", "2", "b")]]
    assert expected == rows(book.freeze())
    assert 0 == book.skipped


def test_a_modified_order_goes_to_the_end_of_its_new_level():
    """An order with a new price loses its place, one with a new size keeps it (COINBASE §6.11)."""
    book = ready([("2", "1", "a"), ("2", "1", "b"), ("1", "1", "c"), ("1", "1", "d")])
    apply(book, "change", "a", size="9")
    apply(book, "change", "c", price="1.0", size="8")
    assert [("2", "9", "a"), ("2", "1", "b"), ("1", "8", "c"), ("1", "1", "d")] == rows(
        book.freeze()
    )[0]

    apply(book, "change", "a", price="1.00", size="7")
    assert [("2", "1", "b"), ("1", "8", "c"), ("1", "1", "d"), ("1.00", "7", "a")] == rows(
        book.freeze()
    )[0]


def test_the_size_after_matches_is_exact():
    """0.3 − 0.1 − 0.1 is exactly 0.1, unlike with floats; the last match removes the order."""
    book = ready((), [("1", "0.3", "a")])
    for left in ("0.2", "0.1"):
        apply(book, "match", "a", size="0.1")
        assert [("1", left, "a")] == rows(book.freeze())[1]
    apply(book, "match", "a", size="0.10000000")
    assert [] == rows(book.freeze())[1]
    assert apply(book, "done", "a")  # the exchange sends it after the last match


def test_an_order_of_size_zero_is_removed():
    """An order may be opened or changed with size zero, or occur twice in a REST book."""
    book = ready([("1", "1", "a"), ("2", "1", "a"), ("2", "1", "b"), ("2", "1", "c")])
    frozen = book.freeze()
    assert [("2", "1", "a"), ("2", "1", "b"), ("2", "1", "c")] == rows(frozen)[0]

    apply(book, "change", "b", size="0.00")
    apply(book, "open", "c", "sell", "9", "0")
    apply(book, "change", "b", price="5", size="1")  # not in the book any more
    assert [[("2", "1", "a")], []] == rows(book.freeze())
    assert 3 == len(rows(frozen)[0])


def test_a_level_has_the_sum_of_its_orders():
    """Levels 1 and 2 of REST have the oldest order's price text, an exact sum and a count."""
    book = ready([("2", "0.50", "a"), ("2.0", "0.001", "b"), ("1", "7", "c")])

    assert [("2", "0.501", 2), ("1", "7", 1)] == list(book.freeze().levels("buy"))


def test_the_keys_of_unshared_levels_are_bounded():
    """The keys stored since the last freeze are at most as many as the levels."""
    book = ready()
    book.freeze()
    for price in range(1, 100):
        apply(book, "open", "a", "buy", str(price), "1")

    assert 1 == len(book._unshared)


def test_orders_are_bounded(monkeypatch):
    """A feed that only opens orders must not fill memory."""
    monkeypatch.setattr("hedgehogd.domain.orders.ORDERS_MAX", 1)
    book = ready([("1", "1", "a")])
    with pytest.raises(BadAmount):
        apply(book, "open", "b", "buy", "1", "1")

    assert apply(book, "open", "a", "buy", "2", "1")
    assert [("2", "1", "a")] == rows(book.freeze())[0]


def test_a_book_without_a_rest_book_is_not_ready():
    """full has no snapshot, so events alone build an incomplete book (COINBASE §9)."""
    book = OrderBook()
    with pytest.raises(BookNotReady):
        book.apply(OrderEvent("noop", 1))
    with pytest.raises(BookNotReady):
        book.freeze()


def test_a_new_load_replaces_a_running_one():
    """A gap may occur while the REST book for the last gap is loaded."""
    book = OrderBook()
    first = book.load_parts([("1", "1", "a"), ("1", "1", "b"), ("1", "1", "c")], [], 5, 1)
    next(first)
    book.load([("2", "1", "d")], [], 9)

    assert [] == list(first)
    assert ([("2", "1", "d")], 9) == (rows(book.freeze())[0], book.sequence)


def test_the_last_row_of_an_order_wins():
    """This holds on a level shared with another order; a row of size zero is ignored."""
    bids = [("1", "2", "a"), ("1", "3", "b"), ("1.5", "4", "a"), ("1.5", "0", "c"), ("2", "1", "d")]
    book = ready([*bids, ("2.25", "1", "d")])

    assert rows(book.freeze())[0] == [
        ("2.25", "1", "d"), ("1.5", "4", "a"), ("1", "3", "b"),
    ]  # fmt: skip


def test_an_order_that_opens_again_moves():
    """The exchange sends a second open after a change; the order must not be in the book twice."""
    book = ready([("1", "2", "a"), ("1", "3", "b")])
    apply(book, "open", "a", "buy", "1.5", "1")
    apply(book, "open", "b", "buy", "1.5", "0")
    apply(book, "match", "b", size="1")  # which is not in the book any more

    assert rows(book.freeze())[0] == [("1.5", "1", "a")]
