"""Which part of the feed is stale, and who has to be told.

A slot is down when no line has it. All down is the feed's staleness, told to everybody; one
of several down concerns its products alone, and so does a product whose heartbeats have
stopped on a connection that is alive. Each is told once, and its end too.
"""

from collections.abc import Sequence

import structlog

from hedgehogd.arbitration.batch import NoticeKind, TopicNotice
from hedgehogd.arbitration.session import UpstreamSession
from hedgehogd.engine.health import FeedHealth, FeedState
from hedgehogd.feeds.line import Line
from hedgehogd.protocol import notices

log = structlog.get_logger("feed")

_PRODUCTS_LOGGED_MAX = 10
_RELAY_IS_STALE = "the relay that feeds us is stale"


class Staleness:
    """What subscribers have been told of the feed's state."""

    def __init__(self, session: UpstreamSession, health: FeedHealth) -> None:
        self._session = session
        self._health = health
        self._all_stale = False  # everybody was told that the feed is stale
        self._stale = frozenset[str]()  # products told to be stale: their connection is down
        self._quiet = frozenset[str]()  # the same: their heartbeats have stopped

    def of_lines(self, lines: Sequence[Line], now: float) -> list[TopicNotice]:
        """Write down how the feed is; return what is to be told about it."""
        wanted = {slot for line in lines for slot in line.plan.slots()}
        live = {slot for line in lines for slot in line.live()} & wanted
        down = wanted - live
        lost = {
            slot: loss
            for line in lines
            for slot, loss in line.down().items()
            if loss and slot in down
        }
        reason = next(iter(lost.values()), "")
        self._quiet &= lines[0].plan.products(wanted)  # nobody asks how the others are
        self._health.quiet_products = len(self._quiet)
        self._health.become(*self._state(live, down, reason, now))
        if live and self._session.told_stale:
            told = self._about_all(set(), live, _RELAY_IS_STALE)
        else:
            told = self._about_all(live, down, reason)
        if not self._all_stale:
            stale = frozenset[str]()
            if live:
                plan = lines[0].plan
                # What moves to a connection that is not there yet is not back before it is.
                stale = plan.products(lost) | (self._stale & plan.products(down))
            told += _news(self._stale, stale, reason, "the connection is back")
            self._stale = stale
        return told

    def of_products(self, quiet: frozenset[str], watched: frozenset[str]) -> list[TopicNotice]:
        """Return what is to be told of the ``watched`` products, of which some are ``quiet``."""
        before = self._quiet & watched
        told = _news(before, quiet, "no heartbeat", "heartbeats are back")
        self._quiet = (self._quiet - watched) | quiet
        self._health.quiet_products = len(self._quiet)
        return told

    def _state(
        self, live: set[int], down: set[int], reason: str, now: float
    ) -> tuple[FeedState, float, str]:
        if not live and not down:
            return FeedState.IDLE, now, ""
        if live and self._session.told_stale:
            return FeedState.STALE, now, _RELAY_IS_STALE
        if not down:
            return FeedState.LIVE, now, ""
        if live:
            text = f"{len(down)} of {len(live | down)} connections are down: {reason}"
            return FeedState.LIVE, now, text if reason else ""
        if reason:
            return FeedState.STALE, now, reason
        if self._health.state is FeedState.STALE:
            return FeedState.STALE, now, self._health.reason
        return FeedState.CONNECTING, now, ""

    def _about_all(self, live: set[int], down: set[int], reason: str) -> list[TopicNotice]:
        if down and not live and reason and not self._all_stale:
            self._all_stale = True
            stale = notices.stale(is_stale=True, reason=reason)
            return [TopicNotice(None, stale, NoticeKind.STALE)]
        if live and self._all_stale:
            self._all_stale, self._stale = False, frozenset()
            back = notices.stale(is_stale=False, reason="the feed is back")
            return [TopicNotice(None, back, NoticeKind.BACK)]
        return []


def _news(before: frozenset[str], now: frozenset[str], why: str, why_not: str) -> list[TopicNotice]:
    """Return the notices about products that became stale, and about those that are back."""
    told = []
    for products, is_stale, reason in ((now - before, True, why), (before - now, False, why_not)):
        if products:
            some = sorted(products)[:_PRODUCTS_LOGGED_MAX]
            log.warning("products", stale=is_stale, reason=reason, some=some, count=len(products))
            notice = notices.stale(is_stale=is_stale, reason=reason, product_ids=products)
            kind = NoticeKind.STALE if is_stale else NoticeKind.BACK
            told.append(TopicNotice(products, notice, kind))
    return told
