"""Log lines and counters of one read, the same for every feed."""

import structlog

from hedgehogd.arbitration.batch import Received
from hedgehogd.arbitration.session import UpstreamSession
from hedgehogd.domain.channel import LEVEL2
from hedgehogd.engine.health import FeedHealth

log = structlog.get_logger("feed")

_LINES_PER_READ_MAX = 3


def account(received: Received, session: UpstreamSession, health: FeedHealth) -> None:
    """Log one read's unexpected messages, errors and refusals; update the counts in ``health``.

    Log lines: at most three of each kind. Counts: the session's totals of gaps and missing
    numbers, and all errors of this read.
    """
    for unexpected in received.oddities[:_LINES_PER_READ_MAX]:
        log.warning("unexpected upstream message", what=unexpected)
    for error in received.complaints[:_LINES_PER_READ_MAX]:
        log.error("upstream error", message=error)
    for refusal in received.refusals[:_LINES_PER_READ_MAX]:
        if refusal.channel == LEVEL2.topic_channel:
            log.info("level2 is served from level2_batch", reason=refusal.reason)
            continue
        refused = refusal.product_id or refusal.channel
        log.error("upstream refusal", what=refused, reason=refusal.reason)
    health.gaps, health.missing = session.arbiter.gaps, session.arbiter.missing
    health.complaints += len(received.complaints)
