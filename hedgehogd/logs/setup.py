"""Logs: one line an event, JSON for machines, colours for people.

Every line passes three steps, whichever module or library wrote it: ``LineBudget`` bounds the
number of lines of one kind, ``Tracebacks`` writes a traceback once per place, and ``Tidier``
hides secrets and bounds length and content.

Levels go before the line as ``<3>`` when systemd's journal reads us, so that
``journalctl -p err`` works.
"""

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import structlog

from hedgehogd.domain import limits
from hedgehogd.domain.secret import Secrets, hide_in_text
from hedgehogd.logs.bounds import LineBudget, Tidier, Tracebacks, raised

_SYSLOG_LEVELS = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


_render_json = structlog.processors.JSONRenderer()


def _render_for_journal(logger: Any, method: str, event: structlog.typing.EventDict) -> str:
    """Render as JSON, behind the level's number."""
    level = _SYSLOG_LEVELS.get(event["level"], _SYSLOG_LEVELS["info"])
    return f"<{level}>{_render_json(logger, method, event)!s}"


def set_level(level: str) -> None:
    """Log from ``level`` on."""
    logging.getLogger().setLevel(level.upper())


class _Lines:
    """What the lines of this process share: the budget, and the secrets not to be shown."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.budget = LineBudget() if clock is None else LineBudget(clock)
        self.secrets = Secrets()

    def hide(self, text: str) -> str:
        return hide_in_text(self.secrets.hide(text))

    def own(self, _logger: Any, _method: str, event: structlog.typing.EventDict) -> Any:
        """Structlog processor: leave out a line of hedgehogd's own beyond the budget."""
        if event.get("exc_info") is True:  # the processors run where the line is written
            event["exc_info"] = sys.exc_info()
        found = raised(event.get("exc_info"))
        name, place = str(event.get("logger", "")), found.place if found else ""
        kind = (name, str(event.get("event")), place)
        left_out = self.budget.admit(kind)
        if left_out is None:
            raise structlog.DropEvent
        if left_out:
            event["left_out"] = left_out
        return event

    def foreign(self, record: logging.LogRecord) -> bool:
        """Filter of the handler: leave out a library's line beyond the budget."""
        if isinstance(record.msg, dict):  # hedgehogd's own: ``own`` has counted it
            return True
        found = raised(record.exc_info)
        place = found.place if found else ""
        left_out = self.budget.admit((record.name, f"{record.pathname}:{record.lineno}", place))
        record.left_out = left_out
        return left_out is not None


_lines = _Lines()


def hide_in_logs(secrets: Secrets) -> None:
    """Never show ``secrets`` in a log line of this process, tracebacks included."""
    _lines.secrets |= secrets


def report_left_out(at_least_s: float = limits.LOG_PERIOD_S) -> None:
    """Log how many lines were left out and not reported yet, in one line.

    A flood that has ended has no next line that would report it. The daemon calls this once a
    period and, with ``at_least_s=0``, at its end.
    """
    found = _lines.budget.take_left_out(at_least_s)
    counts = {": ".join(word for word in kind if word): count for kind, count in found.items()}
    if counts:
        total = sum(counts.values())
        structlog.get_logger("log").warning("lines left out", left_out=total, kinds=counts)


def _add_left_out(
    _logger: Any, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    if left_out := getattr(event["_record"], "left_out", None):
        event["left_out"] = left_out
    return event


def _last_steps(*, human: bool) -> list[Any]:
    """Return the processors that every line passes, whichever library wrote it."""
    steps = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        Tracebacks(),
        Tidier(_lines.hide, escapes=human),
    ]
    if not human:
        return [*steps, _render_for_journal if "JOURNAL_STREAM" in os.environ else _render_json]
    colors, plain = sys.stderr.isatty(), structlog.dev.plain_traceback
    return [*steps, structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]


def configure_logs(
    level: str,
    form: str,
    instance: int | None = None,
    *,
    clock: Callable[[], float] | None = None,
) -> None:
    """Send structlog's and the standard library's logs to stderr.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        form: ``json``, ``human``, or ``auto``: human on a terminal, JSON otherwise.
        instance: added to every line when given.
        clock: for the number of lines in a period; a test passes its own.
    """
    global _lines  # one process, one log
    secrets, _lines = _lines.secrets, _Lines(clock)
    _lines.secrets = secrets
    human = form == "human" or (form == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=not human),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_logger_name,
            _lines.own,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, _add_left_out, *shared],
            processors=_last_steps(human=human),
        )
    )
    handler.addFilter(_lines.foreign)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level)
    for chatty in ("httpx", "httpcore", "trio-websocket", "quart.serving"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    structlog.contextvars.clear_contextvars()
    if instance is not None:
        structlog.contextvars.bind_contextvars(instance=instance)
