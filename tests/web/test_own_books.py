"""Books for REST, from this instance's level-3 books."""

import json

import trio

from hedgehogd.domain.limits import ORDER_BOOK_WAIT_S
from hedgehogd.engine.delivery import FetchedOrders
from hedgehogd.web.own_books import OwnBooks
from tests.fakes import make_message

BOOK = FetchedOrders("BTC-USD", [["10", "1", "a"], ["10", "2", "b"]], [["11", "3", "c"]], 7)


async def test_a_book_without_demand_is_not_held(autojump_clock, instance):
    """The exchange is asked without a wait."""
    assert await OwnBooks(instance.pipe).rest_book("BTC-USD", 3) is None
    assert trio.current_time() == 0


async def test_a_book_that_follows_full_is_answered_at_its_sequence(autojump_clock, instance):
    """OrderbookSync compares the sequence with those of the stream."""
    pipe = instance.pipe
    pipe.tape.append(first := [make_message("full", sequence=7, kind="received")])
    pipe.orders.follow(first)
    await pipe.orders.load(BOOK, pipe.tape)
    levels = {
        level: json.loads(await OwnBooks(pipe).rest_book("BTC-USD", level)) for level in (1, 2, 3)
    }

    assert [7, 7, 7] == [levels[level]["sequence"] for level in (1, 2, 3)]
    assert [["10", "1", "a"], ["10", "2", "b"]] == levels[3]["bids"]
    assert [["10", "3", 2]] == levels[2]["bids"] == levels[1]["bids"]
    assert levels[3]["time"].endswith("Z")


async def test_a_request_waits_for_a_book_that_is_being_fetched(autojump_clock, instance):
    """cbpro requests its book on the acknowledgement; a book of another sequence would not fit."""
    pipe = instance.pipe
    topic = make_message("full").topic
    pipe.demand.want([topic])
    answers = []

    async def ask():
        answers.append(await OwnBooks(pipe).rest_book("BTC-USD", 3))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.sleep(2)
        assert [] == answers
        pipe.tape.append(first := [make_message("full", sequence=7, kind="received")])
        pipe.orders.follow(first)
        await pipe.orders.load(BOOK, pipe.tape)

    assert 7 == json.loads(answers[0])["sequence"]


async def test_it_does_not_wait_for_ever(autojump_clock, instance):
    """The exchange may not answer, and the client must not wait for long."""
    instance.pipe.demand.want([make_message("full").topic])

    assert await OwnBooks(instance.pipe).rest_book("BTC-USD", 3) is None
    assert ORDER_BOOK_WAIT_S == trio.current_time()
