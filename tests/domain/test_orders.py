"""The book of orders: whatever happens to orders, it is the plain queue of them."""

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
def test_events_make_the_plain_queue(bids, asks, happened, freeze_every):
    """Price-time order, exact sizes; and no frozen book sees what came after it."""
    book, reference = ready(bids, asks), Reference(bids, asks)
    assert reference.rows() == rows(book.freeze())
    frozen = []
    for event in happened:
        assert book.apply(event._replace(sequence=book.sequence + 1))
        reference.apply(event)
        if book.sequence % freeze_every == 0:
            frozen.append((book.freeze(), reference.rows(), reference.levels()))
    frozen.append((book.freeze(), reference.rows(), reference.levels()))

    for then, rows_then, levels_then in frozen:
        assert rows_then == rows(then)
        assert levels_then == levels(then)
    assert 100 + len(happened) == book.sequence
    again = ready(*rows(frozen[-1][0]))
    assert rows(again.freeze()) == rows(frozen[-1][0])


@given(rest_rows, rest_rows, st.lists(events, max_size=60))
def test_a_book_that_is_never_frozen_is_the_same(bids, asks, happened):
    """Sharing levels with frozen books must not be where its changes come from."""
    book, frozen = ready(bids, asks), ready(bids, asks)
    for event in happened:
        book.apply(event._replace(sequence=book.sequence + 1))
        frozen.freeze()
        frozen.apply(event._replace(sequence=frozen.sequence + 1))

    assert rows(frozen.freeze()) == rows(book.freeze())


@given(rest_rows, rest_rows, st.integers(1, 30))
def test_a_book_loaded_in_slices_is_the_book_loaded_at_once(bids, asks, rows_per_slice):
    """And is not ready before."""
    book = OrderBook()
    for _ in book.load_parts(bids, asks, 7, rows_per_slice):
        assert not book.is_ready

    assert book.is_ready
    assert (rows(ready(bids, asks).freeze()), 7) == (rows(book.freeze()), book.sequence)


def test_the_rest_sample_loads_whole():
    """A real level-3 book, all of its rows in their order."""
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
def test_the_recorded_events_make_a_book(product_id, first, last):
    """Loaded at the number before the first: contiguous, and what is open is on the book."""
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
    """After lost events sizes are wrong in silence; only a new REST book helps (FEED §9)."""
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
    """It costs its own order: the next event follows, and the book goes on."""
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
    """A relay does not crash on what REST says either."""
    book = ready([["3", "1", "a"], bad], [["4", "1", "b"]])

    assert [[("3", "1", "a")], [("4", "1", "b")]] == rows(book.freeze())
    assert 1 == book.skipped
    assert apply(book, "done", "x")


def test_numbers_of_any_form_and_further_elements_are_read():
    """REST may write numbers as it likes, and add columns."""
    book = ready([[3, "1E-8", "a", "more"]], [["4.0000000000000000000001", 2, "b", None, 7]])

    expected = [[("3", "1E-8", "a")], [("4.0000000000000000000001", "2", "b")]]
    assert expected == rows(book.freeze())
    assert 0 == book.skipped


def test_a_modified_order_goes_to_the_end_of_its_new_level():
    """A new price costs the order its place; a new size does not (FEED §6.11)."""
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


def test_what_matches_leave_is_exact():
    """0.3 − 0.1 − 0.1 is 0.1 and not a float's idea of it; then the order is gone."""
    book = ready((), [("1", "0.3", "a")])
    for left in ("0.2", "0.1"):
        apply(book, "match", "a", size="0.1")
        assert [("1", left, "a")] == rows(book.freeze())[1]
    apply(book, "match", "a", size="0.10000000")
    assert [] == rows(book.freeze())[1]
    assert apply(book, "done", "a")  # follows when exhausted


def test_an_order_of_nothing_is_gone():
    """Opened again with nothing, changed to nothing, or twice in a REST book."""
    book = ready([("1", "1", "a"), ("2", "1", "a"), ("2", "1", "b"), ("2", "1", "c")])
    frozen = book.freeze()
    assert [("2", "1", "a"), ("2", "1", "b"), ("2", "1", "c")] == rows(frozen)[0]

    apply(book, "change", "b", size="0.00")
    apply(book, "open", "c", "sell", "9", "0")
    apply(book, "change", "b", price="5", size="1")  # not there any more
    assert [[("2", "1", "a")], []] == rows(book.freeze())
    assert 3 == len(rows(frozen)[0])


def test_levels_sum_up_their_orders():
    """Levels 1 and 2 of REST: the oldest order's price text, an exact sum, a count."""
    book = ready([("2", "0.50", "a"), ("2.0", "0.001", "b"), ("1", "7", "c")])

    assert [("2", "0.501", 2), ("1", "7", 1)] == list(book.freeze().levels("buy"))


def test_levels_not_shared_are_not_remembered_for_ever():
    """What is remembered since the last freeze is bounded by the levels there are."""
    book = ready()
    book.freeze()
    for price in range(1, 100):
        apply(book, "open", "a", "buy", str(price), "1")

    assert 1 == len(book._unshared)


def test_orders_are_bounded(monkeypatch):
    """A feed that only opens must not fill memory (DESIGN, invariant 4)."""
    monkeypatch.setattr("hedgehogd.domain.orders.ORDERS_MAX", 1)
    book = ready([("1", "1", "a")])
    with pytest.raises(BadAmount):
        apply(book, "open", "b", "buy", "1", "1")

    assert apply(book, "open", "a", "buy", "2", "1")
    assert [("2", "1", "a")] == rows(book.freeze())[0]


def test_without_a_rest_book_there_is_none():
    """full has no snapshot: events alone make a book that only looks like one (FEED §9)."""
    book = OrderBook()
    with pytest.raises(BookNotReady):
        book.apply(OrderEvent("noop", 1))
    with pytest.raises(BookNotReady):
        book.freeze()


def test_a_load_that_another_overtakes_leaves_no_trace():
    """A gap may come while the answer to the last one is being loaded."""
    book = OrderBook()
    first = book.load_parts([("1", "1", "a"), ("1", "1", "b"), ("1", "1", "c")], [], 5, 1)
    next(first)
    book.load([("2", "1", "d")], [], 9)

    assert [] == list(first)
    assert ([("2", "1", "d")], 9) == (rows(book.freeze())[0], book.sequence)


def test_an_order_that_rows_name_twice_is_where_they_name_it_last():
    """Also when it was not alone at its first level; an order of nothing is none."""
    bids = [("1", "2", "a"), ("1", "3", "b"), ("1.5", "4", "a"), ("1.5", "0", "c"), ("2", "1", "d")]
    book = ready([*bids, ("2.25", "1", "d")])

    assert rows(book.freeze())[0] == [
        ("2.25", "1", "d"), ("1.5", "4", "a"), ("1", "3", "b"),
    ]  # fmt: skip


def test_an_order_that_opens_again_moves():
    """The exchange says so after a change; it must not be in the book twice."""
    book = ready([("1", "2", "a"), ("1", "3", "b")])
    apply(book, "open", "a", "buy", "1.5", "1")
    apply(book, "open", "b", "buy", "1.5", "0")
    apply(book, "match", "b", size="1")  # which is not there any more

    assert rows(book.freeze())[0] == [("1.5", "1", "a")]
