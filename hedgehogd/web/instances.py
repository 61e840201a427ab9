"""``GET /api/v1/instances``: the state of each instance of this machine."""

import msgspec
import trio
from quart import Response
from quart_trio import QuartTrio

from hedgehogd import __version__
from hedgehogd.domain import limits
from hedgehogd.fanout.instance import Instance
from hedgehogd.relay.peers import PeerGone, Peers, PeerSilent
from hedgehogd.web.instance_status import INSTANCES_PATH, Row, Rows
from hedgehogd.web.responses import json_response


def add_instances(app: QuartTrio, instance: Instance, peers: Peers | None) -> None:
    """Add the route to ``app``; without ``peers`` it reports ``instance`` alone."""
    peer_rows = _PeerRows(peers)

    @app.get(INSTANCES_PATH)
    async def instances() -> Response:
        rows = [_own_row(instance), *await peer_rows.rows()]
        return json_response({"instances": sorted(rows, key=lambda row: row.instance)})


def _own_row(instance: Instance) -> Row:
    health = instance.health
    ready, reason = instance.readiness()
    age_s = None if health.heard_at is None else trio.current_time() - health.heard_at
    return Row(
        instance.number,
        "draining" if instance.is_draining else str(health.state),
        ready,
        reason,
        __version__,
        len(instance.sessions),
        age_s,
    )


class _PeerRows:
    """The rows of the peer instances, requested concurrently, cached for ``INSTANCES_KEEP_S``.

    Without ``peers`` there are none.
    """

    def __init__(self, peers: Peers | None) -> None:
        self._peers = peers
        self._asking = trio.Lock()
        self._rows: list[Row] = []
        self._until = -1.0

    async def rows(self) -> list[Row]:
        if self._peers is None:
            return []
        async with self._asking:
            if trio.current_time() >= self._until:
                self._rows = await self._ask_all(self._peers)
                self._until = trio.current_time() + limits.INSTANCES_KEEP_S
            return self._rows

    async def _ask_all(self, peers: Peers) -> list[Row]:
        found: list[Row] = []

        async def ask(number: int) -> None:
            found.append(await _row_of(peers, number))

        async with trio.open_nursery() as nursery:
            for number in peers.numbers():
                nursery.start_soon(ask, number)
        return found


async def _row_of(peers: Peers, number: int) -> Row:
    try:
        answer = await peers.ask(number, "GET", INSTANCES_PATH)
        return msgspec.json.decode(answer.body, type=Rows).instances[0]
    except PeerGone as gone:
        return Row(number, "gone", ready=False, reason=str(gone))
    except PeerSilent as silent:
        return Row(number, "silent", ready=False, reason=str(silent))
    except (msgspec.DecodeError, IndexError) as odd:
        return Row(number, "odd", ready=False, reason=f"unexpected answer: {odd}")
