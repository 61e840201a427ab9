"""What who comes back is given, and told, over what our feed did not get."""

import json

import pytest
import trio

from hedgehogd.arbitration.batch import NoticeKind, TopicNotice
from hedgehogd.domain import limits
from hedgehogd.domain.errors import CLOSE_EXPIRED, CLOSE_SLOW_CONSUMER
from hedgehogd.domain.position import Start
from hedgehogd.engine.delivery import Delivery
from hedgehogd.protocol.commands import Pace
from hedgehogd.protocol.wire import NDJSON_BARE, WEBSOCKET
from tests.fakes import FakeMember, make_message
from tests.recovery.returning import (
    ALL,
    BTC,
    LOST,
    MATCH,
    STALE,
    Memory,
    Returner,
    data,
    holed,
    publish,
    resumed,
    texts,
    told,
    told_of,
    wall_us,
)


@pytest.mark.parametrize("width", [1, 2, 3, 64])
async def test_what_nobody_has_is_told_in_its_place(back, width, monkeypatch, autojump_clock):
    """Whether it stands in what is read first or in what is read last."""
    monkeypatch.setattr(limits, "RESUME_WINDOW_MESSAGES_MAX", width)
    await holed(back)
    member, _ = back.come({ALL: Start(2)})
    await trio.sleep(1)

    assert texts(member) == [3, "gap", 6, 7, "resumed"]
    assert told(member) == [LOST, resumed(3, ALL)]


@pytest.mark.parametrize("position", [5, 6])
async def test_who_is_behind_it_lacks_nothing(back, position, autojump_clock):
    """Somebody else gave it that."""
    await holed(back)
    member, _ = back.come({ALL: Start(position)})
    await trio.sleep(1)

    assert (data(member), told(member)) == ([6, 7][position - 5 :], [resumed(7 - position, ALL)])


async def test_by_time_it_is_told_to_who_was_not_there(back, autojump_clock):
    """Who begins behind it is not."""
    await publish(back, ALL, 1, 2, 3)
    before_us = wall_us()
    await trio.sleep(1)
    await publish(back, ALL, 6, 7, lacks=(4, 5))
    members = [back.come({ALL: Start(after_us=at)})[0] for at in (before_us, wall_us())]
    await trio.sleep(1)

    assert [texts(member) for member in members] == [["gap", 6, 7, "resumed"], ["resumed"]]


@pytest.mark.parametrize("width", [2, 64])
@pytest.mark.parametrize(("form", "is_strict"), [(WEBSOCKET, True), (NDJSON_BARE[True], False)])
async def test_who_wants_all_or_cannot_be_told_is_ended_there(
    back, form, is_strict, width, monkeypatch, autojump_clock
):
    """With what there was before it."""
    monkeypatch.setattr(limits, "RESUME_WINDOW_MESSAGES_MAX", width)
    await holed(back)
    member, _ = back.come({ALL: Start(2)}, form, is_strict=is_strict)
    await trio.sleep(1)

    assert (texts(member), member.ends) == ([3], [(CLOSE_EXPIRED, "position_expired")])


async def test_who_has_caught_up_is_told_what_holds_still(back, autojump_clock):
    """The feed is down; and a trade is missing that a heartbeat has named."""
    await publish(back, MATCH, 3)
    missing = told_of(MATCH, 91, 92)
    await back.broker.publish([Delivery([], [STALE, TopicNotice(MATCH, missing, NoticeKind.GAP)])])
    member, _ = back.come({MATCH: Start(3)})
    await trio.sleep(1)

    assert member.notices == [STALE.payload, missing]


async def test_who_lacks_trades_is_told_what_was_backfilled(back, autojump_clock):
    """Who lacks none is not."""
    await publish(back, MATCH, 3)
    await publish(back, MATCH, 6, lacks=(91, 92))
    back.pipe.backfilled.add(BTC, [{"trade_id": 91}], 0.0)
    members = [back.come({MATCH: Start(number)})[0] for number in (3, 6)]
    await trio.sleep(1)

    assert [texts(member) for member in members] == [["gap", 6, "resumed"], ["resumed"]]
    assert [[json.loads(x)["type"] for x in member.notices] for member in members] == [
        ["backfilled"],
        [],
    ]


async def test_who_is_ended_by_what_it_is_told_gets_no_more(back, autojump_clock):
    """Each notice may be one too many."""

    class Full(FakeMember):
        def tell(self, payload):
            self.end(1000, "slow")

    await publish(back, MATCH, 3)
    await back.broker.publish([Delivery([], [STALE])])
    member, session = back.come({MATCH: Start(3)}, member=Full())
    await trio.sleep(1)

    assert (session.is_closed, told(member)) == (True, [])


async def test_who_has_full_is_told_of_it_alone(back, autojump_clock):
    """A trade that is missing is an event that is missing."""
    trades = [make_message(*ALL, n, "match", MATCH, trade_id=n) for n in range(10)]
    await back.broker.publish([Delivery(trades[1:4])])
    missing = [TopicNotice(topic, told_of(topic, 4, 5), NoticeKind.GAP) for topic in (ALL, MATCH)]
    await back.broker.publish([Delivery(trades[6:8], missing, [0, 0])])
    both, one = {ALL: Start(2), MATCH: Start(2)}, {MATCH: Start(2)}
    members = [back.come(starts)[0] for starts in (both, one)]
    await trio.sleep(1)

    assert [texts(member) for member in members] == [[3, "gap", 6, 7, "resumed"]] * 2
    assert [told(member)[0]["channel"] for member in members] == ["full", "matches"]


class Stuck(FakeMember):
    """A subscriber whose socket takes nothing: what it is given stays written to it."""

    async def wait_written(self):
        while not self.ends:
            await trio.sleep(0.1)


async def test_a_page_is_counted_while_it_is_given_once_for_all(back, monkeypatch, autojump_clock):
    """Five hundred that resume a busy minute hold its pages together."""
    monkeypatch.setattr(limits, "RESUME_WINDOW_MESSAGES_MAX", 64)
    await publish(back, MATCH, *range(1, 100))
    budget = back.pipe.budget
    held = []
    for _ in range(3):
        back.come({MATCH: Start(0)}, member=Stuck())
        await trio.sleep(1)
        held.append(budget.bytes)

    assert held == [held[0] + n * (held[1] - held[0]) for n in range(3)]
    assert held[1] - held[0] < 10_000 < held[0]


@pytest.mark.parametrize("speed", [None, 0.001])
async def test_a_stream_that_holds_the_largest_page_is_ended(speed, nursery, autojump_clock):
    """A slow reader of history holds more than its backlog: the page that it is given."""
    back = Returner(Memory())
    back.past.page_max = 64
    nursery.start_soon(back.pipe.resumes.run)
    for sequence in range(1, 100):
        back.past.keep(make_message("matches", BTC, sequence))
        await trio.sleep(0.001)
    pace = None if speed is None else Pace(speed)
    member, _ = back.come({MATCH: Start(after_us=1)}, member=Stuck(), pace=pace)
    await trio.sleep(1)
    budget = back.pipe.budget
    held = budget.bytes
    budget.bytes_max = held - 1
    budget.relieve()

    assert held > 10_000
    assert budget.bytes == 0
    assert member.ends == [(CLOSE_SLOW_CONSUMER, "waiting_bytes_max")]
    await trio.sleep(1)
    assert (budget.bytes, budget.accounts) == (0, {})
