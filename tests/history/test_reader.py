"""Reading: all that was kept, once, in order, whatever is sealed and wherever one begins.

The machine at the end is the heart of it: a feed with holes, writers that follow on one
another and see the same again, clocks that step back, and a model of what has to be there.
"""

import bisect
import sqlite3
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.history import blocks
from hedgehogd.history.reader import Reader
from hedgehogd.history.schema import CorruptStore, StoreError
from hedgehogd.history.writer import Entry, Hole
from hedgehogd.recovery.history_port import PastExtent, PastPage
from tests.history.conftest import (
    BTC,
    FULL,
    HEARTBEAT,
    LEVEL2,
    LEVEL3,
    MATCHES,
    NAMES,
    NEVER_US,
    NOW,
    TICKER,
    Store,
    bare,
    match,
    numbered,
    read_all,
    read_all_back,
    steps_of,
)

ETH = Topic("matches", "ETH-USD")
SECOND = 1_000_000


def test_an_empty_store_has_nothing(store):
    """And says so, instead of failing."""
    assert store.writer.last_sequence(MATCHES) is None
    reader = store.reader

    assert (reader.settings(), reader.written_to(), reader.extents()) == (NAMES, 0, {})
    assert (reader.first_place(MATCHES), reader.find(MATCHES, 10**9)) == (None, None)
    assert reader.snapshot_before(LEVEL2, NOW) is None
    assert reader.trades(BTC, 0, 10**9) == {}
    assert reader.page([MATCHES], 5) == PastPage([], [], 5, is_last=True, is_sealed=False)


def test_a_message_is_read_as_it_was(store):
    """Those who get it from the past cannot tell."""
    entries = [match(1), numbered(LEVEL3, 7, NOW + 2), bare(HEARTBEAT, "x", NOW + 3)]
    store.writer.write(entries, NOW)
    messages, _ = read_all(store.reader, [MATCHES, LEVEL3, HEARTBEAT])

    assert [
        (m.topic, m.type, m.payload, m.sequence, m.trade_id, m.received_us) for m in messages
    ] == [
        (MATCHES, "match", entries[0].payload, 10, 1, NOW + 1),
        (LEVEL3, "level3", entries[1].payload, 7, None, NOW + 2),
        (HEARTBEAT, "l2update", entries[2].payload, None, None, NOW + 3),
    ]
    assert messages[0].frame == b"\x81" + bytes([len(entries[0].payload)]) + entries[0].payload


def test_what_cannot_be_read_is_passed_on_as_it_is(store):
    """It was relayed once; history does not know better."""
    store.writer.write([Entry(MATCHES, NOW, b"no json")], NOW)
    (message,), _ = read_all(store.reader, [MATCHES])

    assert (message.payload, message.type, message.sequence) == (b"no json", "", None)


def test_pages_end_where_blocks_end(store, monkeypatch):
    """So readers who began elsewhere read the same pages from there on, and share them."""
    monkeypatch.setattr(limits, "BLOCK_BYTES", 1)
    store.writer.write([match(n) for n in (1, 2, 3)], NOW)
    monkeypatch.setattr(limits, "BLOCK_BYTES", 10**6)
    store.writer.write([match(n) for n in (4, 5)], NOW)
    pages = [store.reader.page([MATCHES], NOW + n) for n in range(6)]

    assert [[m.trade_id for m in page.messages] for page in pages] == [
        [1], [2], [3], [4, 5], [5], []
    ]  # fmt: skip
    assert [page.is_sealed for page in pages] == [True, True, True, False, False, False]
    assert [page.is_last for page in pages] == [False, False, False, True, True, True]
    assert pages[0].messages[0] is store.reader.page([MATCHES, TICKER], -1).messages[0]


def test_a_page_of_open_messages_is_full_or_the_last(store, monkeypatch):
    """Whoever gets exactly as many as fit asks once more."""
    monkeypatch.setattr(limits, "HISTORY_PAGE_MESSAGES_MAX", 2)
    store.writer.write([match(1), match(1, topic=ETH), match(2), match(2, topic=ETH)], NOW)
    first = store.reader.page([MATCHES, ETH], -1)
    second = store.reader.page([MATCHES, ETH], first.end)

    assert [(m.topic, m.trade_id) for m in first.messages] == [(MATCHES, 1), (ETH, 1)]
    assert [(m.topic, m.trade_id) for m in second.messages] == [(MATCHES, 2), (ETH, 2)]
    assert not second.is_last
    assert store.reader.page([MATCHES, ETH], second.end) == PastPage(
        [], [], second.end, is_last=True, is_sealed=False, written_to=NOW
    )


def written_trades(store, first, last):
    """Write trades of two products in turn, about three in a block."""
    numbers = range(first, last + 1)
    store.writer.write([match(n, NOW + 2 * n, t) for n in numbers for t in (MATCHES, ETH)], NOW)


@pytest.mark.parametrize("topics", [[MATCHES], [MATCHES, ETH, TICKER]])
@pytest.mark.parametrize("before", [NOW + 35, NOW + 101, NOW + 150])
def test_a_page_backwards_costs_as_much_as_it_has(store, monkeypatch, topics, before):
    """Whatever is before or after it: a read cannot be cancelled, and others wait for it."""
    monkeypatch.setattr(limits, "BLOCK_BYTES", 250)
    monkeypatch.setattr(limits, "HISTORY_PAGE_MESSAGES_MAX", 12)
    unpacked, unpack = [], blocks.unpack
    monkeypatch.setattr(blocks, "unpack", lambda *each: unpacked.append(each) or unpack(*each))
    found = []
    for first, last in ((1, 100), (101, 500)):
        written_trades(store, first, last)
        steps, page = steps_of(store.reader, lambda: store.reader.page_before(topics, before))
        assert len(page.messages) == 12
        found.append((steps, len(unpacked)))
        unpacked.clear()
        store.close()

    assert store.rows("SELECT count(*) > 200 FROM block") == [(1,)]
    assert found[0] == found[1]
    assert found[0][1] <= 12 // 3 + 2 * len(topics)


def test_the_newest_page_is_read_without_the_older_ones(store, monkeypatch):
    """A store of a week costs no more than one of a minute."""
    monkeypatch.setattr(limits, "BLOCK_BYTES", 250)
    monkeypatch.setattr(limits, "HISTORY_PAGE_MESSAGES_MAX", 12)
    steps = []
    for first, last in ((1, 100), (101, 500)):
        written_trades(store, first, last)
        cost, page = steps_of(store.reader, lambda: store.reader.page_before([MATCHES], NEVER_US))
        steps.append(cost)
        assert [m.trade_id for m in page.messages] == list(range(last, last - 12, -1))
        store.close()

    assert steps[1] <= 1.2 * steps[0]  # the numbers of messages in the newest blocks differ


def test_the_place_up_to_which_messages_were_removed_is_known(store, monkeypatch):
    """Of topics with messages, before their first one; of those without any, at their last one."""
    store.writer.write([match(1)], NOW)
    store.close()
    assert store.reader.removed_to() == 0
    monkeypatch.setattr(limits, "BLOCK_BYTES", 250)
    written_trades(store, 1, 20)
    numbered_at = [numbered(TICKER, n, NOW + 60 + n) for n in range(9)]
    store.writer.write(numbered_at, NOW)
    store.close()
    reader = store.reader
    assert reader.removed_to() == 0
    places = {t: [m.id for m in read_all(reader, [t])[0]] for t in (MATCHES, ETH, TICKER)}
    for before in (0, NOW + 15, NOW + 31, NOW + 10**6):
        store.writer.retain(before, 10**9)
        left = {t: [m.id for m in read_all(reader, [t])[0]] for t in places}
        removed = [
            left[t][0] - 1 if left[t] else all_of[-1]
            for t, all_of in places.items()
            if left[t] != all_of
        ]
        assert reader.removed_to() == max(removed, default=0)
        assert reader.removed_to() == reader.removed_to()


@pytest.mark.parametrize(
    "ask",
    [
        lambda reader: reader.removed_to(),
        lambda reader: reader.stretches(0, NEVER_US),
        lambda reader: reader.first_place(MATCHES),
    ],
)
def test_a_store_of_any_size_answers_as_fast(store, monkeypatch, ask):
    """A replay asks after each page, and each query of history asks."""
    monkeypatch.setattr(limits, "BLOCK_BYTES", 250)
    costs = []
    for first, last in ((1, 100), (101, 500)):
        written_trades(store, first, last)
        store.close()
        ask(store.reader)
        costs.append(steps_of(store.reader, lambda: ask(store.reader))[0])

    assert store.rows("SELECT count(*) > 200 FROM block") == [(1,)]
    assert costs[0] == costs[1] < 100


@pytest.mark.parametrize("block_bytes", [1, 250, 10**6])
@pytest.mark.parametrize("topics", [(MATCHES, ETH), (ETH, MATCHES)])
def test_a_stretch_ends_with_the_newest_message(store, monkeypatch, topics, block_bytes):
    """In whichever topic it is, sealed or not."""
    assert store.writer.write([], NOW) == 0
    assert store.reader.stretches(1, NEVER_US) == []
    monkeypatch.setattr(limits, "BLOCK_BYTES", block_bytes)
    store.writer.write([match(n, topic=topics[n // 4]) for n in range(1, 7)], NOW)

    newest = store.reader.stretches(0, NEVER_US)[0].last
    assert newest == max(each.last_place for each in store.reader.extents().values())
    assert newest == NOW + 6
    assert store.reader.stretches(NOW + 3, NOW + 5) == [(NOW + 2, NOW + 4)]


def test_large_messages_end_a_page_backwards(store, monkeypatch):
    """A page of snapshots would fill the memory; one message is always in it."""
    store.writer.write([match(n, size=1000) for n in range(1, 4)], NOW)
    monkeypatch.setattr(limits, "HISTORY_PAGE_BYTES_MAX", 2000)
    first = store.reader.page_before([MATCHES], NEVER_US)
    monkeypatch.setattr(limits, "HISTORY_PAGE_BYTES_MAX", 1)
    second = store.reader.page_before([MATCHES], first.end)

    assert [m.trade_id for m in first.messages] == [3, 2]
    assert [m.trade_id for m in second.messages] == [1]
    assert store.reader.page_before([MATCHES], second.end) == PastPage(
        [], [], 0, is_last=True, is_sealed=False, written_to=NOW
    )


def test_unpacked_blocks_are_bounded(store, monkeypatch):
    """A week of blocks must not stay in memory."""
    monkeypatch.setattr(limits, "BLOCK_BYTES", 1)
    monkeypatch.setattr(limits, "HISTORY_CACHE_BYTES_MAX", 2500)  # read when the reader opens
    store.writer.write([match(n) for n in range(1, 30)], NOW)
    for _ in range(2):
        assert len(store.payloads(MATCHES)) == 29
        assert 0 < store.reader._blocks.bytes <= 2500
    assert len(store.reader._blocks) > 1


def test_a_block_is_not_taken_for_one_that_was_removed(store, monkeypatch):
    """All blocks may go, when nothing came for as long as is kept; readers stay for months."""
    monkeypatch.setattr(limits, "BLOCK_BYTES", 1)
    store.writer.write([match(1)], NOW)
    assert store.payloads(MATCHES) == [match(1).payload]
    store.writer.retain(NOW + SECOND, 10**9)
    store.writer.write([match(2)], NOW)

    assert store.payloads(MATCHES) == [match(2).payload]


def test_a_topic_that_is_made_between_is_not_left_out_of_a_page(store, monkeypatch):
    """A page that ends with a block is kept for good, and with it whatever it misses."""
    monkeypatch.setattr(limits, "BLOCK_BYTES", 1)
    store.writer.write([match(5, at=NOW + 5)], NOW)
    store.reader.page([MATCHES], -1)
    ask = store.reader._number

    def slow(topic):
        number = ask(topic)
        if topic == ETH:  # it is written while the page is read
            store.writer.write([match(1, at=NOW + 6, topic=ETH), match(6, at=NOW + 7)], NOW)
        return number

    monkeypatch.setattr(store.reader, "_number", slow)
    page = store.reader.page([MATCHES, ETH], NOW + 5)
    monkeypatch.undo()

    assert (page.messages, page.end, page.is_sealed) == ([], NOW + 5, False)
    messages, _ = read_all(store.reader, [MATCHES, ETH], page.end)
    assert [message.topic for message in messages] == [ETH, MATCHES]


def test_the_oldest_message_may_be_sealed_or_open(store, monkeypatch):
    """Where the past begins decides who is told that too much is gone."""
    store.writer.write([match(3), match(1, topic=ETH)], NOW)
    assert store.reader.first_place(MATCHES) == NOW + 3
    monkeypatch.setattr(limits, "BLOCK_BYTES", 1)
    store.writer.write([match(9)], NOW)
    monkeypatch.undo()
    store.writer.write([match(10)], NOW)

    assert store.reader.first_place(MATCHES) == NOW + 3
    assert store.reader.extents() == {
        MATCHES: PastExtent(NOW + 3, NOW + 11, NOW + 3, NOW + 11, 3),  # a gap has a place too
        ETH: PastExtent(NOW + 4, NOW + 4, NOW + 4, NOW + 4, 1),
    }


def test_the_newest_snapshot_before_a_place_is_found(store, monkeypatch):
    """Sealed or not; from there a book can be built."""
    at = [NOW + SECOND * n for n in range(8)]
    monkeypatch.setattr(limits, "BLOCK_BYTES", 150)
    kinds = ["l2update", "snapshot", "l2update", "snapshot", "l2update", "snapshot", "l2update"]
    for place, kind in zip(at, kinds, strict=False):
        store.writer.write([bare(LEVEL2, "snapshot", place, kind)], place)
    assert {row[0] for row in store.rows("SELECT count FROM block")} == {3}
    assert store.rows("SELECT count(*) FROM open") == [(1,)]

    def find(topic, place):
        found = store.reader.snapshot_before(topic, place)
        assert found is None or found.type == "snapshot"
        return None if found is None else found.id

    expected = [None, at[1], at[1], at[3], at[3], at[5], at[5], at[5]]
    assert [find(LEVEL2, place) for place in at] == expected
    assert find(LEVEL2, at[3] - 1) == at[1]
    monkeypatch.undo()
    store.writer.write([bare(LEVEL2, "", at[7], "snapshot")], at[7])
    assert find(LEVEL2, at[7]) == at[7]
    assert find(LEVEL2, at[7] - 1) == at[5]


def test_trades_that_were_fetched_are_read_by_their_numbers(store):
    """In order, each once, and only those of the product."""
    trades = [{"trade_id": n, "price": "1", "time": "1970-01-01T00:00:00Z"} for n in (4, 2, 4, 9)]
    store.writer.keep_trades(BTC, trades)
    store.writer.keep_trades("ETH-USD", trades[:1])
    store.writer.keep_trades(BTC, [{**trades[0], "price": "2"}])

    assert store.reader.trades(BTC, 2, 4) == {
        2: b'{"trade_id":2,"price":"1","time":"1970-01-01T00:00:00Z"}',
        4: b'{"trade_id":4,"price":"1","time":"1970-01-01T00:00:00Z"}',
    }
    assert store.reader.trades(BTC, 5, 8) == {}


def test_trades_that_came_in_time_are_among_them(store, monkeypatch):
    """In blocks, in rows, and what was fetched between them."""
    monkeypatch.setattr(limits, "BLOCK_BYTES", 200)
    store.writer.write([match(n) for n in (1, 2, 3, 4, 5, 8, 9)], NOW)
    store.writer.keep_trades(BTC, [{"trade_id": n, "time": ""} for n in (5, 6)])

    assert sorted(store.reader.trades(BTC, 2, 8)) == [2, 3, 4, 5, 6, 8]
    assert store.reader.trades(BTC, 5, 5) == {5: match(5).payload}


def test_a_store_that_is_not_there_cannot_be_read(tmp_path):
    """Before the first writer has made it."""
    with pytest.raises(StoreError, match="unable to open") as caught:
        Reader(tmp_path)
    assert not isinstance(caught.value, CorruptStore)
    assert list(tmp_path.iterdir()) == []


def test_reading_disturbs_nothing(store):
    """A reader is another process, which has no business with the file."""
    store.writer.write([match(1)], NOW)
    for statement in ("DELETE FROM open", "CREATE TABLE x (y)"):
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            store.reader._connection.execute(statement)


def test_one_page_is_one_state_of_the_store(store, monkeypatch):
    """Sealing moves messages from one table to the other; they must be in one of them."""
    store.writer.write([match(1), match(2)], NOW)
    store.reader.page([MATCHES], -1)
    open_rows = store.reader._open_rows

    def late(*arguments):
        store.writer.write([match(3)], NOW + 3600 * SECOND)  # seals
        return open_rows(*arguments)

    monkeypatch.setattr(store.reader, "_open_rows", late)
    page = store.reader.page([MATCHES], -1)

    assert [message.trade_id for message in page.messages] == [1, 2]
    assert store.rows("SELECT count(*) FROM open") == [(0,)]


def test_an_error_that_ended_the_transaction_is_the_one_that_is_told(store):
    """Not that there was nothing to end any more; and the next question is answered."""
    store.writer.write([match(1)], NOW)
    with pytest.raises(StoreError, match="disk I/O error"), store.reader._reading() as execute:
        execute("ROLLBACK")
        raise sqlite3.OperationalError("disk I/O error")

    assert store.reader.first_place(MATCHES) == NOW + 1


TOPICS = [TICKER, MATCHES, FULL, LEVEL2, LEVEL3, HEARTBEAT, ETH]
DENSE = {MATCHES, FULL, LEVEL3, ETH}
SOME_TOPICS = st.sets(st.sampled_from(TOPICS), min_size=1)


class History(RuleBasedStateMachine):
    """What is written, by one writer after the other, and a model of what is to be found."""

    def __init__(self):
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(limits, "BLOCK_BYTES", 400)
        self.patch.setattr(limits, "HISTORY_PAGE_MESSAGES_MAX", 5)
        self.patch.setattr(limits, "HISTORY_CACHE_BYTES_MAX", 5000)
        self.folder = tempfile.TemporaryDirectory()
        self.store = Store(Path(self.folder.name))
        self.now = NOW
        self.kept = []  # entries
        self.missing = []  # (topic, first, last), where the next of the topic was kept
        self.numbers = dict.fromkeys(TOPICS, 0)
        self.found = None

    def teardown(self):
        self.store.close()
        self.folder.cleanup()
        self.patch.undo()

    def next_of(self, topic, skipped, size):
        """Return the next message of a topic; ``skipped`` numbers before it are missing."""
        count = self.numbers[topic] + 1 + skipped
        if topic in DENSE and skipped and self.numbers[topic]:
            self.missing.append((topic, self.numbers[topic] + 1, count - 1))
        self.numbers[topic] = count
        if topic.channel == "matches":
            return match(count, self.now, topic, size)
        if topic.channel in {"level2", "heartbeat"}:
            kind = "snapshot" if topic.channel == "level2" and not count % 3 else "l2update"
            return bare(topic, count, self.now, kind)
        return numbered(topic, count, self.now)

    @rule(
        batch=st.lists(
            st.tuples(
                st.sampled_from(TOPICS), st.sampled_from([0, 0, 0, 1, 7]), st.sampled_from([1, 500])
            ),
            max_size=12,
        ),
        us=st.integers(0, 2),
    )
    def comes(self, batch, us):
        entries = []
        for topic, skipped, size in batch:
            entries.append(self.next_of(topic, skipped, size))
            self.now += us
        assert self.store.writer.write(entries, self.now) == len(entries)
        self.kept += entries
        self.found = None

    @rule(seconds=st.sampled_from([1, 9, 10, 100]))
    def time_passes(self, seconds):
        self.now += seconds * SECOND

    # What another has just begun with it tells from what was kept before by time alone.
    @precondition(lambda self: not {LEVEL2, HEARTBEAT} & self.store.writer._late)
    @rule(seconds=st.integers(1, 30))
    def the_clock_steps_back(self, seconds):
        self.now -= seconds * SECOND

    @rule(repeats=st.integers(0, 20), cut=st.integers(1, 20), late_us=st.sampled_from([0, SECOND]))
    def another_writes(self, repeats, cut, late_us):
        """It has the last of what came on its tape too, some of it later than the first had it.

        Messages without numbers cannot be told apart unless they came at the same time.
        """
        writer = self.store.reopen()
        self.now = max(self.now, writer.last_place + 1)
        again = self.kept[len(self.kept) - min(repeats, len(self.kept)) :]
        again = [
            e if e.sequence is None else e._replace(received_us=e.received_us + late_us)
            for e in again
        ]
        for begin in range(0, len(again), cut):
            assert writer.write(again[begin : begin + cut], self.now) == 0

    @rule(topic=st.sampled_from([TICKER, LEVEL2]))
    def a_hole_is_told(self, topic):
        kind = "seam" if topic == LEVEL2 else "missing"
        self.store.writer.write([Hole(topic, kind, at_us=self.now)], self.now)
        assert self.store.rows("SELECT max(place) FROM gap")[0][0] == self.store.writer.last_place

    @invariant()
    def places_only_rise(self):
        if self.found is None and self.kept:
            self.found, _ = read_all(self.store.reader, TOPICS)
            places = [message.received_us for message in self.found]
            assert [(e.topic, e.payload) for e in self.kept] == [
                (m.topic, m.payload) for m in self.found
            ]
            assert all(a < b for a, b in pairwise(places))
            assert all(p >= e.received_us for p, e in zip(places, self.kept, strict=True))

    @precondition(lambda self: self.kept)
    @rule(topics=SOME_TOPICS, data=st.data())
    def pages_from_anywhere_give_what_follows(self, topics, data):
        places = [-1, *(message.received_us for message in self.found)]
        after = data.draw(st.sampled_from(places)) + data.draw(st.sampled_from([-1, 0, 1]))
        messages, _ = read_all(self.store.reader, topics, after)

        assert [m.payload for m in self.found if m.topic in topics and m.received_us > after] == [
            m.payload for m in messages
        ]

    @precondition(lambda self: self.kept)
    @rule(topics=SOME_TOPICS, data=st.data())
    def pages_back_from_anywhere_give_what_came_before(self, topics, data):
        places = [NEVER_US, *(message.received_us for message in self.found)]
        before = data.draw(st.sampled_from(places)) + data.draw(st.sampled_from([-1, 0, 1]))
        messages, gaps = read_all_back(self.store.reader, topics, before)
        _, all_gaps = read_all(self.store.reader, topics)

        assert [m.payload for m in self.found if m.topic in topics and m.received_us < before] == [
            m.payload for m in reversed(messages)
        ]
        newest = max((m.received_us for m in self.found if m.topic in topics), default=-1)
        gaps = [gap for gap in gaps if gap.place <= newest]  # a page forwards ends there
        assert [gap for gap in all_gaps if gap.place < before][::-1] == gaps

    @precondition(lambda self: self.kept)
    @rule(topic=st.sampled_from(TOPICS), sequence=st.integers(0, 1500))
    def the_newest_up_to_a_number_is_found(self, topic, sequence):
        numbers = [(m.sequence, m.received_us) for m in self.found if m.topic == topic]
        numbers = [each for each in numbers if each[0] is not None]
        at = bisect.bisect_right(numbers, (sequence, NOW**2)) - 1
        expected = numbers[at][::-1] if at >= 0 else None

        assert expected == self.store.reader.find(topic, sequence)

    @precondition(lambda self: self.kept)
    @rule()
    def missing_numbers_are_written_down_where_they_are_missing(self):
        _, gaps = read_all(self.store.reader, TOPICS)
        found = [(g.topic, g.first, g.last) for g in gaps if g.first is not None]
        assert self.missing == found
        key = {"matches": lambda m: m.trade_id}
        for gap in gaps:
            if gap.first is None:
                continue
            number = key.get(gap.topic.channel, lambda m: m.sequence)
            of_topic = [m for m in self.found if m.topic == gap.topic]
            before = [number(m) for m in of_topic if m.received_us < gap.place]
            behind = [number(m) for m in of_topic if m.received_us > gap.place]
            assert (before[-1], behind[0]) == (gap.first - 1, gap.last + 1)

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def what_is_kept_is_told(self, data):
        places = {t: [m.received_us for m in self.found if m.topic == t] for t in TOPICS}
        reader = self.store.reader
        assert reader.extents() == {
            topic: PastExtent(of[0], of[-1], of[0], of[-1], len(of))
            for topic, of in places.items()
            if of
        }
        assert {t: reader.first_place(t) for t in TOPICS} == {
            topic: of[0] if of else None for topic, of in places.items()
        }
        place = data.draw(st.sampled_from(self.found)).received_us
        snapshots = [m.received_us for m in self.found if m.type == "snapshot"]
        expected = max((p for p in snapshots if p <= place), default=None)
        found = reader.snapshot_before(LEVEL2, place)
        assert expected == (None if found is None else found.id)
        assert {t: self.store.writer.last_sequence(t) for t in TOPICS} == {
            t: next((m.sequence for m in reversed(self.found) if m.topic == t), None)
            for t in TOPICS
        }


History.TestCase.settings = settings(max_examples=60, stateful_step_count=25)
test_all_that_was_kept_is_read_once = History.TestCase
