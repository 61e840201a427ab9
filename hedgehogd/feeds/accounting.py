"""What every feed does with what its session read: the log, and the health."""

import structlog

from hedgehogd.arbitration.batch import Received
from hedgehogd.arbitration.session import UpstreamSession
from hedgehogd.domain.channel import LEVEL2
from hedgehogd.engine.health import FeedHealth

log = structlog.get_logger("feed")

_LINES_PER_READ_MAX = 3


def account(received: Received, session: UpstreamSession, health: FeedHealth) -> None:
    """Log what was odd about one read, at most three lines of a kind, and count it."""
    for oddity in received.oddities[:_LINES_PER_READ_MAX]:
        log.warning("upstream message is odd", what=oddity)
    for complaint in received.complaints[:_LINES_PER_READ_MAX]:
        log.error("the exchange complains", message=complaint)
    for refusal in received.refusals[:_LINES_PER_READ_MAX]:
        if refusal.channel == LEVEL2.topic_channel:
            log.info("level2 is served from level2_batch", reason=refusal.reason)
            continue
        what = refusal.product_id or refusal.channel
        log.error("the exchange refuses", what=what, reason=refusal.reason)
    health.gaps, health.missing = session.arbiter.gaps, session.arbiter.missing
    health.complaints += len(received.complaints)
