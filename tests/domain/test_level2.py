"""level2's messages: what is read of them and written makes the same book, on real ones too."""

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
    """Follow one product's messages beside the reference; return the book."""
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
            assert tuple(side[:50] for side in reference.rows()) == book.top(50)
    assert reference.rows() == rows(book)
    assert 0 == book.skipped
    return book


def check_written(book):
    """What is written of a book makes the same book."""
    read = read_snapshot(b"".join(snapshot_parts("BTC-USD", book.freeze(), levels_per_slice=100)))
    assert rows(book) == rows(ready(read.bids, read.asks))


def test_books_of_the_recording():
    """10 products, 9,719 updates of the real exchange: never bare, never crossed."""
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


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_books_of_the_simulated_market(seed):
    """Windows of 50 ms, many changes a message."""
    market = Market(seed, START_NS, LISTED[:2])
    for product_id in market.products:
        messages = [market.greeting("level2_50", product_id)]
        messages += [
            message.payload
            for message in market.advance(market.now_ns + 5_000_000_000)
            if message.channel == "level2_50" and message.product_id == product_id
        ]
        assert len(messages) > 5
        check_written(follow(messages))


@given(snapshots, snapshots, st.lists(st.lists(st.lists(changes, max_size=5), max_size=5)))
def test_gathered_changes_make_the_same_book(bids, asks, windows):
    """Each subscriber's copy is ours, and it never removes what it does not have."""
    book, copy = ready(bids, asks), ready(bids, asks)
    gathering = Gathering()
    for window in windows:
        for message in window:
            gathering.note(book, message)
            book.apply(message)
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


def test_a_window_tells_only_what_it_came_to():
    """A level that came and went is the bare removal that crashes clients (FEED §6.6)."""
    book, gathering = ready([("1", "1"), ("2", "1.0"), ("3", "5")]), Gathering()
    for change in [
        ("buy", "4", "1"), ("buy", "4", "0"),  # came and went
        ("buy", "1.00", "0"),  # went: told by the text that subscribers have
        ("buy", "2", "7"), ("buy", "2", "1"),  # as before, spelled otherwise
        ("buy", "3", "0"), ("buy", "3", "5"),  # as before
        ("sell", "9", "1"), ("sell", "9", "2"),  # new
    ]:  # fmt: skip
        gathering.note(book, [change])
        book.apply([change])

    assert [("buy", "1", "0"), ("sell", "9", "2")] == gathering.changes(book)


def test_an_unreadable_change_does_not_spoil_a_window():
    """The other changes of its message are in it."""
    book, gathering = ready([("1", "1")]), Gathering()
    changes_ = [("buy", "1", "2"), None, ("buy", "0.-10000", "1"), ("but", "1", "1")]
    gathering.note(book, changes_)
    book.apply(changes_)

    assert [("buy", "1", "2")] == gathering.changes(book)


@given(snapshots, snapshots, st.integers(1, 7), st.sampled_from([None, TIME]))
def test_pieces_joined_are_the_snapshot(bids, asks, levels_per_slice, time):
    """Wherever it is cut, every level is there once and the commas are right."""
    book = ready(bids, asks)
    parts = snapshot_parts("A-B", book.freeze(), time=time, levels_per_slice=levels_per_slice)
    payload = b"".join(parts)
    bids, asks = ([list(row) for row in side] for side in rows(book))
    expected = {"type": "snapshot", "product_id": "A-B", "asks": asks, "bids": bids}
    if time:
        expected["time"] = time

    assert json.dumps(expected, separators=(",", ":")).encode() == payload


def test_the_bytes_of_messages():
    """As the exchange writes them."""
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


def test_a_snapshot_with_odd_rows_is_read():
    """What is odd in a row is the book's matter."""
    assert ([["1", 2]], [None]) == read_snapshot(b'{"bids":[["1",2]],"asks":[null]}')


def test_an_update_without_a_time_has_none():
    """It was always there; nobody promised that."""
    assert ([("buy", "1", "2")], "") == read_update(b'{"changes":[["buy","1","2"]]}')


BAD = [b"", b"[]", b"\xff", b"[" * 100_000, b"7"]


@pytest.mark.parametrize("payload", BAD, ids=lambda payload: payload[:30])
@pytest.mark.parametrize("read", [read_update, read_snapshot])
def test_what_cannot_be_read_is_one_kind_of_error(read, payload):
    """The feed's caller has one thing to count."""
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
def test_changes_that_cannot_be_read_are_none_in_their_places(payload, changes, time):
    """Numbers stay the texts that they were, further elements are ignored."""
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
def test_a_snapshot_is_the_rows_that_can_be_read(payload, rows_, skipped):
    """Null in place of a side is an empty side."""
    read = read_snapshot(payload)
    book = ready(read.bids, read.asks)

    assert (rows_, skipped) == (rows(book), book.skipped)


def test_a_snapshot_without_any_side_is_none():
    """Nothing in it is a book, not even an empty one."""
    with pytest.raises(BadMessage):
        read_snapshot(b'{"type":"snapshot"}')


def test_what_is_cut_out_leaves_the_rest_as_it_was_sent():
    """Numbers, further elements and fields, also those that cannot be read."""
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
def test_unreadable_rows_cost_themselves_for_early_and_late_joiners(data, bids, asks, messages):
    """The book is the one of the readable rows, in any spelling, with any further elements."""
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
