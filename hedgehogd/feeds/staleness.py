"""Which part of the feed is stale, and the notices that report it.

A slot is down when no line has a live connection for it. If all slots are down, the feed is
stale, and all subscribers get a notice. If one of several slots is down, only subscribers of its
products do; the same holds for a silent product on a live connection. If the feed comes from
another hedgehogd that reports its own feed as stale, the feed is stale too. The beginning and the
end of each such state are reported once.
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
_RELAY_IS_STALE = "the upstream relay is stale"


class Staleness:
    """The states of the feed that have been reported to subscribers.

    Args:
        session: arbitration between all connections.
        health: the state of the feed; written here.
    """

    def __init__(self, session: UpstreamSession, health: FeedHealth) -> None:
        self._session = session
        self._health = health
        self._all_stale = False  # the feed is reported as stale, to all subscribers
        self._stale = frozenset[str]()  # products reported as stale: their connection is down
        self._quiet = frozenset[str]()  # products reported as stale: their heartbeats stopped

    def of_lines(self, lines: Sequence[Line]) -> list[TopicNotice]:
        """Update the state of the feed in its health; return notices about changes since last time.

        They concern the feed as a whole, and the products of slots that are down on all
        lines.
        """
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
        self._quiet &= lines[0].plan.products(wanted)  # other products are no longer held
        self._health.quiet_products = len(self._quiet)
        self._health.become(*self._state(live, down, reason))
        if live and self._session.told_stale:
            due = self._about_all(set(), live, _RELAY_IS_STALE)
        else:
            due = self._about_all(live, down, reason)
        if not self._all_stale:
            stale = frozenset[str]()
            if live:
                plan = lines[0].plan
                # A product that moves to a new connection stays stale until that one is live.
                stale = plan.products(lost) | (self._stale & plan.products(down))
            due += _changes(self._stale, stale, reason, "the connection is back")
            self._stale = stale
        return due

    def of_products(self, quiet: frozenset[str], watched: frozenset[str]) -> list[TopicNotice]:
        """Record which products are silent now; return the notices about changes since last time.

        Args:
            quiet: the silent products, all of them also in ``watched``.
            watched: the products that are known to be silent or live now; all other products stay
                as they were.
        """
        before = self._quiet & watched
        due = _changes(before, quiet, "no heartbeat", "heartbeats are back")
        self._quiet = (self._quiet - watched) | quiet
        self._health.quiet_products = len(self._quiet)
        return due

    def _state(self, live: set[int], down: set[int], reason: str) -> tuple[FeedState, str]:
        if not live and not down:
            return FeedState.IDLE, ""
        if live and self._session.told_stale:
            return FeedState.STALE, _RELAY_IS_STALE
        if not down:
            return FeedState.LIVE, ""
        if live:
            text = f"{len(down)} of {len(live | down)} connections are down: {reason}"
            return FeedState.LIVE, text if reason else ""
        if reason:
            return FeedState.STALE, reason
        if self._health.state is FeedState.STALE:
            return FeedState.STALE, self._health.reason
        return FeedState.CONNECTING, ""

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


def _changes(
    before: frozenset[str], now: frozenset[str], why_stale: str, why_live: str
) -> list[TopicNotice]:
    """Log and return the notices about products that became stale or live again.

    Args:
        before: the products that were stale.
        now: the products that are stale.
        why_stale: the reason in the notice about products that became stale.
        why_live: the reason in the other notice.
    """
    due = []
    for products, is_stale, reason in (
        (now - before, True, why_stale),
        (before - now, False, why_live),
    ):
        if products:
            some = sorted(products)[:_PRODUCTS_LOGGED_MAX]
            log.warning(
                "products changed state",
                stale=is_stale,
                reason=reason,
                some=some,
                count=len(products),
            )
            notice = notices.stale(is_stale=is_stale, reason=reason, product_ids=products)
            kind = NoticeKind.STALE if is_stale else NoticeKind.BACK
            due.append(TopicNotice(products, notice, kind))
    return due
