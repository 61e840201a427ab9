"""``GET /api/v1/instances``: one row for each instance, in any state."""

import msgspec
import pytest
import trio

from hedgehogd import __version__
from hedgehogd.domain import limits
from hedgehogd.engine.health import FeedState
from hedgehogd.relay.peers import Answer, PeerGone, PeerSilent
from hedgehogd.web.app import make_app
from hedgehogd.web.instance_status import INSTANCES_PATH, Row, Rows
from tests.web.answers import body


class FakePeers:
    """A fake of the peer instances: each returns a chosen answer after a delay."""

    number = 1

    def __init__(self, answers):
        self.answers = answers
        self.asked = []

    def numbers(self):
        return list(self.answers)

    async def ask(self, number, method, target):
        assert (method, target) == ("GET", INSTANCES_PATH)
        self.asked.append(number)
        await trio.sleep(0.1)
        answer = self.answers[number]
        if isinstance(answer, Exception):
            raise answer
        return Answer(200, "application/json", answer)


LIVE = Row(2, "live", True, "live", __version__, 17, 0.25)


async def test_an_instance_without_peers_reports_itself(autojump_clock, instance, open_session):
    """The row has its state and its number of subscribers."""
    open_session("1.a")
    instance.health.become(FeedState.STALE, "closed: 1006")
    instance.health.heard_at = trio.current_time() - 3.0
    client = make_app(instance, serves_operators=True).test_client()
    row = {
        "instance": 1, "state": "stale", "ready": False, "reason": "stale: closed: 1006",
        "version": __version__, "subscribers": 1, "feed_age_s": 3.0,
    }  # fmt: skip
    assert await body(await client.get(INSTANCES_PATH)) == {"instances": [row]}
    instance.is_draining = True
    (row,) = (await body(await client.get(INSTANCES_PATH)))["instances"]

    assert (row["state"], row["ready"], row["reason"]) == ("draining", False, "draining")


async def test_all_peers_are_asked_concurrently_and_each_has_a_row(autojump_clock, instance):
    """An operator looks for the instance that has stopped or hangs."""
    peers = FakePeers(
        {
            4: PeerGone("instance 4 is gone"),
            2: msgspec.json.encode(Rows([LIVE])),
            3: PeerSilent("instance 3 does not answer"),
            5: b"{}",
            6: b'{"instances":[]}',
        }
    )
    client = make_app(instance, peers=peers, serves_operators=True).test_client()
    begin = trio.current_time()
    rows = (await body(await client.get(INSTANCES_PATH)))["instances"]

    assert trio.current_time() - begin == pytest.approx(0.1)
    assert [row["instance"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["state"] for row in rows] == ["idle", "live", "silent", "gone", "odd", "odd"]
    assert rows[1] == msgspec.to_builtins(LIVE)
    assert [row["ready"] for row in rows] == [True, True, False, False, False, False]
    assert rows[3] == {
        "instance": 4, "state": "gone", "ready": False, "reason": "instance 4 is gone",
        "version": None, "subscribers": None, "feed_age_s": None,
    }  # fmt: skip


async def test_many_requests_cause_one_request_per_peer(autojump_clock, instance):
    """A page that many people keep open must not load the instances with peer requests."""
    peers = FakePeers({2: msgspec.json.encode(Rows([LIVE]))})
    client = make_app(instance, peers=peers, serves_operators=True).test_client()
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(client.get, INSTANCES_PATH)
    assert peers.asked == [2]

    await trio.sleep(limits.INSTANCES_KEEP_S)
    await client.get(INSTANCES_PATH)
    assert peers.asked == [2, 2]
