"""Bounds for log lines: how many of a kind, how long, and what a peer's text may do in them.

Peers cause log lines: an exchange that sends rubbish, a client that provokes a bug. Their
number is bounded per kind by ``LineBudget``, their length and content by ``Tidier``. Nothing
is left out in silence: the next line of the kind states how many were left out.
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
"""What lines of one kind have in common: logger, event or place in the code, place of an error."""

_OTHER_KINDS: Kind = ("other kinds",)
_DEPTH_MAX = 3
_ALWAYS_SHOWN = 100  # characters of each key and value: a large value hides no level, no time
_Item = TypeVar("_Item")
# Control characters, line separators, and marks that change the direction of text: a terminal
# obeys them, and a line break forges a line.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_CONTROLS_IN_TRACEBACK = re.compile(_CONTROLS.pattern.replace("\x00-\x1f", "\x00-\x09\x0b-\x1f"))


class _Kind:
    """One kind of line: what it may still write, and what it left out."""

    __slots__ = ("left_out", "left_out_since", "lines", "refilled_at")

    def __init__(self, now: float) -> None:
        self.lines = float(limits.LOG_LINES_BURST)
        self.refilled_at = now
        self.left_out = 0
        self.left_out_since = 0.0


class LineBudget:
    """Admits a burst of lines of each kind, then one in a period.

    Args:
        clock: seconds; any origin.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kinds: dict[Kind, _Kind] = {}

    def admit(self, kind: Kind) -> int | None:
        """Return how many lines of ``kind`` were left out before this one; None to leave it out.

        Kinds beyond ``LOG_KINDS_MAX`` share one budget.
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
        """Return the counts older than ``at_least_s`` by kind; they count as reported."""
        now = self._clock()
        found = {
            kind: state.left_out
            for kind, state in self._kinds.items()
            if state.left_out and now - state.left_out_since >= at_least_s
        }
        for kind in found:
            self._kinds[kind].left_out = 0
        return found


class Raised(NamedTuple):
    """What an ``exc_info`` of a log line refers to.

    Attributes:
        error: the exception; the first leaf of a group.
        whole: the exception with its group.
        place: type, file and line of the innermost frame.
    """

    error: BaseException
    whole: BaseException
    place: str


def raised(exc_info: Any) -> Raised | None:
    """Return what ``exc_info`` (True, an exception, or ``sys.exc_info()``) refers to."""
    # structlog has replaced True by the tuple where the line was written.
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
    """Structlog processor: writes the traceback of an exception once per place.

    A further exception at the same place is one line: ``error`` and ``place``.
    """

    def __init__(self) -> None:
        self._places: set[str] = set()

    def __call__(
        self, _logger: Any, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        """Replace ``exc_info`` by text."""
        found = raised(event.pop("exc_info", None))
        if found is None:
            return event
        if found.place not in self._places and len(self._places) < limits.LOG_KINDS_MAX:
            self._places.add(found.place)
            event["exception"] = "".join(traceback.format_exception(found.whole)).rstrip("\n")
        else:
            event["error"] = f"{type(found.error).__name__}: {found.error}"
            event["place"] = found.place
        return event


class Tidier:
    """Structlog processor: hides secrets, bounds each value and the line, escapes controls.

    Args:
        hide: removes secrets from text.
        escapes: replace control characters; JSON does so by itself.
    """

    def __init__(self, hide: Callable[[str], str], *, escapes: bool) -> None:
        self._hide = hide
        self._escapes = escapes

    def __call__(
        self, _logger: Any, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        """Return the line with every value bounded."""
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
        """Return the beginning and the end of a traceback; no line starts in the first column."""
        half = limits.LOG_TRACEBACK_CHARACTERS_MAX // 2
        text = self._hide(text)
        if len(text) > 2 * half:
            text = f"{text[:half]}\n…\n{text[-half:]}"
        if not self._escapes:
            return text
        return "  " + _CONTROLS_IN_TRACEBACK.sub(_escaped, text).replace("\n", "\n  ")


class _Room:
    """What is left of one line's length."""

    def __init__(self, tidy: Callable[[str], str], characters: int) -> None:
        self._tidy = tidy
        self._characters = characters

    def text(self, text: str, *, at_least: int = 0) -> str:
        """Return ``text``, cut to what is left; ``at_least`` characters stay in any case."""
        text = self._tidy(text)
        length = max(at_least, min(limits.LOG_VALUE_CHARACTERS_MAX, self._characters))
        self._characters -= min(len(text), length)
        return text if len(text) <= length else f"{text[:length]}… ({len(text)} characters)"

    def value(self, value: Any, depth: int = 0) -> Any:
        """Return a value that JSON knows. What is in a container is left out without room."""
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
    """Return a peer's text for a terminal: no control characters, bounded."""
    return _CONTROLS.sub(_escaped, text[: limits.LOG_VALUE_CHARACTERS_MAX])


def _printed(value: Any) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001  # a value that cannot be printed costs itself only
        return f"<{type(value).__name__}: {type(error).__name__}>"


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
