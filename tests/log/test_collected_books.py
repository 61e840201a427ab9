"""Books: a snapshot and updates, applied when a book is needed."""

import json

from hedgehogd.domain.channel import LEVEL2
from hedgehogd.domain.message import Message
from hedgehogd.log import collected_books as module
from hedgehogd.log.collected_books import Books

TOPIC = LEVEL2.topic("BTC-USD")


def snapshot(*bids, us=5):
    payload = json.dumps({"type": "snapshot", "bids": bids, "asks": []}).encode()
    return Message(TOPIC, "snapshot", b"", payload, received_us=us)


def update(*changes, time="t", us=6):
    fields = {"type": "l2update", "changes": [["buy", *each] for each in changes], "time": time}
    return Message(TOPIC, "l2update", b"", json.dumps(fields).encode(), received_us=us)


def state(books):
    return [(json.loads(m.payload)["bids"], m.received_us) for m in books.snapshots()]


def test_a_book_is_its_snapshot_and_the_updates_after_it():
    """The newest change of a price wins, in any spelling; a size of zero removes it."""
    books = Books()
    books.follow(TOPIC, update(["9", "9"]))  # before a snapshot
    assert state(books) == []
    books.follow(TOPIC, snapshot(["1", "1"], ["2", "1"]))
    books.follow(TOPIC, update(["1", "4"], ["2", "0"], ["3", "5"]))
    books.follow(TOPIC, update(["1.0", "6"], ["1", "7"], us=8))

    assert state(books) == [([["3", "5"], ["1", "7"]], 8)]
    books.follow(TOPIC, update(["1", "8"], ["1.0", "9"], us=9))
    assert state(books) == [([["3", "5"], ["1.0", "9"]], 9)]


def test_a_new_snapshot_and_a_new_start_end_the_book_before():
    """None of its levels stays."""
    books = Books()
    books.follow(TOPIC, snapshot(["1", "1"]))
    books.follow(TOPIC, snapshot(["2", "2"], us=7))
    assert state(books) == [([["2", "2"]], 7)]
    books.end(TOPIC)
    books.end(TOPIC)
    books.follow(TOPIC, update(["1", "1"]))
    assert state(books) == []


def test_the_time_is_that_of_the_last_update():
    """The year one is no time (COINBASE §6.6)."""
    books = Books()
    books.follow(TOPIC, snapshot())
    for time in ("t1", "", "0001-01-01T00:00:00Z"):
        books.follow(TOPIC, update(time=time))
    (message,) = books.snapshots()

    assert json.loads(message.payload)["time"] == "t1"
    assert (message.topic, message.type) == (TOPIC, "snapshot")


def test_unreadable_messages_change_nothing():
    """An unreadable snapshot is no book; an unreadable change is none."""
    books = Books()
    books.follow(TOPIC, Message(TOPIC, "snapshot", b"", b"[]"))
    books.follow(TOPIC, update(["1", "1"]))
    assert state(books) == []
    books.follow(TOPIC, snapshot(["1", "1"]))
    books.follow(TOPIC, Message(TOPIC, "l2update", b"", b"[]"))
    books.follow(TOPIC, update(["2"], ["3", "3"]))
    assert state(books) == [([["3", "3"], ["1", "1"]], 6)]


def test_collected_changes_are_bounded(monkeypatch):
    """A book that gets ever new prices is applied in between."""
    monkeypatch.setattr(module, "_CHANGES_MAX", 3)
    books = Books()
    books.follow(TOPIC, snapshot())
    for price in range(1, 10):
        books.follow(TOPIC, update([str(price), "1"]))
    assert len(books._books[TOPIC].changes) <= 3
    assert [len(bids) for bids, _ in state(books)] == [9]
