"""Log setup: one line per event, JSON for programs, colours for people.

Every line of any module or library passes three steps: ``LineBudget`` limits the number of lines
of one kind, ``Tracebacks`` writes a traceback once per code location, and ``Tidier`` hides
secrets and limits length and content.

If systemd has set ``JOURNAL_STREAM``, as for output to the journal, each JSON line begins with its
level, such as ``<3>``, so that ``journalctl -p err`` works.
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


_CHATTY = ("httpx", "httpcore", "trio-websocket", "quart.serving")
_render_json = structlog.processors.JSONRenderer()


def _render_for_journal(logger: Any, method: str, event: structlog.typing.EventDict) -> str:
    """Render a line as JSON after its syslog level, such as ``<3>``; ``<6>`` for unknown levels."""
    level = _SYSLOG_LEVELS.get(event["level"], _SYSLOG_LEVELS["info"])
    return f"<{level}>{_render_json(logger, method, event)!s}"


def set_level(level: str) -> None:
    """Write only log lines of ``level`` and above from now on; the name may have any case.

    Libraries with a line per request (``_CHATTY``) write no line below a warning.

    Raises:
        ValueError: there is no such level.
    """
    root = logging.getLogger()
    root.setLevel(level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))


class _Lines:
    """State shared by all log lines of the process: the line budget, and the secrets to hide."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.budget = LineBudget() if clock is None else LineBudget(clock)
        self.secrets = Secrets()

    def hide(self, text: str) -> str:
        return hide_in_text(self.secrets.hide(text))

    def own(self, _logger: Any, _method: str, event: structlog.typing.EventDict) -> Any:
        """Structlog processor: drop a line of hedgehogd itself beyond the budget.

        It adds ``left_out``, the number of lines dropped before, and resolves an ``exc_info`` of
        True. Raises structlog.DropEvent to drop the line.
        """
        if event.get("exc_info") is True:  # this runs in the except block that logs
            event["exc_info"] = sys.exc_info()
        exception = raised(event.get("exc_info"))
        name, place = str(event.get("logger", "")), exception.place if exception else ""
        kind = (name, str(event.get("event")), place)
        left_out = self.budget.admit(kind)
        if left_out is None:
            raise structlog.DropEvent
        if left_out:
            event["left_out"] = left_out
        return event

    def foreign(self, record: logging.LogRecord) -> bool:
        """Logging filter: return False to drop a line of a library beyond the budget.

        It stores the number of lines dropped before in ``record.left_out``.
        """
        if isinstance(record.msg, dict):  # a line of hedgehogd, already counted by ``own``
            return True
        exception = raised(record.exc_info)
        place = exception.place if exception else ""
        left_out = self.budget.admit((record.name, f"{record.pathname}:{record.lineno}", place))
        record.left_out = left_out
        return left_out is not None


_lines = _Lines()


def hide_in_logs(secrets: Secrets) -> None:
    """Add ``secrets`` to those hidden in all later log lines, tracebacks included."""
    _lines.secrets |= secrets


def report_left_out(at_least_s: float = limits.LOG_PERIOD_S) -> None:
    """Log the number of omitted lines that no line has reported yet, in one line; reset it.

    A kind counts if its first omitted line is at least ``at_least_s`` seconds old; without one
    nothing is logged. After a flood there may be no next line of its kind to report them. The
    daemon calls this once per period and, with ``at_least_s=0``, at its end.
    """
    by_kind = _lines.budget.take_left_out(at_least_s)
    counts = {": ".join(word for word in kind if word): count for kind, count in by_kind.items()}
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
    """Return the last processors, which the lines of all modules and libraries pass.

    The last one renders the line: for people if ``human``, else as JSON.
    """
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
    """Send structlog's and the standard library's logs to stderr, in place of all other outputs.

    A further call begins with a new line budget and keeps the hidden secrets.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        form: ``json``, ``human``, or ``auto``: human if stderr is a terminal, JSON otherwise.
        instance: the instance number, added to every line unless None.
        clock: the clock of the line budget; tests pass their own.
    """
    global _lines  # one process has one log
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
    structlog.contextvars.clear_contextvars()
    if instance is not None:
        structlog.contextvars.bind_contextvars(instance=instance)
