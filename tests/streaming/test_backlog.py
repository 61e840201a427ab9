"""The backlog: for any sizes that the socket accepts, stream, counts and budget are right.

The model at the end covers all of it; the tests before it state single facts.
"""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.domain.channel import Topic
from hedgehogd.engine.budget import HOLD_BYTES, Budget
from hedgehogd.engine.chunk import Chunk
from hedgehogd.engine.memory import weight
from hedgehogd.streaming.backlog import Backlog
from tests.fakes import make_message

TICKER, OTHER, MATCHES, BOOK, BATCH = (
    Topic("ticker", "BTC-USD"),
    Topic("ticker", "ETH-USD"),
    Topic("matches", "BTC-USD"),
    Topic("level2", "BTC-USD"),
    Topic("level2_batch", "BTC-USD"),
)


def make_chunk(*pieces, topics=(), first_offset=1, keeps=False):
    """Return a chunk of ``pieces``; a piece without an entry in ``topics`` is ticker:BTC-USD.

    It ``keeps`` its messages when they are not live, because they are not on the tape.
    """
    topics = [*topics, *[TICKER] * (len(pieces) - len(topics))]
    messages = [make_message(*topic) for topic in topics]
    offsets = list(range(first_offset, first_offset + len(pieces)))
    return Chunk(list(pieces), messages, offsets, keeps * sum(map(weight, messages)))


def backlog_of(*chunks, sent=0):
    """Return a backlog of ``chunks``, put one per second; ``sent`` bytes of the first are sent."""
    backlog = Backlog(Budget().account(lambda: None))
    for second, chunk in enumerate(chunks):
        backlog.put(chunk, 0 if second else sent, float(second))
    return backlog


def drain(backlog):
    """Send the whole backlog to a socket that accepts all bytes."""
    stream = b""
    while backlog:
        data = bytes(backlog.next())
        stream += data
        backlog.sent(len(data))
    return stream


def test_an_empty_backlog_has_nothing_to_send():
    """The flush task ends then."""
    backlog = Backlog(Budget().account(lambda: None))

    assert not backlog
    assert backlog.next() == b""
    assert (backlog.oldest_since(), backlog.delivered_to(), backlog.drop()) == (None, None, 0)
    assert backlog.conflate({TICKER}, set()) == {}


def test_waiting_bytes_are_sent_in_order():
    """The socket accepts three bytes at a time."""
    backlog = backlog_of(make_chunk(b"one ", b"two "), make_chunk(b"three"), sent=2)
    stream = b""
    while backlog:
        stream += bytes(backlog.next()[:3])
        backlog.sent(min(3, len(backlog.next())))

    assert stream == b"e two three"


def test_waiting_bytes_are_shared_not_copied():
    """A thousand slow subscribers of one cohort hold its bytes once."""
    chunk = make_chunk(b"one", b"two")

    assert backlog_of(chunk, sent=3).next().obj is chunk.data


def test_control_bytes_precede_waiting_data_but_never_split_a_piece():
    """A pong within a frame would end the connection with a protocol error."""
    backlog = backlog_of(make_chunk(b"one ", b"two "), make_chunk(b"three "), sent=1)
    backlog.put_control(b"PONG ")
    assert backlog.next() == b"ne "
    backlog.sent(1)
    backlog.put_control(b"ACK ")

    assert drain(backlog) == b"e PONG ACK two three "


def test_control_bytes_in_flight_are_finished_first():
    """The socket accepted half of an acknowledgement before the data was put."""
    backlog = Backlog(Budget().account(lambda: None))
    backlog.put_control(b"ANSWER ", 3)
    assert backlog.control_bytes == 4
    backlog.put(make_chunk(b"one "), 0, 0.0)
    backlog.put_control(b"PONG ")
    backlog.sent(1)

    assert backlog.control_bytes == 8
    assert drain(backlog) == b"ER PONG one "
    assert (backlog.bytes, backlog.control_bytes) == (0, 0)


def test_messages_count_as_delivered_when_they_are_complete():
    """A message that the peer has in part only is not delivered."""
    backlog = Backlog(Budget().account(lambda: None))

    assert backlog.put(make_chunk(b"one", b"two", b"three"), 7, 0.0) == 2
    assert [backlog.sent(count) for count in (3, 1)] == [0, 1]
    assert not backlog


def test_the_age_is_that_of_the_oldest_waiting_data():
    """The bound of age applies to the message that the subscriber would receive next."""
    backlog = backlog_of(make_chunk(b"one"), make_chunk(b"two"))
    assert backlog.oldest_since() == 0.0
    backlog.sent(3)
    backlog.put_control(b"PONG")

    assert backlog.oldest_since() == 1.0


def test_a_position_counts_the_piece_in_flight_as_delivered():
    """It is finished before any farewell; a position without it would deliver it twice."""
    backlog = backlog_of(make_chunk(b"one", b"two"), make_chunk(b"four", first_offset=4))
    found = []
    for _ in range(10):
        found.append(backlog.delivered_to())
        backlog.sent(1)

    # 3 is the offset before "four": the messages between belong to other topics.
    assert found == [0, 1, 1, 1, 3, 3, 3, None, None, None]


def test_waiting_messages_are_those_that_have_not_begun():
    """A catch-up computes its progress from them."""
    one, two = make_chunk(b"one", b"two"), make_chunk(b"four", first_offset=4)
    backlog = backlog_of(one, two)
    found = []
    for _ in range(10):
        found.append(list(backlog.waiting()))
        backlog.sent(1)

    everything = [*one.messages, *two.messages]
    assert [everything[3 - len(each) :] for each in found] == found
    assert [len(each) for each in found] == [3, 2, 2, 2, 1, 1, 1, 0, 0, 0]


def test_dropping_finishes_the_piece_in_flight():
    """The farewell must follow whole frames."""
    backlog = backlog_of(make_chunk(b"one ", b"two "), make_chunk(b"three "), sent=1)
    assert backlog.drop() == 2
    backlog.put_control(b"BYE ")

    assert (backlog.bytes, backlog.control_bytes, backlog.oldest_since()) == (0, 7, None)
    assert drain(backlog) == b"ne BYE "


def test_dropping_between_pieces_drops_everything():
    """No piece is in flight, so none has to be finished."""
    backlog = backlog_of(make_chunk(b"one ", b"two "), sent=4)

    assert backlog.drop() == 1
    assert not backlog


def test_conflation_keeps_the_newest_of_each_topic_and_all_other_topics():
    """A slow page needs the present price; a trade is never dropped."""
    backlog = backlog_of(
        make_chunk(b"t1 ", b"m1 ", b"t2 ", topics=[TICKER, MATCHES, TICKER]),
        make_chunk(b"o1 ", b"m2 ", topics=[OTHER, MATCHES]),
        make_chunk(b"t3 ", b"o2 ", b"t4 ", topics=[TICKER, OTHER, TICKER]),
    )
    skipped = backlog.conflate({TICKER}, set())

    assert skipped == {TICKER: 3}
    assert backlog.bytes == 15
    assert drain(backlog) == b"m1 o1 m2 o2 t4 "


def test_conflation_leaves_the_piece_in_flight():
    """Its first bytes are sent, so it cannot be dropped."""
    chunks = make_chunk(b"t1 ", b"t2 ", b"t3 "), make_chunk(b"t4 ", first_offset=4)
    backlog = backlog_of(*chunks, sent=4)

    assert backlog.conflate({TICKER}, set()) == {TICKER: 1}
    assert (backlog.bytes, backlog.delivered_to()) == (5, 3)
    assert drain(backlog) == b"2 t4 "


def test_conflation_without_superseded_messages_changes_nothing():
    """In that case the bound is exceeded by messages that may not be conflated."""
    chunk = make_chunk(b"m1 ", b"m2 ", b"t1 ", topics=[MATCHES, MATCHES, TICKER])
    backlog = backlog_of(chunk, sent=4)

    assert backlog.conflate({TICKER}, set()) == {}
    assert backlog.next() == b"2 "
    assert drain(backlog) == b"2 t1 "


def test_conflation_drops_all_waiting_messages_of_a_book():
    """A fresh snapshot replaces them; the newest update alone would make the book wrong."""
    backlog = backlog_of(
        make_chunk(b"b1 ", b"t1 ", b"b2 ", topics=[BOOK, TICKER, BOOK]),
        make_chunk(b"b3 ", topics=[BOOK]),
        make_chunk(b"b4 ", b"t2 ", topics=[BOOK, TICKER]),
        sent=1,
    )

    assert backlog.conflate({TICKER}, {BOOK}) == {BOOK: 3, TICKER: 1}
    assert backlog.bytes == 5
    assert drain(backlog) == b"1 t2 "


def test_a_message_of_two_topics_is_dropped_by_the_subscribed_one():
    """A snapshot of level2 is a snapshot of level2_batch too."""
    chunk = make_chunk(b"s1 ", b"u1 ", b"m1 ", topics=[BOOK, BATCH, Topic("full", "BTC-USD")])
    chunk.messages[0].also, chunk.messages[2].also = BATCH, MATCHES
    backlog = backlog_of(chunk)

    assert backlog.conflate(set(), {BATCH}) == {BATCH: 2}
    assert drain(backlog) == b"m1 "


class Piece:
    """One message or control frame of the model: a mark, its number, a length, its bytes."""

    def __init__(self, number, size, topic=None, since=None, offset=None):
        mark = b"C" if topic is None else b"D"
        self.bytes = b"%b%03d%03d%b" % (mark, number, size, b"." * size)
        self.number, self.topic, self.since, self.offset = number, topic, since, offset


class Model:
    """A backlog and its model: a piece in flight, and a queue each for control bytes and data."""

    def __init__(self):
        self.backlog = Backlog(Budget().account(lambda: None))
        self.begun = None  # the piece in flight ...
        self.rest = b""  # ... and its unsent rest
        self.is_orphan = False  # it is the rest of dropped data
        self.control = []
        self.data = []
        self.stream = b""
        self.numbers = {"data": 0, "control": 0}
        self.offset = 0
        self.now = 0
        self.gone = Counter()

    def put(self, specs, sent):
        """Put a chunk; the socket accepts a share of it first if the backlog is empty."""
        pieces = []
        for topic, size, jump in specs:
            self.numbers["data"] += 1
            self.offset += jump
            pieces.append(Piece(self.numbers["data"], size, topic, self.now, self.offset))
        was_empty = not self.backlog
        chunk = Chunk(
            [piece.bytes for piece in pieces],
            [make_message(*piece.topic) for piece in pieces],
            [piece.offset for piece in pieces],
        )
        self.data += pieces
        count = int(sent * (chunk.size - 1)) if was_empty else 0
        assert self.backlog.put(chunk, count, self.now) == self.take(count)

    def put_control(self, size, sent):
        self.numbers["control"] += 1
        piece = Piece(self.numbers["control"], size)
        count = 0 if self.backlog else int(sent * (len(piece.bytes) - 1))
        self.control.append(piece)
        self.take(count)
        self.backlog.put_control(piece.bytes, count)

    def send(self, share):
        """Send: the socket accepts a share of the offered bytes."""
        offered = bytes(self.backlog.next())
        count = int(share * len(offered))
        before = self.stream
        completed = self.take(count)
        assert self.stream == before + offered[:count]
        if offered:
            assert self.backlog.sent(count) == completed
        else:
            assert not self.backlog

    def take(self, count):
        """Move ``count`` bytes to the stream; return the number of completed messages."""
        completed = 0
        while count:
            if not self.rest:
                self.begun = (self.control or self.data).pop(0)
                self.rest = self.begun.bytes
                self.is_orphan = False
            taken, self.rest = self.rest[:count], self.rest[count:]
            self.stream += taken
            count -= len(taken)
            completed += not self.rest and self.begun.topic is not None and not self.is_orphan
        return completed

    def drop(self):
        assert self.backlog.drop() == len(self.data)
        self.gone.update(piece.number for piece in self.data)
        self.data.clear()
        self.is_orphan = True

    def conflate(self, topics, books):
        topics = topics - books
        newest = {piece.topic: piece for piece in self.data}
        dropped = [
            piece
            for piece in self.data
            if piece.topic in books or (piece.topic in topics and piece is not newest[piece.topic])
        ]
        skipped = self.backlog.conflate(topics, books)
        assert skipped == Counter(piece.topic for piece in dropped)
        self.gone.update(piece.number for piece in dropped)
        self.data = [piece for piece in self.data if piece not in dropped]

    def check(self):
        """Compare all public results of the backlog with the model."""
        backlog = self.backlog
        is_data = bool(self.rest) and self.begun.topic is not None and not self.is_orphan
        waiting = [self.begun, *self.data] if is_data else self.data
        rest_of_data = len(self.rest) if is_data else 0
        rest_of_control = len(self.rest) - rest_of_data
        assert backlog.bytes == rest_of_data + sum(len(piece.bytes) for piece in self.data)
        control = sum(len(piece.bytes) for piece in self.control)
        assert backlog.control_bytes == rest_of_control + control
        assert bool(backlog) == bool(self.rest or self.control or self.data)
        assert backlog.oldest_since() == (waiting[0].since if waiting else None)
        assert backlog.delivered_to() == (self.data[0].offset - 1 if self.data else None)


def parse(stream):
    """Split a stream into its pieces: mark and number of each, in order."""
    found = []
    while stream:
        mark, number, size = stream[:1], int(stream[1:4]), int(stream[4:7])
        assert stream[7 : 7 + size] == b"." * size
        found.append((mark, number))
        stream = stream[7 + size :]
    return found


def begun_count(model):
    """Return the number of pieces that have begun: they are finished even if data is dropped."""
    return model.numbers["data"] - len(model.data)


TOPICS = st.sampled_from([TICKER, MATCHES, BOOK])
SIZES = st.integers(min_value=0, max_value=20)
SHARES = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
SPECS = st.lists(st.tuples(TOPICS, SIZES, st.integers(1, 3)), min_size=1, max_size=5)
STEPS = st.one_of(
    st.tuples(st.just("put"), SPECS, SHARES),
    st.tuples(st.just("put_control"), SIZES, SHARES),
    st.tuples(st.just("send"), SHARES),
    st.tuples(st.just("send"), SHARES),
    st.tuples(st.just("conflate"), st.sets(TOPICS, min_size=1), st.sets(TOPICS)),
    st.tuples(st.just("drop")),
)


@given(st.lists(STEPS, min_size=3, max_size=40))
def test_any_stream_is_complete_in_order_and_accounted_for(steps):
    """Every byte has its place, and every count is right after every step."""
    model = Model()
    for name, *arguments in steps:
        model.now += 1
        getattr(model, name)(*arguments)
        model.check()
    while model.backlog:
        model.send(1.0)
        model.check()

    found = parse(model.stream)
    data = [number for mark, number in found if mark == b"D"]
    control = [number for mark, number in found if mark == b"C"]
    assert control == list(range(1, model.numbers["control"] + 1))
    assert data == [n for n in range(1, model.numbers["data"] + 1) if n not in model.gone]


@given(SPECS, SPECS, st.sets(TOPICS), st.sets(TOPICS), SHARES)
def test_a_conflated_topic_ends_at_its_newest_and_other_topics_are_unchanged(
    first, second, topics, books, sent
):
    """A slow subscriber gets the right messages, and the dropped ones are counted."""
    model = Model()
    model.put(first, sent)
    begun = begun_count(model)
    model.put(second, 0.0)
    skipped = model.backlog.conflate(topics - books, books)
    kept = [number for _, number in parse(model.stream + drain(model.backlog))]

    all_topics = [topic for topic, _, _ in first + second]
    assert kept == sorted(kept)
    for topic in set(all_topics):
        numbers = [number for number, its in enumerate(all_topics, 1) if its == topic]
        left = [number for number in numbers if number in kept]
        if topic in books:
            assert left == [number for number in numbers if number <= begun]
        else:
            assert left[-1] == numbers[-1]
            assert topic in topics or left == numbers
        assert skipped[topic] == len(numbers) - len(left)


@pytest.mark.parametrize("keeps", [False, True])
def test_conflation_frees_the_memory_of_the_messages_that_it_drops(keeps):
    """One remaining message of hundreds is charged alone if the chunk holds its messages."""
    budget = Budget()
    backlog = Backlog(budget.account(lambda: None))
    chunk = make_chunk(*[b"t%03d " % n for n in range(300)], keeps=keeps)
    backlog.put(chunk, 0, 0.0)
    backlog.conflate({TICKER}, set())

    last = make_chunk(b"t299 ", keeps=keeps)
    assert last.kept_bytes == keeps * weight(last.messages[0])
    assert budget.bytes == last.weight() + HOLD_BYTES


def held(backlogs):
    """Return the memory that ``backlogs`` hold together, counted from the objects in them."""
    total, shared = 0, {}
    for backlog in backlogs:
        for waiting in backlog._data:
            chunk = waiting.chunk
            assert chunk.kept_bytes in (0, sum(map(weight, chunk.messages)))
            shared[id(chunk.data)] = chunk.weight()
            total += HOLD_BYTES
        total += sum(len(data) + HOLD_BYTES for data in backlog._control)
        if backlog._begun:
            total += len(backlog._begun.obj) + HOLD_BYTES
    return total + sum(shared.values())


class Peers:
    """Slow subscribers under one budget; the largest drops its whole backlog."""

    def __init__(self, count, bytes_max):
        self.budget = Budget(bytes_max)
        self.backlogs = []
        for _ in range(count):
            self.backlogs.append(Backlog(self.budget.account(self.end(len(self.backlogs)))))

    def end(self, number):
        """Return the function that frees a backlog, first with a farewell, as an outlet does."""
        has_ended = False

        def free():
            nonlocal has_ended
            backlog = self.backlogs[number]
            if has_ended:
                backlog.clear()
                return
            has_ended = True
            backlog.drop()
            backlog.put_control(b"farewell")

        return free

    def put(self, numbers, specs, sent, keeps):
        chunk = make_chunk(*(b"%d" % n * size for n, size in specs), keeps=keeps)
        for number in numbers:
            backlog = self.backlogs[number % len(self.backlogs)]
            backlog.put(chunk, 0 if backlog else int(sent * (chunk.size - 1)), 0.0)
            assert self.budget.bytes <= self.budget.bytes_max + chunk.weight() + HOLD_BYTES
            self.budget.relieve()

    def put_control(self, number, size, sent):
        backlog = self.backlogs[number % len(self.backlogs)]
        backlog.put_control(b"c" * size, 0 if backlog else int(sent * (size - 1)))
        self.budget.relieve()

    def send(self, number, share):
        backlog = self.backlogs[number % len(self.backlogs)]
        if offered := backlog.next():
            backlog.sent(int(share * len(offered)))

    def conflate(self, number):
        self.backlogs[number % len(self.backlogs)].conflate({TICKER}, set())
        self.relieve()

    def drop(self, number):
        self.backlogs[number % len(self.backlogs)].drop()
        self.relieve()

    def relieve(self):
        """Enforce the bound after a message was copied out of a shared chunk."""
        assert self.budget.bytes <= self.budget.bytes_max + 3 * 900 + 1000
        self.budget.relieve()

    def clear(self, number):
        self.backlogs[number % len(self.backlogs)].clear()


NUMBERS = st.integers(0, 3)
PEER_STEPS = st.one_of(
    st.tuples(
        st.just("put"),
        st.lists(NUMBERS, min_size=1, max_size=4, unique=True),
        # From 2 bytes: CPython shares each bytes object of one byte, so chunks would share it too.
        st.lists(st.tuples(st.integers(0, 9), st.integers(2, 900)), min_size=1, max_size=3),
        SHARES,
        st.booleans(),
    ),
    st.tuples(st.just("put_control"), NUMBERS, st.integers(1, 900), SHARES),
    st.tuples(st.just("send"), NUMBERS, SHARES),
    st.tuples(st.just("conflate"), NUMBERS),
    st.tuples(st.just("drop"), NUMBERS),
    st.tuples(st.just("clear"), NUMBERS),
)


@given(st.lists(PEER_STEPS, min_size=3, max_size=40), st.sampled_from([4000, 10_000, 10**6]))
def test_the_budget_equals_the_memory_of_all_backlogs_and_keeps_its_bound(steps, bytes_max):
    """This holds for any order of writes, sends, conflations and closes."""
    peers = Peers(4, bytes_max)
    for name, *arguments in steps:
        getattr(peers, name)(*arguments)
        assert peers.budget.bytes == held(peers.backlogs)
        assert peers.budget.bytes <= bytes_max
        for account, backlog in zip(
            (b._account for b in peers.backlogs), peers.backlogs, strict=True
        ):
            assert (account in peers.budget.accounts) == bool(backlog)
    for backlog in peers.backlogs:
        backlog.clear()
    assert (peers.budget.bytes, peers.budget.shared, peers.budget.accounts) == (0, {}, {})


def test_a_waiting_chunk_holds_its_bytes_once():
    """The pieces of an SSE chunk are copies, which would double the memory of a slow reader."""
    chunk = make_chunk(b"one", b"two")
    backlog_of(chunk)

    assert (chunk.data, list(chunk.ends), chunk.pieces) == (b"onetwo", [3, 6], ())


def test_dropping_frees_a_chunk_whose_piece_is_in_flight():
    """The rest of one piece must not keep the megabyte after it in memory."""
    backlog = backlog_of(make_chunk(b"one ", b"x" * 1000), sent=1)
    backlog.drop()

    assert bytes(backlog.next().obj) == b"ne "
