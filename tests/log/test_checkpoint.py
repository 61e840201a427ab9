"""The books at one id of the log, made from its records."""

import json

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message
from hedgehogd.domain.record import FeedRecord, GapRecord
from hedgehogd.log.checkpoint import Checkpoint
from hedgehogd.protocol.frames import encode_text
from tests.fakes import make_message

LEVEL2, BATCH = Topic("level2", "BTC-USD"), Topic("level2_batch", "BTC-USD")
TIME = "2026-01-31T12:00:00.000000Z"


def snapshot(also=None, **sides):
    return make_message("level2", kind="snapshot", also=also, **({"bids": [], "asks": []} | sides))


def update(*changes, **more):
    return make_message("level2", changes=changes, **more)


def bodies(books):
    return [(message.topic, json.loads(message.payload)) for message in books.snapshots()]


def test_a_book_is_its_snapshot_and_the_changes_after_it():
    """A segment that begins here continues with the next change."""
    books = Checkpoint()
    for message in [
        update(["buy", "9", "9"]), snapshot(bids=[["1", "2"]], asks=[["3", "4"]]),
        update(["buy", "1", "0"], ["sell", "5", "6"], time=TIME), make_message("ticker"),
    ]:  # fmt: skip
        books.follow(message)
    (message,) = books.snapshots()
    body = {"type": "snapshot", "product_id": "BTC-USD", "asks": [["3", "4"], ["5", "6"]],
        "bids": [], "time": TIME}  # fmt: skip

    assert body == json.loads(message.payload)
    assert ("snapshot", LEVEL2, encode_text(message.payload)) == (
        message.type, message.topic, message.frame
    )  # fmt: skip


def test_only_chosen_topics_have_a_book():
    """A message may belong to two."""
    chosen, all_of_them = Checkpoint({BATCH}), Checkpoint()
    for books in (chosen, all_of_them):
        books.follow(snapshot(also=BATCH, bids=[["1", "2"]]))
        books.follow(update(["buy", "3", "4"]))

    assert [(BATCH, [["1", "2"]])] == [(topic, body["bids"]) for topic, body in bodies(chosen)]
    assert [(LEVEL2, [["3", "4"], ["1", "2"]]), (BATCH, [["1", "2"]])] == [
        (topic, body["bids"]) for topic, body in bodies(all_of_them)
    ]


def test_an_unreadable_message_drops_its_book():
    """The next snapshot begins it again."""
    books = Checkpoint()
    bad = Message(LEVEL2, "l2update", b"", b"[")
    bad_snapshot = Message(LEVEL2, "snapshot", b"", b"{")
    for message in (bad, bad_snapshot):
        books.follow(snapshot())
        assert 1 == len(books)
        books.follow(message)
        assert 0 == len(books)
    books.follow(update(["buy", "1", "2"]))

    assert [] == bodies(books)
    books.follow(snapshot())
    assert [LEVEL2] == [topic for topic, _ in bodies(books)]
    books.clear()
    assert 0 == len(books)


def test_a_gap_drops_the_book_of_its_topic():
    """The changes after it are of another book."""
    books = Checkpoint()
    books.follow(snapshot(also=BATCH))
    for record in (FeedRecord("stale"), GapRecord(Topic("level2", "ETH-USD")), GapRecord(LEVEL2)):
        books.follow(record)
    books.follow(update(["buy", "1", "2"]))

    assert [BATCH] == [topic for topic, _ in bodies(books)]
