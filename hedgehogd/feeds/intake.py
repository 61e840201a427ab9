"""What every feed does with what its session read: the log, and the health."""

import structlog
import trio

from hedgehogd.engine.health import FeedHealth
from hedgehogd.protocol.upstream import Received, UpstreamSession

log = structlog.get_logger("feed")

_LINES_PER_READ_MAX = 3


def account(received: Received, session: UpstreamSession, health: FeedHealth) -> None:
    """Log what was odd about one read, at most three lines of a kind, and count it."""
    for oddity in received.oddities[:_LINES_PER_READ_MAX]:
        log.warning("upstream message is odd", what=oddity)
    for complaint in received.complaints[:_LINES_PER_READ_MAX]:
        log.error("the exchange complains", message=complaint)
    for refusal in received.refusals[:_LINES_PER_READ_MAX]:
        log.error("the exchange refuses a product", reason=refusal.reason)
    health.dropped = session.dropped
    health.gaps, health.trades_missing = session.gaps, session.trades_missing
    health.complaints += len(received.complaints)
    health.heard_at = trio.current_time()
