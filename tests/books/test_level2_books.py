"""Order books in step with the tape: changes removed from messages, and snapshots requested."""

import json
from itertools import pairwise

import pytest
import trio

from hedgehogd.books import level2_books as books_module
from hedgehogd.books.level2_books import Books
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.limits import AUCTION_SILENCE_S, RESYNC_AGAIN_S, RESYNC_REPAIRED_S
from hedgehogd.engine.delivery import Delivery
from hedgehogd.engine.demand import Demand
from hedgehogd.protocol.wire import WEBSOCKET_DEFLATE
from tests.fakes import make_message

BTC = "BTC-USD"
LEVEL2, BATCH = Topic("level2", BTC), Topic("level2_batch", BTC)
BIDS, ASKS = [["100", "1"], ["99.50", "2"]], [["101", "3"]]


def a_snapshot(channel="level2", bids=BIDS, asks=ASKS, **more):
    return make_message(channel, kind="snapshot", bids=bids, asks=asks, **more)


def an_update(*changes, channel="level2", **more):
    return make_message(channel, changes=list(changes), **more)


@pytest.fixture
def demand():
    return Demand(linger_s=1)


@pytest.fixture
def books(demand):
    return Books(demand)


async def begin(books, *more, channel="level2"):
    """Load a snapshot, follow it and the messages after it; return the messages to deliver."""
    snapshot = a_snapshot(channel)
    await books.load(snapshot)
    return books.follow([snapshot, *more])


def bids_of(books):
    return [list(row) for row in books.get(BTC).book.freeze().rows("buy")]


async def test_messages_of_the_exchange_are_delivered_unchanged(books):
    """Messages stay raw, and messages of other channels do not concern the books."""
    update, ticker = an_update(["buy", "100", "7"]), make_message("ticker")
    delivered = await begin(books, update, ticker)

    assert delivered[1] is update
    assert delivered[2] is ticker
    assert bids_of(books) == [["100", "7"], ["99.50", "2"]]
    assert len(books) == 1


@pytest.mark.parametrize(("channel", "also"), [("level2", "level2_batch"), ("level2_batch", None)])
async def test_a_snapshot_of_level2_serves_level2_batch_too(books, channel, also):
    """It is one message, sent once to subscribers of either channel."""
    snapshot = a_snapshot(channel, also=None if also else LEVEL2)
    books.begin_both(snapshot)

    assert snapshot.also == (Topic(also, BTC) if also else LEVEL2)


async def test_a_removal_of_a_level_that_does_not_exist_is_dropped(books):
    """Clients crash on it (COINBASE §6.6); the rest of its message stays, with all keys."""
    bare = an_update(["buy", "55", "0.00"])
    mixed = an_update(
        ["buy", "55", "0"], ["buy", "100", "0"], ["sell", "103", "4"], ["buy", "100", "0"],
        channel="level2_batch", also=LEVEL2, time="now",
    )  # fmt: skip
    delivered = await begin(books, bare, mixed)

    assert len(delivered) == 2
    trimmed = delivered[1]
    assert json.loads(trimmed.payload) == {
        **json.loads(mixed.payload),
        "changes": [["buy", "100", "0"], ["sell", "103", "4"]],
    }
    assert trimmed.frame.endswith(trimmed.payload)
    assert (trimmed.topic, trimmed.type, trimmed.also) == (BATCH, "l2update", LEVEL2)
    assert books.bare_removals == 3


@pytest.mark.parametrize(
    "rows",
    [[["buy", "1e99", "1"]], [["buy", "100", "9"], ["but", "99", "1"]], 7, [None], [["buy", "1"]]],
)
@pytest.mark.parametrize("gathers", [False, True])
async def test_an_unreadable_change_is_delivered_and_costs_itself(books, demand, rows, gathers):
    """The book applies the other changes; one new snapshot is requested, and no second one."""
    if gathers:
        demand.want([BATCH])
    message, good = make_message("level2", changes=rows), an_update(["buy", "98", "1"])
    delivered = await begin(books, message, good, message)

    assert delivered[1:] == [message, good, message]
    assert bids_of(books)[-1] == ["98", "1"]
    assert (books.resyncs, books.unreadable) == ({"bad_update": 1}, 2)
    assert demand.take_snapshots() == {LEVEL2, BATCH}
    assert books.withheld == {}  # the requested snapshot may repair both
    await begin(books, message)
    assert demand.take_snapshots() == frozenset()
    assert books.withheld == {"bad_update": 1}


FAULTS = {
    "bad_update": ([make_message("level2", changes=[None])], None),
    "crossed": ([an_update(["buy", "150", "1"])], None),
    "bad_rows": ([], a_snapshot(bids=[["0.-10000", "1"]])),
    "bad_snapshot": ([], a_snapshot(bids=None, asks=None)),
}


@pytest.mark.parametrize("reason", FAULTS)
async def test_a_book_that_stays_faulty_requests_again_after_pauses_that_grow(
    books, demand, autojump_clock, reason
):
    """No update of the product is needed for that: it may be quiet."""
    updates, snapshot = FAULTS[reason]

    async def answer():
        await (begin(books) if snapshot is None else books.load(snapshot))
        books.follow(updates)

    await answer()
    assert books.faulty == 0
    times = []
    for _ in range(2 * int(RESYNC_AGAIN_S)):
        books.watch()
        if demand.take_snapshots():
            times.append(trio.current_time())
            await answer()
            assert books.faulty == 1
        await trio.sleep(1)

    pauses = [round(b - a) for a, b in pairwise(times)]
    assert pauses == [120, 240, 480, 960, 1920]
    assert (books.resyncs, books.withheld) == ({reason: 6}, {reason: 6})
    await begin(books)  # a sound book withdraws its withheld request
    assert books.faulty == 0
    await trio.sleep(RESYNC_AGAIN_S)
    books.watch()
    assert books.resyncs == {reason: 6}


@pytest.mark.parametrize("ends_by", ["a fault", "a snapshot", "an auction"])
async def test_a_book_that_was_sound_for_a_while_has_no_old_pause(
    books, demand, autojump_clock, ends_by
):
    """A long fault made the pause an hour; the book was repaired, and its next fault is new."""
    crossing = an_update(["buy", "150", "1"])
    await begin(books, crossing)
    for _ in range(3600):
        books.watch()
        if demand.take_snapshots():
            await begin(books, crossing)
        await trio.sleep(1)
    await begin(books)
    requests = books.resyncs.total()
    await trio.sleep(RESYNC_REPAIRED_S)
    if ends_by == "a snapshot":
        await begin(books)
        await trio.sleep(RESYNC_REPAIRED_S / 2)
    if ends_by == "an auction":
        books.follow([make_message("auctionfeed", kind="auction"), crossing])
        assert books.resyncs.total() == requests
        await trio.sleep(AUCTION_SILENCE_S)
        books.watch()
    else:
        books.follow([crossing])
    assert books.resyncs.total() == requests + 1

    await begin(books, crossing)  # the first pause is a short one again
    await trio.sleep(RESYNC_REPAIRED_S)
    books.watch()
    assert books.resyncs.total() == requests + 2


async def test_all_faults_of_a_book_request_one_snapshot(books, demand, autojump_clock):
    """A new format makes rows of snapshots and of updates unreadable at once."""
    bad, odd = make_message("level2", changes=[None]), a_snapshot(bids=[["0.-10000", "1"], *BIDS])
    for _ in range(2):
        await books.load(odd)
        books.follow([odd, bad, an_update(["buy", "150", "1"])])
        assert books.resyncs.total() == 1
    await trio.sleep(RESYNC_REPAIRED_S)
    for _ in range(3):
        books.watch()
    assert books.resyncs.total() == 2


async def test_the_end_of_a_crossing_withdraws_no_other_fault(books, autojump_clock):
    """The book is still without an unreadable change."""
    crossing, uncrossing = an_update(["buy", "150", "1"]), an_update(["buy", "150", "0"])
    bad = make_message("level2", changes=[None])
    await begin(books, bad)
    await begin(books, bad, crossing, uncrossing)
    await trio.sleep(RESYNC_REPAIRED_S)
    books.watch()

    assert books.resyncs == {"bad_update": 2}


async def test_an_unreadable_change_in_an_auction_requests_a_snapshot(books, autojump_clock):
    """Only a crossing is no fault then."""
    bad, crossing = make_message("level2", changes=[None]), an_update(["buy", "150", "1"])
    books.is_in_auction = {BTC}.__contains__
    await begin(books, bad)
    await begin(books, crossing)
    assert books.faulty == 0
    books.follow([bad])
    assert books.faulty == 1
    await trio.sleep(RESYNC_REPAIRED_S)
    books.watch()

    assert books.resyncs == {"bad_update": 2}


@pytest.mark.parametrize("known_by", ["a message before", "a message after", "the list after"])
async def test_a_snapshot_that_is_crossed_in_an_auction_may_show_damage_after_it(
    books, autojump_clock, known_by
):
    """An update that ended the crossing may be missing; outside of an auction it is accepted."""
    auction, crossed = make_message("auctionfeed", kind="auction"), a_snapshot(bids=[["150", "1"]])
    if known_by == "a message before":
        books.follow([auction])
    await books.load(crossed)
    books.follow([crossed])
    if known_by == "a message after":
        books.follow([auction])
    if known_by == "the list after":
        books.is_in_auction = {BTC}.__contains__
    books.watch()
    assert (books.resyncs, books.faulty) == ({}, 0)
    books.is_in_auction = lambda _: False
    await trio.sleep(AUCTION_SILENCE_S)
    books.watch()
    assert books.resyncs == {"auction": 1}

    await books.load(crossed)  # the exchange means it
    await trio.sleep(RESYNC_AGAIN_S)
    books.watch()
    assert (books.resyncs, books.faulty) == ({"auction": 1}, 0)


async def test_the_products_with_auctions_are_bounded(books, monkeypatch):
    """An exchange that names more and more of them takes no memory."""
    monkeypatch.setattr(books_module, "TOPICS_MAX", 3)
    books.follow([make_message("auctionfeed", f"A{n}-B", kind="auction") for n in range(10)])

    assert len(books._auctions_until) == 3


async def test_a_crossing_that_an_update_ends_keeps_its_withheld_request(books, autojump_clock):
    """The update that was lost, such as a removal of the other side's level, is still missing."""
    crossing, uncrossing = an_update(["buy", "150", "1"]), an_update(["buy", "150", "0"])
    await begin(books, crossing)
    await begin(books, crossing, uncrossing)
    await trio.sleep(RESYNC_REPAIRED_S)
    books.watch()

    assert (books.resyncs, books.withheld) == ({"crossed": 2}, {"crossed": 1})


async def test_a_snapshot_without_sides_is_delivered_and_requested_again(books, demand):
    """There is no book before a valid one, and updates are delivered unchanged."""
    bad, update = a_snapshot(bids=None, asks=None), an_update(["buy", "55", "0"])
    for _ in range(2):
        await books.load(bad)
        assert books.follow([bad, update]) == [bad, update]
        assert (books.get(BTC), len(books)) == (None, 0)

    assert (books.resyncs, books.withheld) == ({"bad_snapshot": 1}, {"bad_snapshot": 1})
    assert demand.take_snapshots() == {LEVEL2, BATCH}


async def test_a_snapshot_with_an_unreadable_row_is_a_book_without_it(books, demand, capsys):
    """One more is requested; when it has such a row too, that is logged once."""
    odd = [["0.-10000", "1"], *BIDS]
    for _ in range(3):
        await books.load(a_snapshot(bids=odd))
        assert bids_of(books) == BIDS
    assert (books.resyncs, books.withheld) == ({"bad_rows": 1}, {"bad_rows": 2})
    assert demand.take_snapshots() == {LEVEL2, BATCH}
    assert capsys.readouterr().out.count("a fault again") == 1


async def test_the_log_of_unreadable_books_is_bounded(books, monkeypatch, capsys):
    """A new format makes all products unreadable at once."""
    monkeypatch.setattr(books_module, "RESYNCS_LOGGED_MAX", 2)
    for number in range(5):
        for _ in range(2):
            await books.load(make_message("level2", f"A{number}-B", kind="snapshot", bids=[None]))

    assert capsys.readouterr().out.count("a fault again") == 2
    assert books.withheld == {"bad_rows": 5}


async def test_a_snapshot_of_a_crossed_book_is_requested_once(books, demand):
    """A book of continuous trading is never crossed, so such an update shows a loss."""
    crossing = [an_update(["buy", "150", str(n + 1)]) for n in range(3)]
    delivered = await begin(books, *crossing)
    assert delivered[1:] == crossing
    assert demand.take_snapshots() == {LEVEL2, BATCH}
    books.follow(crossing)
    assert demand.take_snapshots() == frozenset()
    assert books.resyncs == {"crossed": 1}


async def test_a_crossed_snapshot_is_accepted(books, demand):
    """While a product is in auction its book may be crossed for minutes."""
    await begin(books, an_update(["buy", "150", "1"]))
    for _ in range(2):
        snapshot = a_snapshot(bids=[["150", "1"]])
        await books.load(snapshot)
        books.follow([snapshot, an_update(["buy", "149", "1"]), an_update(["sell", "100", "1"])])

    assert books.resyncs == {"crossed": 1}


@pytest.mark.parametrize("known_by", ["the auction's messages", "the list of products"])
@pytest.mark.parametrize("is_crossed", [True, False])  # when the auction ends
async def test_a_book_may_be_crossed_in_an_auction(
    books, demand, autojump_clock, known_by, is_crossed
):
    """Its orders are collected and none is matched; after it, a crossed book is damaged."""
    crossing, uncrossing = an_update(["buy", "150", "1"]), an_update(["buy", "150", "0"])
    auction = make_message("auctionfeed", kind="auction")
    assert books.follow([auction]) == [auction]  # there is no book of it
    await begin(books)
    if known_by == "the list of products":
        books.is_in_auction = {BTC}.__contains__
    else:
        books.follow([auction])
    books.follow([crossing, uncrossing, crossing, uncrossing])
    assert books.resyncs == {}

    books.follow([crossing])
    books.watch()
    assert books.resyncs == {}
    if is_crossed:
        books.is_in_auction = lambda _: False
        await trio.sleep(AUCTION_SILENCE_S)
        books.watch()
    else:
        books.follow([uncrossing])
        books.is_in_auction = lambda _: False
        await trio.sleep(AUCTION_SILENCE_S)
        books.watch()
        assert books.resyncs == {}
        books.follow([crossing])
    assert books.resyncs == {"auction" if is_crossed else "crossed": 1}


@pytest.mark.parametrize("uncrosses_by", ["an update", "a snapshot"])
async def test_a_book_that_crosses_repeatedly_requests_few_snapshots(
    books, autojump_clock, uncrosses_by
):
    """Each snapshot goes to every subscriber, so the pauses between them grow."""
    crossing, uncrossing = an_update(["buy", "150", "1"]), an_update(["buy", "150", "0"])
    await begin(books, crossing)
    for _ in range(20):
        if uncrosses_by == "an update":
            books.follow([uncrossing])
        else:
            await begin(books)
        await trio.sleep(RESYNC_REPAIRED_S - 1)
        books.watch()
        books.follow([crossing])

    # At 0 s and, of crossings at each 119 s, the first ones after pauses of 120, 240 and so on.
    assert books.resyncs == {"crossed": 5}
    assert books.withheld == ({"crossed": 16} if uncrosses_by == "a snapshot" else {})


@pytest.mark.parametrize("uncrosses_by", ["an update", "a snapshot"])
async def test_a_book_that_crosses_after_a_repair_requests_another_snapshot(
    books, autojump_clock, uncrosses_by
):
    """An update was lost a second time."""
    crossing, uncrossing = an_update(["buy", "150", "1"]), an_update(["buy", "150", "0"])
    await begin(books, crossing)
    await begin(books, *[crossing, uncrossing] * (uncrosses_by == "an update"))
    await trio.sleep(RESYNC_REPAIRED_S)
    books.follow([an_update(["buy", "98", "1"]), crossing])

    assert books.resyncs == {"crossed": 2}


@pytest.mark.parametrize("sound_s", [RESYNC_REPAIRED_S - 1, RESYNC_REPAIRED_S])
async def test_an_unreadable_change_after_a_repair_requests_another_snapshot(
    books, autojump_clock, sound_s
):
    """The snapshot has helped, so the change that is missed now is another one."""
    bad, crossing = make_message("level2", changes=[None]), an_update(["buy", "150", "1"])
    await begin(books, bad)
    await begin(books)
    await trio.sleep(sound_s)
    books.follow([bad])
    is_repaired = sound_s == RESYNC_REPAIRED_S
    assert books.resyncs == {"bad_update": 1 + is_repaired}

    # Without a snapshot the book misses a change, however long ago, and crossed or not.
    books.follow([crossing, an_update(["buy", "150", "0"])])
    for _ in range(2):  # the second one is within a pause
        await trio.sleep(RESYNC_REPAIRED_S)
        books.follow([bad])
    assert books.resyncs == {"bad_update": 2 + is_repaired}


@pytest.mark.parametrize(("rows", "reason"), [([None], "bad_rows"), (None, "bad_snapshot")])
async def test_unreadable_snapshots_request_once_however_long_the_book_was_right(
    books, autojump_clock, rows, reason
):
    """A correct book before them does not show that they are readable."""
    await begin(books)
    await trio.sleep(RESYNC_REPAIRED_S)
    for _ in range(3):
        await books.load(a_snapshot(bids=rows, asks=rows))

    assert (books.resyncs, books.withheld) == ({reason: 1}, {reason: 2})


async def test_a_crossed_book_is_not_repaired(books, autojump_clock):
    """It crossed soon after its snapshot, and has not been right since."""
    bad, crossing = make_message("level2", changes=[None]), an_update(["buy", "150", "1"])
    await begin(books, bad, crossing)
    for _ in range(2):  # the second unreadable change is within a pause
        await begin(books, crossing)
        await trio.sleep(RESYNC_REPAIRED_S)
        books.follow([bad])

    assert books.resyncs == {"bad_update": 2}


async def test_updates_without_a_book_request_one_snapshot(books, demand):
    """A waiting subscriber would otherwise wait for ever."""
    update = an_update(["buy", "55", "0"])

    assert books.follow([update, update]) == [update, update]
    assert books.resyncs == {"no_book": 1}
    assert demand.take_snapshots() == {LEVEL2, BATCH}


async def test_a_book_that_has_ended_starts_again_with_a_snapshot(books, demand):
    """Clients would believe an old book; an update alone requests a snapshot."""
    await begin(books)
    books.end({"ETH-USD"})
    assert books.is_live(BTC)
    books.end({BTC})
    assert (books.get(BTC), books.products()) == (None, set())

    books.follow([an_update(["buy", "55", "1"])])
    assert (books.is_live(BTC), books.products()) == (False, {BTC})
    assert demand.take_snapshots() == {LEVEL2, BATCH}
    await begin(books)
    assert bids_of(books) == BIDS
    books.end(None)
    assert books.products() == set()


async def test_a_book_is_not_ready_while_it_is_loaded(books, nursery):
    """46,000 levels are too many for one turn of the loop."""
    snapshot = a_snapshot(bids=[[str(n), "1"] for n in range(1, 5000)], asks=[["9999", "1"]])
    nursery.start_soon(books.load, snapshot)
    turns = 0
    while books.get(BTC) is None:
        await trio.lowlevel.checkpoint()
        turns += 1

    assert turns >= 5


async def test_windows_are_gathered_only_with_demand(books, demand):
    """And only from level2: the exchange's own level2_batch is delivered unchanged."""
    await begin(books)
    assert not books.watch()
    demand.want([BATCH])
    assert books.watch()
    assert books.watch()
    await begin(books, channel="level2_batch")
    assert books.get(BTC).gathering is None
    assert not books.watch()

    demand.release([BATCH], 0.0)
    await begin(books)
    assert not books.watch()
    assert list(books.gathered()) == []


async def test_a_window_is_its_net_changes(books, demand):
    """Its time is the newest one; a quiet window sends no message."""
    demand.want([BATCH])
    await begin(books, an_update(["buy", "100", "7"], time="t1"), an_update(["buy", "98", "1"]))
    (message,) = books.gathered()

    assert json.loads(message.payload) == {
        "type": "l2update",
        "product_id": BTC,
        "changes": [["buy", "100", "7"], ["buy", "98", "1"]],
        "time": "t1",
    }
    assert (message.topic, message.type) == (BATCH, "l2update")
    assert message.frame.endswith(message.payload)
    assert list(books.gathered()) == []


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00.000000Z", "", None])
async def test_the_year_one_is_no_time(books, demand, time):
    """It appears in real updates; a message of hedgehogd must not repeat it (COINBASE §6.6)."""
    demand.want([BATCH])
    good, odd = (an_update(["buy", str(98 - n), "1"], time=t) for n, t in enumerate(["t1", time]))
    await begin(books, good, odd)

    assert [json.loads(message.payload)["time"] for message in books.gathered()] == ["t1"]


async def test_a_window_ends_with_the_book(books, demand):
    """A resync starts a new window; a book that is not ready has none."""
    demand.want([BATCH])
    await begin(books, an_update(["buy", "100", "7"]))
    bad = a_snapshot(bids=None, asks=None)
    await books.load(bad)
    books.follow([bad])
    assert list(books.gathered()) == []

    await begin(books)
    assert list(books.gathered()) == []


async def test_a_joiner_during_compression_gets_each_change_once(plumbing, nursery, monkeypatch):
    """The book must not be ahead of the tape while the broker waits for a thread."""
    nursery.start_soon(plumbing.pipe.snapshots.run)
    plumbing.join("level2", form=WEBSOCKET_DEFLATE)
    await plumbing.publish(a_snapshot(asks=[[str(200 + n), "1"] for n in range(400)]))
    late = []

    async def slow(function, *arguments):
        late.append(plumbing.join("level2")[1])
        await trio.testing.wait_all_tasks_blocked()
        return function(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", slow)
    removals = [["sell", str(200 + n), "0"] for n in range(400)]
    await plumbing.broker.publish([Delivery([an_update(*removals)])])
    await trio.testing.wait_all_tasks_blocked()

    snapshot, update = late[0].messages
    assert len(json.loads(snapshot.payload)["asks"]) == 400
    assert len(json.loads(update.payload)["changes"]) == 400
