"""level2 messages: parsed and encoded messages build the same book, real messages included."""

import json
from collections import defaultdict
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.domain.book import Book
from hedgehogd.domain.level2 import (
    Gathering,
    l2update,
    read_snapshot,
    read_update,
    snapshot_parts,
    without_changes,
)
from hedgehogd.domain.message import BadMessage
from hedgehogd.simulator.market import Market
from hedgehogd.simulator.products import LISTED
from tests.domain.test_book import Reference, changes, ready, rows, snapshots
from tests.recordings import PRO, recording

START_NS = 1_790_000_000_123_456_789
TIME = "2021-04-02T01:29:51.329865Z"


def follow(messages):
    """Apply one product's messages to a book and to the reference; return the book."""
    book, reference, since_check = Book(), Reference(), 0
    for payload in messages:
        if b'"snapshot"' in payload[:40]:
            read = read_snapshot(payload)
            book.load(read.bids, read.asks)
            reference = Reference(read.bids, read.asks)
            continue
        update, time = read_update(payload)
        assert json.loads(payload)["time"] == time
        assert [] == book.apply(update)
        assert [] == reference.apply(update)
        assert not book.is_crossed
        since_check += 1
        if since_check % 100 == 0:
            assert reference.rows() == rows(book)
    assert reference.rows() == rows(book)
    assert 0 == book.skipped
    return book


def check_written(book):
    """Assert that the encoded snapshot of a book loads as the same book."""
    read = read_snapshot(b"".join(snapshot_parts("BTC-USD", book.freeze(), levels_per_slice=100)))
    assert rows(book) == rows(ready(read.bids, read.asks))


def test_books_of_the_recording():
    """10 products and 9,719 updates of the exchange have no bare removal and no crossed book."""
    messages = defaultdict(list)
    with recording(f"{PRO}/feed.jsonl").open("rb") as lines:
        for line in lines:
            head = json.loads(line)
            if head["type"] in {"snapshot", "l2update"}:
                messages[head["product_id"]].append(line)
    assert 10 == len(messages)
    assert 9_729 == sum(map(len, messages.values()))
    for of_one in messages.values():
        snapshot = of_one[0].rstrip()
        book = follow(of_one[:1])
        product_id = json.loads(snapshot)["product_id"]
        assert snapshot == b"".join(snapshot_parts(product_id, book.freeze()))
        check_written(follow(of_one))


@pytest.mark.random
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_books_of_the_simulated_market(seed):
    """Messages for windows of 50 ms have many changes each."""
    market = Market(seed, START_NS, LISTED[:2])
    for product_id in market.products:
        messages = [market.initial_state("level2_50", product_id)]
        messages += [
            message.payload
            for message in market.advance(market.now_ns + 5_000_000_000)
            if message.channel == "level2_50" and message.product_id == product_id
        ]
        assert len(messages) > 5
        check_written(follow(messages))


@given(snapshots, snapshots, st.lists(st.lists(st.lists(changes, max_size=5), max_size=5)))
def test_net_changes_build_the_same_book(bids, asks, windows):
    """A subscriber has the same book, and gets no removal of a level that it does not have."""
    book, copy = ready(bids, asks), ready(bids, asks)
    gathering = Gathering()
    for window in windows:
        at_begin = book.freeze()
        for message in window:
            gathering.note(book, message)
            book.apply(message)
        assert at_begin == gathering.before(book)
        net = gathering.changes(book)
        gathering.begin()
        sizes = [copy.level_at(side, copy.key_of(side, price)) for side, price, _ in net]
        assert len({(side, Decimal(price)) for side, price, _ in net}) == len(net)
        for before, (_, price, size) in zip(sizes, net, strict=True):
            assert before is None or Decimal(before[1]) != Decimal(size)
            if not Decimal(size):
                assert before[0] == price or Decimal(before[0]) == Decimal(price)
        assert [] == copy.apply(net)
        assert decimals(rows(book)) == decimals(rows(copy))


def decimals(sides):
    return [[tuple(map(Decimal, row)) for row in side] for side in sides]


def test_a_window_has_net_changes_only():
    """A level added and removed would be a bare removal, which crashes clients (COINBASE §6.6)."""
    book, gathering = ready([("1", "1"), ("2", "1.0"), ("3", "5")]), Gathering()
    for change in [
        ("buy", "4", "1"), ("buy", "4", "0"),  # added and removed
        ("buy", "1.00", "0"),  # removed: with the price text that subscribers have
        ("buy", "2", "7"), ("buy", "2", "1"),  # unchanged, in another spelling
        ("buy", "3", "0"), ("buy", "3", "5"),  # unchanged
        ("sell", "9", "1"), ("sell", "9", "2"),  # new
    ]:  # fmt: skip
        gathering.note(book, [change])
        book.apply([change])

    assert [("buy", "1", "0"), ("sell", "9", "2")] == gathering.changes(book)


def test_the_book_before_a_window_is_known_within_it():
    """A snapshot of level2_batch must not have changes that the window's message has, too."""
    book, gathering = ready([("1", "1"), ("2", "1.0"), ("3", "5")]), Gathering()
    at_begin = book.freeze()
    for change in [
        ("buy", "4", "1"), ("buy", "1.00", "0"), ("buy", "2", "7"), ("buy", "5", "1"),
        ("buy", "5", "0"),
    ]:  # fmt: skip
        gathering.note(book, [change])
        book.apply([change])

    assert at_begin == gathering.before(book)
    assert at_begin != book.freeze()


def test_a_window_begins_without_the_changes_before_it():
    """They were in the window before."""
    book, gathering = ready([("1", "1")]), Gathering()
    gathering.note(book, [("buy", "1", "2")])
    book.apply([("buy", "1", "2")])
    gathering.begin()

    assert gathering.changes(book) == []


def test_an_unreadable_change_does_not_affect_a_window():
    """The window contains the other changes of the message."""
    book, gathering = ready([("1", "1")]), Gathering()
    changes_ = [("buy", "1", "2"), None, ("buy", "0.-10000", "1"), ("but", "1", "1")]
    gathering.note(book, changes_)
    book.apply(changes_)

    assert [("buy", "1", "2")] == gathering.changes(book)


@given(snapshots, snapshots, st.integers(1, 7), st.sampled_from([None, TIME]))
def test_joined_parts_are_the_snapshot(bids, asks, levels_per_slice, time):
    """For any size of slices each level occurs once and the commas are valid."""
    book = ready(bids, asks)
    parts = snapshot_parts("A-B", book.freeze(), time=time, levels_per_slice=levels_per_slice)
    payload = b"".join(parts)
    bids, asks = ([list(row) for row in side] for side in rows(book))
    expected = {"type": "snapshot", "product_id": "A-B", "asks": asks, "bids": bids}
    if time:
        expected["time"] = time

    assert json.dumps(expected, separators=(",", ":")).encode() == payload


def test_the_bytes_of_messages():
    """The encoded bytes are those of the exchange's messages."""
    book = ready([("58828.40", "0.01")], [("58828.41", "0.22767935"), ("58828.43", "0.03")])

    assert (
        b'{"type":"snapshot","product_id":"BTC-USD","asks":[["58828.41","0.22767935"],'
        b'["58828.43","0.03"]],"bids":[["58828.40","0.01"]],"time":"'
        + TIME.encode() + b'"}'
        == b"".join(snapshot_parts("BTC-USD", book.freeze(), time=TIME, levels_per_slice=1))
    )
    assert (
        b'{"type":"l2update","product_id":"BTC-USD","changes":[["buy","1.50","0"]],"time":"'
        + TIME.encode()
        + b'"}'
        == l2update("BTC-USD", [("buy", "1.50", "0")], TIME)
    )


def test_a_snapshot_with_invalid_rows_is_read():
    """The book checks the content of a row, not the parser."""
    assert ([["1", 2]], [None]) == read_snapshot(b'{"bids":[["1",2]],"asks":[null]}')


def test_an_update_without_a_time_has_an_empty_time():
    """Every update seen so far has a time, but the exchange does not promise one."""
    assert ([("buy", "1", "2")], "") == read_update(b'{"changes":[["buy","1","2"]]}')


BAD = [b"", b"[]", b"\xff", b"[" * 100_000, b"7"]


@pytest.mark.parametrize("payload", BAD, ids=lambda payload: payload[:30])
@pytest.mark.parametrize("read", [read_update, read_snapshot])
def test_an_unreadable_message_is_a_bad_message(read, payload):
    """The feed counts unreadable messages by this one exception."""
    with pytest.raises(BadMessage):
        read(payload)


@pytest.mark.parametrize(
    ("payload", "changes", "time"),
    [
        (b"{}", [None], ""),
        (b'{"changes":"x","time":7}', [None], ""),
        (b'{"changes":null,"time":null}', [], ""),
        (b'{"changes":[["buy","1",1],["buy","1"]],"time":"t"}', [("buy", "1", "1"), None], "t"),
        (b'{"changes":[["buy",1.50,2E-8,3],7,{"a":1}]}', [("buy", "1.50", "2E-8"), None, None], ""),
    ],
)
def test_an_unreadable_change_is_none_at_its_index(payload, changes, time):
    """JSON numbers keep their texts, and further elements are ignored."""
    assert (changes, time) == read_update(payload)


@pytest.mark.parametrize(
    ("payload", "rows_", "skipped"),
    [
        (b'{"bids":null,"asks":null}', [[], []], 0),
        (b'{"bids":[["1","2"]],"asks":null}', [[("1", "2")], []], 0),
        (b'{"asks":[["1","2"]]}', [[], [("1", "2")]], 0),
        (b'{"bids":7,"asks":[["1","2",5]]}', [[], [("1", "2")]], 1),
        (b'{"bids":[null,["1","2"],[1.50,3E0,"x"],"12"],"asks":[]}',
         [[("1.50", "3E0"), ("1", "2")], []], 2),
        (b'{"bids":[["1","2"],[1,' + b"9" * 5000 + b'],["3","\xff"]],"asks":[]}',
         [[("1", "2")], []], 2),
    ],
)  # fmt: skip
def test_a_snapshot_has_its_readable_rows(payload, rows_, skipped):
    """A null side is empty."""
    read = read_snapshot(payload)
    book = ready(read.bids, read.asks)

    assert (rows_, skipped) == (rows(book), book.skipped)


def test_a_snapshot_without_sides_is_refused():
    """Such a message is not a book, not even an empty one."""
    with pytest.raises(BadMessage):
        read_snapshot(b'{"type":"snapshot"}')


def test_removing_a_change_keeps_all_other_bytes():
    """Numbers, further elements and fields stay as received, unreadable ones included."""
    payload = b'{"x":1.10,"changes":[["buy",1.50,"0"],["sell",2.0,"1",7],null]}'

    assert without_changes(payload, [0]) == b'{"x":1.10,"changes":[["sell",2.0,"1",7],null]}'
    assert without_changes(payload, [0, 1, 2]) is None


NINES = "9" * 5000
unreadable = st.sampled_from(
    ["null", "7", '"12"', "{}", "[]", '["buy"]', '["but","1","1"]', '["buy","0.-10000","1"]',
     '["buy","1",null]', '["buy",true,"1"]', '["buy","1","-1"]', '["buy","NaN","1"]',
     '["sell","1e99","1"]', '[null,"1","1"]', '["buy",[],"1"]', f'["buy",1,{NINES}]']
)  # fmt: skip
more = st.sampled_from(["", ",null", ',"x",5', ",1.5"])


def spelled(draw, text):
    """Return the JSON text of an amount in one of its forms."""
    return draw(st.sampled_from([f'"{text}"', text, f'"{text}e0"', f"{text}E+0"]))


@given(st.data(), snapshots, snapshots, st.lists(st.lists(changes, max_size=4), max_size=8))
def test_unreadable_rows_affect_neither_early_nor_late_joiners(data, bids, asks, messages):
    """The book has the readable rows, in any spelling, with any further elements."""
    draw = data.draw

    def amid(rows_):
        """Put unreadable rows between the JSON texts of ``rows_``."""
        out = []
        for row in rows_:
            out += draw(st.lists(unreadable, max_size=2))
            out.append(row)
        return "[" + ",".join(out + draw(st.lists(unreadable, max_size=2))) + "]"

    def level(row):
        return f"[{','.join(spelled(draw, text) for text in row)}{draw(more)}]"

    def change(row):
        side, *amounts_ = row
        return f'["{side}",{",".join(spelled(draw, text) for text in amounts_)}{draw(more)}]'

    reference, book = Reference(bids, asks), Book()
    read = read_snapshot(
        f'{{"bids":{amid(map(level, bids))},"asks":{amid(map(level, asks))}}}'.encode()
    )
    book.load(read.bids, read.asks)
    for message in messages:
        update, _ = read_update(f'{{"changes":{amid(map(change, message))}}}'.encode())
        book.apply(update)
        reference.apply(message)
    late = read_snapshot(b"".join(snapshot_parts("BTC-USD", book.freeze())))

    def values(rows_):
        return [[(Decimal(price), Decimal(size)) for price, size in side] for side in rows_]

    assert values(reference.rows()) == values(rows(book))
    assert values(reference.rows()) == values(rows(ready(late.bids, late.asks)))
