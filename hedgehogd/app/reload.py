"""Reload on SIGHUP: the settings that change while the daemon runs.

The configuration is read again from the same flags, environment and file. Held topics, limits
(except ``limits.tape_bytes_max``), the times of a drain and the log level change at once, for open
streams too (but ``limits.topics_max`` only for new ones). For any other changed key the log states
that it needs a restart. A configuration with an error changes nothing.
"""

import structlog
import trio

from hedgehogd.domain.channel import BY_ALIAS, Topic
from hedgehogd.fanout.pipe import Pipe
from hedgehogd.logs.setup import set_level
from hedgehogd.settings.keys import Settings, reloaded
from hedgehogd.streaming.plane import StreamingPlane

log = structlog.get_logger("reload")


def held_topics(settings: Settings) -> list[Topic]:
    """Return the topics that are always held: each channel of ``--channels`` for each pair.

    A channel without products counts once. Without ``--pairs`` there are none.
    """
    if not settings.feed_pairs:
        return []
    return [
        channel.topic(pair)
        for channel in (BY_ALIAS[name] for name in settings.feed_channels)
        for pair in (settings.feed_pairs if channel.takes_products else ("",))
    ]


def only_products(settings: Settings) -> frozenset[str] | None:
    """Return the products of ``--only-pairs``; None if all products of the exchange are served."""
    return frozenset(settings.feed_pairs) if settings.feed_only_pairs else None


def apply(old: Settings, new: Settings, pipe: Pipe, plane: StreamingPlane) -> Settings:
    """Apply the settings that may change, and log all changed keys.

    Returns:
        The settings now in force: ``old``, with the changes that were applied.
    """
    settings, changed, needs_restart = reloaded(old, new)
    pipe.catalogue.restrict(only_products(settings))
    pipe.demand.hold(held_topics(settings), trio.current_time())
    plane.subscribers_max = settings.limits_subscribers_max
    plane.topics_max = settings.limits_topics_max
    plane.addresses.change(
        settings.limits_address_connections_max, settings.limits_address_connections_per_s
    )
    plane.settings.backlog_bytes_max = settings.limits_backlog_bytes_max
    plane.settings.backlog_age_max_s = settings.limits_backlog_age_max_s
    pipe.budget.bytes_max = settings.limits_waiting_bytes_max
    pipe.budget.relieve()
    set_level(settings.log_level)
    log.info("reloaded", changed=changed)
    if {"feed.pairs", "feed.channels"} & set(changed) and pipe.resumes.past is not None:
        log.warning(
            "history records the previous pairs and channels until a restart of all instances"
        )
    if needs_restart:
        log.warning("needs a restart", keys=needs_restart)
    return settings
