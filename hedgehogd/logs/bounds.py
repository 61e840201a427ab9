"""Limits of log lines: number per kind, length, and the characters of a peer's text in them.

Peers cause log lines: an exchange sends garbage, a client triggers a bug. ``LineBudget`` limits
the number of lines of each kind, ``Tidier`` their length and content. Omitted lines are counted:
the next line of the same kind states their number, unless ``setup.report_left_out`` has reported it
before. ``Tracebacks`` writes a traceback once per code location.
"""

import re
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import structlog

from hedgehogd.domain import limits

Kind = tuple[str, ...]
"""The common part of lines of one kind: logger, event or code location, location of an error."""

_OTHER_KINDS: Kind = ("other kinds",)
_DEPTH_MAX = 3
_ALWAYS_SHOWN = 100  # characters of each key and value, so that level and time always appear
_Item = TypeVar("_Item")
# Control characters, line separators, and marks that change the direction of text: a terminal
# obeys them, and with a line break a peer could forge a log line.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_CONTROLS_IN_TRACEBACK = re.compile(_CONTROLS.pattern.replace("\x00-\x1f", "\x00-\x09\x0b-\x1f"))


class _Kind:
    """One kind of line: the lines that it may still write, and the number of omitted lines."""

    __slots__ = ("left_out", "left_out_since", "lines", "refilled_at")

    def __init__(self, now: float) -> None:
        self.lines = float(limits.LOG_LINES_BURST)
        self.refilled_at = now
        self.left_out = 0
        self.left_out_since = 0.0


class LineBudget:
    """Limits each kind to a burst of lines, then to one line per period.

    Args:
        clock: returns seconds, from any origin.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kinds: dict[Kind, _Kind] = {}

    def admit(self, kind: Kind) -> int | None:
        """Count a line of ``kind`` and decide if it is written.

        Kinds beyond ``LOG_KINDS_MAX`` share one budget.

        Returns:
            The number of lines omitted since the last written or reported one, which is then
            reset; None if this line must be omitted too.
        """
        now = self._clock()
        if kind not in self._kinds and len(self._kinds) >= limits.LOG_KINDS_MAX:
            kind = _OTHER_KINDS
        state = self._kinds.setdefault(kind, _Kind(now))
        refill = max(0.0, now - state.refilled_at) / limits.LOG_PERIOD_S
        state.lines = min(float(limits.LOG_LINES_BURST), state.lines + refill)
        state.refilled_at = now
        if state.lines < 1:
            state.left_out_since = state.left_out_since if state.left_out else now
            state.left_out += 1
            return None
        state.lines -= 1
        left_out, state.left_out = state.left_out, 0
        return left_out

    def take_left_out(self, at_least_s: float) -> dict[Kind, int]:
        """Return, by kind, and reset the counts that began at least ``at_least_s`` seconds ago.

        A count begins with the first line that is omitted.
        """
        now = self._clock()
        counts = {
            kind: state.left_out
            for kind, state in self._kinds.items()
            if state.left_out and now - state.left_out_since >= at_least_s
        }
        for kind in counts:
            self._kinds[kind].left_out = 0
        return counts


class Raised(NamedTuple):
    """The exception that the ``exc_info`` of a log line refers to.

    Attributes:
        error: the exception, or the first leaf of an exception group.
        whole: the exception, or the outermost group that contains it.
        place: the code location of ``error``: its type, file and line of its innermost frame; the
            type alone if it was never raised.
    """

    error: BaseException
    whole: BaseException
    place: str


def raised(exc_info: Any) -> Raised | None:
    """Describe the exception in ``exc_info``, an exception or a tuple; None if it has none."""
    # True was already replaced by sys.exc_info() where the line was written.
    whole = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    if not isinstance(whole, BaseException):
        return None
    error = whole
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    where = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        where = f" at {frame.f_code.co_filename}:{line}"
    return Raised(error, whole, f"{type(error).__name__}{where}")


class Tracebacks:
    """Structlog processor: writes the traceback of an exception once per code location.

    Further exceptions at the same location are one line each, with ``error`` and ``place``, and so
    are all exceptions at a location beyond the first ``LOG_KINDS_MAX``.
    """

    def __init__(self) -> None:
        self._places: set[str] = set()

    def __call__(
        self, _logger: Any, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        """Replace ``exc_info`` of ``event`` by ``exception``, or by ``error`` and ``place``."""
        exception = raised(event.pop("exc_info", None))
        if exception is None:
            return event
        if exception.place not in self._places and len(self._places) < limits.LOG_KINDS_MAX:
            self._places.add(exception.place)
            event["exception"] = "".join(traceback.format_exception(exception.whole)).rstrip("\n")
        else:
            event["error"] = f"{type(exception.error).__name__}: {exception.error}"
            event["place"] = exception.place
        return event


class Tidier:
    """Structlog processor: hides secrets, truncates values and lines, escapes control characters.

    Args:
        hide: removes secrets from a text.
        escapes: True to escape control characters; False for JSON, which escapes them itself.
    """

    def __init__(self, hide: Callable[[str], str], *, escapes: bool) -> None:
        self._hide = hide
        self._escapes = escapes

    def __call__(
        self, _logger: Any, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        """Return a new line: secrets hidden, each key and value and the traceback within limits."""
        room = _Room(self._text, limits.LOG_LINE_CHARACTERS_MAX)
        trace = event.pop("exception", None)
        tidy: structlog.typing.EventDict = {
            room.text(str(key), at_least=_ALWAYS_SHOWN): room.value(value)
            for key, value in event.items()
        }
        if trace is not None:
            tidy["exception"] = self._traceback(str(trace))
        return tidy

    def _text(self, text: str) -> str:
        text = self._hide(text)
        return _CONTROLS.sub(_escaped, text) if self._escapes else text

    def _traceback(self, text: str) -> str:
        """Return a traceback, a long one without its middle, indented unless the output is JSON."""
        half = limits.LOG_TRACEBACK_CHARACTERS_MAX // 2
        text = self._hide(text)
        if len(text) > 2 * half:
            text = f"{text[:half]}\n…\n{text[-half:]}"
        if not self._escapes:
            return text
        return "  " + _CONTROLS_IN_TRACEBACK.sub(_escaped, text).replace("\n", "\n  ")


class _Room:
    """Makes the keys and values of one line fit into its remaining characters."""

    def __init__(self, tidy: Callable[[str], str], characters: int) -> None:
        self._tidy = tidy
        self._characters = characters

    def text(self, text: str, *, at_least: int = 0) -> str:
        """Return ``text`` tidied and truncated; subtract the characters kept from the line's rest.

        Secrets are hidden and, unless the output is JSON, control characters escaped. The note
        that it was truncated is not counted.

        It is truncated to the limit of a value and to the remaining characters, but never to
        fewer than ``at_least``.
        """
        text = self._tidy(text)
        length = max(at_least, min(limits.LOG_VALUE_CHARACTERS_MAX, self._characters))
        self._characters -= min(len(text), length)
        return text if len(text) <= length else f"{text[:length]}… ({len(text)} characters)"

    def value(self, value: Any, depth: int = 0) -> Any:
        """Return ``value`` as a type of JSON; a container loses the items that exceed a limit.

        A container at depth ``_DEPTH_MAX`` and a value of any other type become text.
        """
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, int) and abs(value) < 1 << 64:
            return value
        if isinstance(value, dict) and depth < _DEPTH_MAX:
            rows = self._first(value.items())
            return {self.text(str(key)): self.value(item, depth + 1) for key, item in rows}
        if isinstance(value, list | tuple | set | frozenset) and depth < _DEPTH_MAX:
            return [self.value(item, depth + 1) for item in self._first(value)]
        text = value if isinstance(value, str) else _printed(value)
        return self.text(text, at_least=0 if depth else _ALWAYS_SHOWN)

    def _first(self, items: Iterable[_Item]) -> Iterator[_Item]:
        for item in islice(items, limits.LOG_ITEMS_MAX):
            if self._characters > 0:
                yield item


def printable(text: str) -> str:
    """Return a peer's text for a terminal: truncated like a value, controls escaped.

    Secrets in it are not hidden.
    """
    return _CONTROLS.sub(_escaped, text[: limits.LOG_VALUE_CHARACTERS_MAX])


def _printed(value: Any) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001  # an unprintable value must not lose the line
        return f"<{type(value).__name__}: {type(error).__name__}>"


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
