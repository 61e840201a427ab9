"""Level-3 books: a REST book joined to the tape equals the events of ``full``."""

import json
from decimal import Decimal
from random import Random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.books.level3_books import OrderBooks
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.order_event import OrderEvent
from hedgehogd.engine.delivery import Delivery, FetchedOrders
from hedgehogd.engine.tape import Tape
from tests.domain.plain_orders import Reference
from tests.fakes import make_message, make_row

BTC = "BTC-USD"
FULL, LEVEL3 = Topic("full", BTC), Topic("level3", BTC)
BIDS = [("100", "1", "a"), ("100", "2", "b"), ("99", "1", "c")]
ASKS = [("101", "5", "d")]
FETCHED = FetchedOrders(BTC, BIDS, ASKS, 10)


def full(kind, sequence, **fields):
    return make_message("full", sequence=sequence, kind=kind, **fields)


def opened(sequence, order_id, price="98", size="1", side="buy"):
    return full("open", sequence, order_id=order_id, price=price, remaining_size=size, side=side)


class Followed:
    """Books that follow a tape as the broker updates it."""

    def __init__(self):
        self.books, self.tape = OrderBooks(self), Tape()
        self.asked = []

    def set(self):
        """Replace the ``Wakeup`` of the books."""
        self.asked.append(self.books.missing())

    def put(self, *messages):
        self.tape.append(messages)
        self.books.follow(messages)

    async def load(self, fetched=FETCHED):
        await self.books.load(fetched, self.tape)

    async def rows(self):
        answer = await self.books.answer(BTC, 3, "now")
        return json.loads(answer)


@pytest.fixture
def followed():
    return Followed()


async def test_a_book_is_missing_once_its_events_arrive(followed):
    """It is requested when events are there to join it to, and only events of its product count."""
    followed.put(make_message("ticker", sequence=3), make_message("level3", ""))
    assert followed.asked == []
    followed.put(full("received", 9), full("received", 10))

    assert followed.asked == [[BTC]]
    assert len(followed.books) == 0
    assert await followed.books.answer(BTC, 3, "now") is None
    assert await followed.books.answer("ETH-USD", 3, "now") is None


async def test_a_fetched_book_is_joined_to_the_tape(followed):
    """Events that it includes are skipped, later ones applied, then it follows the tape."""
    followed.put(opened(10, "c"), opened(11, "e"), full("done", 12, order_id="a"))
    await followed.load()
    followed.put(full("match", 13, maker_order_id="d", size="2", trade_id=1))
    followed.put(make_message("full", kind="activate"))  # no event of the matching engine
    answer = await followed.rows()

    assert answer["sequence"] == 13
    assert [row[2] for row in answer["bids"]] == ["b", "c", "e"]
    assert answer["asks"] == [["101", "3", "d"]]
    assert answer["time"] == "now"
    assert (len(followed.books), followed.books.missing()) == (1, [])


async def test_levels_of_detail(followed):
    """As in REST: the best level, sums per level, single orders."""
    followed.put(full("received", 10))
    await followed.load()

    answers = [json.loads(await followed.books.answer(BTC, level, "now")) for level in (1, 2, 3)]
    assert [answer["bids"] for answer in answers] == [
        [["100", "3", 2]],
        [["100", "3", 2], ["99", "1", 1]],
        [list(row) for row in BIDS],
    ]


async def test_a_gap_ends_the_book_and_requests_another(followed):
    """A wrong book is worse than none."""
    followed.put(full("received", 10))
    await followed.load()
    followed.put(full("received", 12), full("received", 13))

    assert followed.books.lost == {"gap": 1}
    assert followed.asked == [[BTC], [BTC]]
    assert await followed.books.answer(BTC, 3, "now") is None
    await followed.load(FETCHED._replace(sequence=12))
    assert (await followed.rows())["sequence"] == 13


async def test_a_gap_on_the_tape_ends_a_book_while_it_is_loaded(followed):
    """The events after the gap do not start a book of their own."""
    followed.put(full("received", 10), full("received", 12), full("received", 13))
    await followed.load()

    assert followed.books.lost == {"gap": 1}
    assert followed.books.missing() == [BTC]


async def test_a_book_older_than_the_tape_is_dropped(followed):
    """Events between the two are missing."""
    followed.put(full("received", 15), full("received", 16))
    await followed.load()

    assert followed.books.lost == {"gap": 1}
    assert followed.books.missing() == [BTC]


async def test_sequences_that_are_set_back_end_the_book(followed):
    """Restarted sequences would be ignored as repeats, for ever."""
    followed.put(full("received", 10), full("received", 11))
    await followed.load()
    followed.put(full("received", 12), opened(5, "e"))

    assert followed.books.lost == {"set_back": 1}
    assert followed.books.missing() == [BTC]


@pytest.mark.parametrize("is_ready", [True, False])
async def test_a_book_fetched_after_sequences_were_set_back_becomes_live(followed, is_ready):
    """Its sequence is below the first event of the old sequences, once they left the tape."""
    followed.tape = Tape(bytes_max=1)  # it keeps only the newest batch
    followed.put(full("received", 10), full("received", 11))
    if is_ready:
        await followed.load()
        followed.put(full("received", 12))
    followed.put(full("activate", None))
    followed.put(opened(5, "e"))
    followed.put(opened(6, "f"))
    assert not followed.books.is_live(BTC)

    await followed.load(FETCHED._replace(sequence=3))
    assert (followed.books.is_live(BTC), followed.books.lost["gap"]) == (False, 1)
    await followed.load(FETCHED._replace(sequence=5))
    followed.put(opened(7, "g"))
    assert (await followed.rows())["sequence"] == 7


async def test_a_book_that_is_ahead_of_the_feed_waits_for_it(followed):
    """REST may be a moment ahead of the feed: the book includes those events already."""
    followed.put(full("received", 5))
    await followed.load()
    followed.put(full("received", 6), opened(FETCHED.sequence, "e"))

    assert followed.books.lost == {}
    assert followed.books.missing() == []


@pytest.mark.parametrize(
    "bad",
    [
        opened(11, "e", size="1e99"),
        full("open", 11, order_id=["e"]),
        full("match", 11, maker_order_id="a", size=None, price=True),
    ],
)
async def test_an_unreadable_event_costs_its_own_order(followed, bad):
    """The book is not fetched again, or it would be for each such event."""
    followed.put(full("received", 10))
    await followed.load()
    followed.put(bad, opened(12, "f"))

    assert (followed.books.lost, followed.books.missing()) == ({}, [])
    assert followed.books.unreadable == 1
    answer = await followed.rows()
    assert (answer["sequence"], [row[2] for row in answer["bids"]]) == (12, ["a", "b", "c", "f"])


async def test_an_event_without_a_number_is_skipped(followed):
    """It has no place; if it is a loss, the next event shows the gap."""
    followed.put(full("received", 10))
    await followed.load(FETCHED._replace(bids=[None, *BIDS]))
    followed.put(make_message("full", kind="open"), opened(11, "e"))

    assert (followed.books.lost, followed.books.unreadable) == ({}, 2)
    assert (await followed.rows())["sequence"] == 11


async def test_level3_makes_the_same_book(followed):
    """Its events are arrays of texts; the schema before them is no event."""
    time = "2023-03-28T23:24:03.185394Z"
    followed.put(make_message("level3", "", schema={}), make_row("noop", BTC, 10, time))
    await followed.load()
    followed.put(
        make_row("open", BTC, 11, "e", "sell", "102", "4", time),
        make_row("match", BTC, 12, "a", "t", "100", "1", time),
        make_row("change", BTC, 13, "b", "100", "1.5", time),
        make_row("done", BTC, 14, "d", time),
    )
    answer = await followed.rows()

    assert (answer["sequence"], answer["asks"]) == (14, [["102", "4", "e"]])
    assert answer["bids"] == [["100", "1.5", "b"], ["99", "1", "c"]]


async def test_a_book_follows_one_channel_and_ends_with_it(followed):
    """The other channel has the same events a second time."""
    followed.put(full("received", 10))
    await followed.load()
    followed.put(make_row("done", BTC, 11, "a", "t"))
    assert (await followed.rows())["sequence"] == 10
    followed.books.forget(LEVEL3)
    followed.books.forget(Topic("full", "ETH-USD"))
    assert len(followed.books) == 1

    followed.books.forget(FULL)
    assert (len(followed.books), followed.books.missing()) == (0, [])
    await followed.load()
    assert len(followed.books) == 0
    followed.put(make_row("done", BTC, 12, "a", "t"))
    assert followed.books.missing() == [BTC]


async def test_loading_and_answering_yield_to_other_tasks(followed):
    """A level-3 book of BTC-USD has two hundred thousand orders."""
    followed.put(full("received", 10))
    bids = [("1", "1", str(n)) for n in range(3000)]
    with trio.testing.assert_checkpoints():
        await followed.load(FETCHED._replace(bids=bids))
    with trio.testing.assert_checkpoints():
        assert len((await followed.rows())["bids"]) == 3000


async def test_waiting_for_a_book_ends_when_it_is_ready(followed, nursery, autojump_clock):
    """A client of REST may ask before it has been fetched."""
    followed.put(full("received", 10))
    done = []

    async def wait():
        await followed.books.wait_ready(BTC)
        done.append(len(followed.books))

    nursery.start_soon(wait)
    followed.put(make_message("full", "ETH-USD", 7, "received"))
    await followed.load(FETCHED._replace(product_id="ETH-USD", sequence=7))
    await trio.testing.wait_all_tasks_blocked()
    assert done == []
    await followed.load()
    await trio.testing.wait_all_tasks_blocked()
    assert done == [2]


async def test_waiting_for_a_ready_book_is_one_checkpoint(followed):
    """Other tasks may run meanwhile."""
    followed.put(full("received", 10))
    await followed.load()
    with trio.testing.assert_checkpoints():
        await followed.books.wait_ready(BTC)


async def test_a_book_from_before_its_first_event_is_dropped(followed):
    """It was fetched before an interruption, and that event has left the tape since."""
    followed.books.follow([full("received", 15)])
    await followed.load()

    assert (followed.books.lost, followed.books.missing()) == ({"gap": 1}, [BTC])
    await followed.load(FETCHED._replace(sequence=14))
    assert followed.books.is_live(BTC)


async def test_a_book_that_has_ended_starts_again_with_the_next_event(followed):
    """The feed has not updated it meanwhile; a book that was not ready is not counted."""
    followed.put(full("received", 10))
    followed.books.end({"ETH-USD"})
    followed.books.end(None)
    assert (followed.books.products(), followed.books.lost["stale"]) == (set(), 0)

    followed.put(full("received", 11))
    await followed.load(FETCHED._replace(sequence=11))
    followed.books.end({BTC})
    assert (followed.books.products(), followed.books.lost["stale"]) == (set(), 1)


async def test_a_gap_in_the_channel_that_a_book_follows_ends_it(followed):
    """No event may follow to show it."""
    followed.books.interrupt(FULL)
    followed.put(full("received", 10))
    followed.books.interrupt(FULL)  # not ready: nothing to lose
    await followed.load()
    followed.books.interrupt(LEVEL3)
    assert followed.books.is_live(BTC)
    followed.books.interrupt(FULL)

    assert (followed.books.is_live(BTC), followed.books.lost["gap"]) == (False, 1)


async def test_without_a_fetcher_a_missing_book_is_no_error():
    """A recording has no REST."""
    books = OrderBooks()
    books.follow([full("received", 10)])

    assert books.missing() == [BTC]


async def test_the_broker_joins_a_fetched_book_to_the_events_before_it(plumbing):
    """In the order of the inbox; a forgotten book is not loaded."""
    await plumbing.broker.publish([Delivery([full("received", 10)], flows=frozenset({FULL}))])
    await plumbing.broker.publish(
        [Delivery([opened(11, "e")]), Delivery([opened(12, "f")], order_book=FETCHED)]
    )
    answer = json.loads(await plumbing.pipe.orders.answer(BTC, 3, "now"))
    assert (answer["sequence"], answer["bids"][-1][2]) == (12, "f")

    await plumbing.broker.publish([Delivery([], flows=frozenset())])
    assert await plumbing.pipe.orders.answer(BTC, 3, "now") is None


def random_events(random, first, count):
    """Return messages of ``full`` or ``level3``, and the same as events."""
    ids = ["a", "b", "c", "d"]
    for sequence in range(first, first + count):
        order_id, price = random.choice(ids), str(random.choice([98, 99, 100, 101, 102]))
        side = random.choice(["buy", "sell"])
        size = str(random.randint(1, 3))
        match random.randrange(5):
            case 0:
                order_id = f"n{sequence}"
                ids.append(order_id)
                yield (
                    opened(sequence, order_id, price, size, side),
                    make_row("open", BTC, sequence, order_id, side, price, size, "t"),
                    OrderEvent("open", sequence, order_id, side, price, size),
                )
            case 1:
                yield (
                    full("match", sequence, maker_order_id=order_id, size=size),
                    make_row("match", BTC, sequence, order_id, "t", price, size, "t"),
                    OrderEvent("match", sequence, order_id, size=size),
                )
            case 2:
                yield (
                    full("change", sequence, order_id=order_id, new_size=size, new_price=price),
                    make_row("change", BTC, sequence, order_id, price, size, "t"),
                    OrderEvent("change", sequence, order_id, price=price, size=size),
                )
            case 3:
                yield (
                    full("done", sequence, order_id=order_id),
                    make_row("done", BTC, sequence, order_id, "t"),
                    OrderEvent("done", sequence, order_id),
                )
            case 4:
                yield (
                    full("received", sequence, order_id=order_id),
                    make_row("noop", BTC, sequence, "t"),
                    OrderEvent("noop", sequence),
                )


def numbers(rows):
    return [(Decimal(price), Decimal(size), last) for price, size, last in rows]


@given(st.integers(0, 2**32), st.booleans(), st.integers(0, 20), st.integers(0, 20))
async def test_an_answer_is_the_plain_book_at_its_sequence(seed, is_full, fetched_at, loaded_at):
    """This holds wherever the fetched book and its arrival fall within the events."""
    events = list(random_events(Random(seed), 11, 20))
    followed, reference = Followed(), Reference(BIDS, ASKS)
    old = Reference(BIDS, ASKS)
    followed.put(full("received", 10) if is_full else make_row("noop", BTC, 10, "t"))
    loaded_at = max(loaded_at, fetched_at)  # REST cannot be ahead of the events it was made from
    for _, _, event in events[:fetched_at]:
        old.apply(event)
    fetched = FetchedOrders(BTC, *old.rows(), 10 + fetched_at)
    for index, (of_full, row, event) in enumerate(events):
        if index == loaded_at:
            await followed.load(fetched)
        followed.put(of_full if is_full else row)
        reference.apply(event)
    if loaded_at == len(events):
        await followed.load(fetched)

    answers = [json.loads(await followed.books.answer(BTC, level, "now")) for level in (1, 2, 3)]
    assert {answer["sequence"] for answer in answers} == {30}
    for side, orders, levels in zip(
        ("bids", "asks"), reference.rows(), reference.levels(), strict=True
    ):
        assert numbers(answers[2][side]) == numbers(orders)
        assert numbers(answers[1][side]) == levels
        assert numbers(answers[0][side]) == levels[:1]
