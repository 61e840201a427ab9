"""Keepalives for all streams from one task, and the farewells of a drain.

A timer per subscriber would cost a task per subscriber. Instead one task sends keepalives each
second to the streams of one slot, so that each stream gets one in every ``KEEP_ALIVE_S``.
"""

import itertools
from collections.abc import Iterable
from random import Random

import trio

from hedgehogd.domain import limits
from hedgehogd.domain.errors import CLOSE_RESTART
from hedgehogd.streaming.outlet import Outlet
from hedgehogd.streaming.plane import StreamingPlane


async def keep_alive(plane: StreamingPlane) -> None:
    """Call ``Outlet.keep_alive`` of each open stream every ``KEEP_ALIVE_S``, until cancelled."""
    for second in itertools.count():
        await trio.sleep(1.0)
        slot = second % round(limits.KEEP_ALIVE_S)
        await _each([outlet for outlet in plane.outlets if outlet.slot == slot])


async def _each(outlets: Iterable[Outlet]) -> None:
    for count, outlet in enumerate(outlets, 1):
        outlet.keep_alive()
        if not count % limits.WRITES_PER_TURN_MAX:
            await trio.lowlevel.checkpoint()


async def say_farewell(plane: StreamingPlane, spread_s: float, random: Random) -> None:
    """End every stream that is open now, spread over ``spread_s`` seconds in random order.

    It returns after the last farewell is passed to its outlet, which may still be sending it.
    The feed continues, so a stream that is still open misses no message.
    """
    outlets = [outlet for outlet in plane.outlets if not outlet.is_ending]
    random.shuffle(outlets)
    begin = trio.current_time()
    for index, outlet in enumerate(outlets):
        await trio.sleep_until(begin + spread_s * index / len(outlets))
        outlet.end(CLOSE_RESTART, "restart")
