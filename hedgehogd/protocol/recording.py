"""Recordings of a feed: one raw message per line, and the replay time of each message.

Sans-I/O, except for ``find_recording``, which looks for the file: lines are converted to
messages with times one by one, so a recording may be larger than memory. A message is replayed
unchanged; only the line break is removed.

The replay time comes from the file of receive times, if there is one. Otherwise it comes from
the messages' own ``time``, as far as that is plausible: a step backwards counts as zero, and a
step over ``_STEP_MAX_S`` in either direction, or a message without a time, counts as ``_PACE_S``.
So neither a ``last_match`` from yesterday nor a wrong clock stalls the replay for a day.
"""

import math
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import msgspec

from hedgehogd.domain.errors import OperatorError

MESSAGES_FILE = "feed.jsonl"
"""Name of the file of messages in the directory of a recording."""
TIMES_SUFFIX = ".recv_ts.txt"
"""Suffix of the file of receive times: ``feed.recv_ts.txt`` has one line per message."""
PRODUCTS_FILE = "rest_products.json"
"""Name of the file with the exchange's answer to ``GET /products``, in the same directory."""

_STEP_MAX_S = 10.0
_PACE_S = 0.01
_FOUND_CHARACTERS_MAX = 60


class RecordingError(Exception):
    """An invalid line of a recording; the text states its number, content and expected form."""


class Recorded(NamedTuple):
    """One message of a recording.

    Attributes:
        due_s: seconds after the recording's first message; never less than that of the
            message before.
        payload: the bytes that the exchange sent.
    """

    due_s: float
    payload: bytes


class _Timed(msgspec.Struct, gc=False):
    time: object = None


_decode_timed = msgspec.json.Decoder(_Timed).decode


def find_recording(path: Path) -> Path:
    """Return the file of messages that ``path`` (that file, or its directory) names.

    Raises:
        OperatorError: there is no such file.
    """
    found = path / MESSAGES_FILE if path.is_dir() else path
    if not found.is_file():
        raise OperatorError(
            f"{path}: there is no recording.\n"
            f"  Expected a file of one message a line, or a directory with a {MESSAGES_FILE}."
        )
    return found


def read_recording(
    lines: Iterable[bytes], received: Iterable[bytes] | None = None
) -> Iterator[Recorded]:
    """Iterate over the messages of a recording, in order; lines are read one by one.

    Args:
        lines: one JSON object or array per line (``feed.jsonl``); blank lines are skipped.
        received: the receive time of each of ``lines``, in seconds since any moment
            (``feed.recv_ts.txt``); None if it was not recorded.

    Raises:
        RecordingError: a line is neither a JSON object nor an array, or has no receive time;
            or a receive time has no line or is not a number. Raised at that line.
    """
    if received is None:
        yield from _read_by_own_times(lines)
        return
    first = due_s = None
    for number, (line, stamp) in enumerate(zip_longest(lines, received), start=1):
        if line is None or stamp is None:
            found = (
                "a message without a receive time" if line else "a receive time without a message"
            )
            raise _error(number, found, "one receive time for each message")
        seconds = _seconds(number, stamp)
        payload = line.rstrip(b"\r\n")
        if not payload:
            continue
        _own_time(number, payload)
        if first is None or due_s is None:
            first, due_s = seconds, 0.0
        due_s = max(due_s, seconds - first)
        yield Recorded(due_s, payload)


def _read_by_own_times(lines: Iterable[bytes]) -> Iterator[Recorded]:
    due_s = -_PACE_S
    last: float | None = None
    for number, line in enumerate(lines, start=1):
        payload = line.rstrip(b"\r\n")
        if not payload:
            continue
        time_s = _own_time(number, payload)
        if time_s is None or last is None or abs(time_s - last) > _STEP_MAX_S:
            due_s += _PACE_S
            last = last if time_s is None else time_s
        elif time_s > last:
            due_s += time_s - last
            last = time_s
        yield Recorded(due_s, payload)


def _own_time(number: int, payload: bytes) -> float | None:
    """Return the message's ``time`` in seconds since the epoch.

    None for an array, and if ``time`` is missing or unreadable. A time without a zone is UTC.

    Raises:
        RecordingError: ``payload`` is neither a JSON object nor an array.
    """
    try:
        if payload.startswith(b"["):
            msgspec.json.decode(payload)
            return None
        text = _decode_timed(payload).time
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _error(number, _excerpt(payload), "one JSON message of the feed") from None
    if not isinstance(text, str):
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _seconds(number: int, stamp: bytes) -> float:
    try:
        seconds = float(stamp)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise _error(number, _excerpt(stamp), "a receive time in seconds")
    return seconds


def _excerpt(line: bytes) -> str:
    return repr(line[:_FOUND_CHARACTERS_MAX].decode(errors="replace").rstrip())


def _error(number: int, found: str, expected: str) -> RecordingError:
    return RecordingError(f"line {number}: found {found}, expected {expected}")
