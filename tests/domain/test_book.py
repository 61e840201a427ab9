"""The aggregated book: after a snapshot and updates it equals a book built from scratch."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.domain.amount import BadAmount
from hedgehogd.domain.book import KNOWN_PRICES_MAX, Book, BookNotReady
from tests.domain.test_amount import MALFORMED

prices = st.builds(
    lambda tick, zeros: f"{tick / 100:.2f}" + "0" * zeros,
    st.integers(1, 30),
    st.sampled_from([0, 0, 0, 6]),
)
sizes = st.sampled_from(["0", "0.0", "0.00000000", "1", "1.0", "2.5", "0.00000001"])
sides = st.sampled_from(["buy", "sell"])
changes = st.tuples(sides, prices, sizes)
snapshots = st.lists(st.tuples(prices, sizes), max_size=40)


class Reference:
    """A direct implementation of the recipe of docs/COINBASE.md §9."""

    def __init__(self, bids=(), asks=()):
        self.sides = {"buy": {}, "sell": {}}
        for side, rows in (("buy", bids), ("sell", asks)):
            for price, size in rows:
                if Decimal(size):
                    self.sides[side][Decimal(price)] = (price, size)

    def apply(self, changes):
        bare = []
        for at, (side, price, size) in enumerate(changes):
            if Decimal(size):
                self.sides[side][Decimal(price)] = (price, size)
            elif self.sides[side].pop(Decimal(price), None) is None:
                bare.append(at)
        return bare

    def rows(self):
        return [
            [row for _, row in sorted(self.sides[side].items(), reverse=side == "buy")]
            for side in ("buy", "sell")
        ]


def ready(bids=(), asks=()):
    book = Book()
    book.load(bids, asks)
    return book


def rows(book):
    frozen = book.freeze()
    return [frozen.rows("buy"), frozen.rows("sell")]


@given(snapshots, snapshots, st.lists(st.lists(changes, max_size=6), max_size=40))
def test_snapshot_and_updates_equal_the_book_from_scratch(bids, asks, messages):
    """Texts stay as received, levels compare as decimals, and bare removals are reported."""
    book, reference = ready(bids, asks), Reference(bids, asks)
    assert reference.rows() == rows(book)
    for message in messages:
        assert reference.apply(message) == book.apply(message)
        assert reference.rows() == rows(book)
    scratch = ready(*rows(book))
    scratch_rows = rows(scratch)
    best = [side[0] if side else None for side in scratch_rows]
    assert scratch_rows == rows(book)
    assert best == [book.best_bid, book.best_ask]
    assert book.is_crossed == bool(all(best) and Decimal(best[0][0]) >= Decimal(best[1][0]))
    top = [book.freeze().rows(side, 0, 3) for side in ("buy", "sell")]
    assert [side[:3] for side in scratch_rows] == top


@given(snapshots, snapshots, st.integers(1, 50))
def test_a_book_loaded_in_slices_equals_the_book_loaded_at_once(bids, asks, levels_per_slice):
    """The book is not ready before the last slice, so no caller reads an incomplete book."""
    book = Book()
    read = []
    for count in book.load_parts(bids, asks, levels_per_slice):
        assert not book.is_ready
        read.append(count)

    assert book.is_ready
    assert rows(ready(bids, asks)) == rows(book)
    assert sorted(set(read)) == read
    assert (read[-1] if read else 0) == len(bids) + len(asks)


@given(st.lists(st.tuples(prices, st.just("1")), max_size=30), st.lists(changes, max_size=20))
def test_a_frozen_book_does_not_change(bids, later):
    """A snapshot is encoded in slices while the book continues to change."""
    book = ready(bids)
    frozen, before = book.freeze(), rows(book)
    book.apply(later)

    assert before == [frozen.rows("buy"), frozen.rows("sell")]


@given(st.lists(st.tuples(prices, st.just("1")), max_size=30), st.integers(1, 9))
def test_all_slices_together_have_all_rows(asks, size):
    """Rows are best first; no row is repeated or omitted at either end of the side."""
    frozen = ready((), asks).freeze()
    slices = [
        row
        for first in range(0, frozen.depth("sell") + size, size)
        for row in frozen.rows("sell", first, first + size)
    ]

    assert frozen.rows("sell") == slices
    assert frozen.rows("sell")[3:] == frozen.rows("sell", 3)


BAD_CHANGES = [("buy", bad, "1") for bad in MALFORMED] + [("buy", "1", bad) for bad in MALFORMED]


@pytest.mark.parametrize("bad", [*BAD_CHANGES, ("BUY", "1", "1"), ("", "1", "1"), None])
def test_an_unreadable_change_does_not_affect_other_changes(bad):
    """All other changes of the message are applied."""
    book, whole = ready([("1", "1")], [("2", "1")]), ready([("1", "1")], [("2", "1")])
    good = [("buy", "1.5", "3"), ("sell", "2", "0"), ("sell", "9", "0")]

    assert [3] == book.apply([good[0], bad, *good[1:]])
    assert [2] == whole.apply(good)
    assert (rows(whole), 1) == (rows(book), book.skipped)


BAD_ROWS = [["1", bad] for bad in MALFORMED] + [[bad, "1"] for bad in MALFORMED]
BAD_ROWS += [[], ["1"], None, 7, "12", [True, "1"], ["1", 1.5], ["1", None], [["1"], "1"], {"1": 1}]


@pytest.mark.parametrize("bad", BAD_ROWS, ids=lambda row: repr(row)[:40])
def test_a_malformed_row_of_a_snapshot_is_skipped_and_counted(bad):
    """One invalid amount of YFI-USD must not remove ten thousand other levels."""
    book = ready([["3", "1"], bad, ["2", "1"]], [["4", "1", 5]])

    assert [[("3", "1"), ("2", "1")], [("4", "1")]] == rows(book)
    assert 1 == book.skipped
    assert [1] == book.apply([("buy", "3", "0"), ("buy", "1", "0"), ("buy", "2", "0")])
    assert [[], [("4", "1")]] == rows(book)


def test_a_price_in_another_spelling_is_the_same_level():
    """With two levels of one price the best size of a client would stay wrong."""
    book = ready([("58695.04", "1"), ("58695.04000000", "2")])
    assert [("58695.04000000", "2")] == rows(book)[0]

    book.apply([("buy", "58695.0400", "3")])
    assert [("58695.0400", "3")] == rows(book)[0]
    assert [1] == book.apply([("buy", "58695.04", "0"), ("buy", "58695.0400", "0")])
    assert book.best_bid is None


def test_the_price_cache_does_not_outgrow_the_levels():
    """A moving market has ever new prices; the books of 400 products must not keep them."""
    book = ready()
    for tick in range(1, 1_000):
        book.apply([("buy", f"{tick}.00", "1"), ("buy", f"{tick}.50", "0")])
        book.apply([("buy", f"{tick - 10}.00", "0")] if tick > 10 else [])

    assert len(rows(book)[0]) == len(book._sides["buy"].known) == 10


def test_the_price_cache_is_bounded():
    """A hostile feed can send any number of spellings and prices."""
    book = ready()
    for zeros in range(1, 19):
        for tick in range(1_000):
            change = ("buy", f"{tick}." + "0" * zeros, "1")
            assert [] == book.apply([change])

    assert KNOWN_PRICES_MAX >= len(book._sides["buy"].known)
    assert 1_000 == len(rows(book)[0])
    assert ("999." + "0" * 18, "1") == book.best_bid


def test_levels_are_bounded(monkeypatch):
    """A new level is refused, but existing levels can still be changed and removed."""
    monkeypatch.setattr("hedgehogd.domain.book.LEVELS_PER_SIDE_MAX", 2)
    book = ready([("1", "1")])
    book.apply([("buy", "2", "1")])
    book.apply([("buy", "2", "5"), ("buy", "3", "1")])

    assert ([("2", "5"), ("1", "1")], 1) == (rows(book)[0], book.skipped)
    assert [] == book.apply([("buy", "1.0", "7"), ("buy", "1", "0"), ("sell", "3", "1")])
    assert ([("2", "5")], 1) == (rows(book)[0], book.skipped)


def test_two_equal_bare_removals_are_both_reported():
    """Each bare removal would crash a client."""
    assert [0, 1] == ready().apply([("buy", "1", "0"), ("buy", "1", "0")])


def test_an_unordered_snapshot_is_sorted():
    """The exchange sends each side best first, but the book does not depend on that."""
    book = ready([("1", "1"), ("3", "1"), ("2", "1")], [("5", "1"), ("4", "1"), ("6", "1")])

    assert [["3", "2", "1"], ["4", "5", "6"]] == [[p for p, _ in side] for side in rows(book)]


def test_the_best_levels_are_the_highest_bid_and_the_lowest_ask():
    """A side without levels has none."""
    book = ready([("9", "1"), ("10", "2")], [("12", "3"), ("11", "4")])

    assert (book.best_bid, book.best_ask) == (("10", "2"), ("11", "4"))
    assert (ready().best_bid, ready().best_ask) == (None, None)


def test_a_book_without_a_snapshot_is_not_ready():
    """Updates alone would build a book of a few levels that looks complete."""
    book = Book()
    for use in (lambda: book.apply([]), book.freeze):
        with pytest.raises(BookNotReady):
            use()
    book.load([], [])
    assert [[], []] == rows(book)
    book.clear()
    assert not book.is_ready


def test_a_new_load_replaces_a_running_one():
    """The feed may reconnect while a snapshot is loaded."""
    book = Book()
    first = book.load_parts([("1", "1")] * 3, [], 1)
    next(first)
    book.load([("2", "1")], [])

    assert [] == list(first)
    assert [("2", "1")] == rows(book)[0]


def test_key_of_accepts_only_valid_sides_and_prices():
    """A gathering requests the keys of levels that may not exist."""
    book = ready([("1.0", "1")])

    assert book.key_of("buy", "1.0") == book.key_of("buy", "1.00")
    assert ("1.0", "1") == book.level_at("buy", book.key_of("buy", "1"))
    assert book.level_at("sell", book.key_of("sell", "1")) is None
    for side, price in (("bid", "1"), ("buy", "x")):
        with pytest.raises(BadAmount):
            book.key_of(side, price)


def test_a_row_of_size_zero_adds_no_level():
    """A snapshot row of size zero means that the level does not exist."""
    book = Book()
    book.load([("10", "1"), ("9", "0")], [("11", "0.0"), ("12", "2")])

    assert rows(book) == [[("10", "1")], [("12", "2")]]
