"""Logs: one line an event, JSON for machines, colours for people.

Levels go before the line as ``<3>`` when systemd's journal reads us, so that
``journalctl -p err`` works.
"""

import logging
import os
import sys
from typing import Any

import structlog

_SYSLOG_LEVELS = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


_render_json = structlog.processors.JSONRenderer()


def _render_for_journal(logger: Any, method: str, event: structlog.typing.EventDict) -> str:
    """Render as JSON, behind the level's number."""
    level = _SYSLOG_LEVELS.get(event["level"], _SYSLOG_LEVELS["info"])
    return f"<{level}>{_render_json(logger, method, event)!s}"


def set_level(level: str) -> None:
    """Log from ``level`` on."""
    logging.getLogger().setLevel(level.upper())


def configure_logs(level: str, form: str, instance: int | None = None) -> None:
    """Send structlog's and the standard library's logs to stderr.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        form: ``json``, ``human``, or ``auto``: human on a terminal, JSON otherwise.
        instance: added to every line when given.
    """
    human = form == "human" or (form == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=not human),
    ]
    last: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if human:
        last.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()))
    else:
        in_journal = "JOURNAL_STREAM" in os.environ
        last.append(structlog.processors.format_exc_info)
        last.append(_render_for_journal if in_journal else _render_json)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last)
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level)
    for chatty in ("httpx", "httpcore", "trio-websocket", "quart.serving"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    structlog.contextvars.clear_contextvars()
    if instance is not None:
        structlog.contextvars.bind_contextvars(instance=instance)
