"""Recordings of a feed: one raw message a line, and when each is due again.

Sans-I/O: lines come in, messages with their times come out, one by one, so a recording
may be larger than memory. Raw is sacred: only the line break is taken off.

When a message is due is said by its line of receive times, if there are any. If not, the
messages' own ``time`` has to do, as far as it can be believed: a step back is no step, and
a step of over ``_STEP_MAX_S``, either way, or a message without a time, counts as
``_PACE_S``. So a ``last_match`` from yesterday does not stall the replay for a day, nor
does a broken clock in the middle.
"""

import math
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import zip_longest
from typing import NamedTuple

import msgspec

MESSAGES_FILE = "feed.jsonl"
"""What a recording's file of messages is called in its directory."""
TIMES_SUFFIX = ".recv_ts.txt"
"""Receive times stand beside ``feed.jsonl`` in ``feed.recv_ts.txt``, line by line."""
PRODUCTS_FILE = "rest_products.json"
"""The exchange's answer to ``GET /products``, in the same directory."""

_STEP_MAX_S = 10.0
_PACE_S = 0.01
_FOUND_CHARACTERS_MAX = 60


class RecordingError(Exception):
    """A line that a recording cannot have; the text says which, what it is, what was expected."""


class Recorded(NamedTuple):
    """One message of a recording.

    Attributes:
        due_s: seconds after the recording's first message; never falls.
        payload: what the exchange sent, byte for byte.
    """

    due_s: float
    payload: bytes


class _Timed(msgspec.Struct, gc=False):
    time: object = None


_decode_timed = msgspec.json.Decoder(_Timed).decode


def read_recording(
    lines: Iterable[bytes], received: Iterable[bytes] | None = None
) -> Iterator[Recorded]:
    """Iterate over the messages of a recording, in order.

    Args:
        lines: a JSON object or array each (``feed.jsonl``); blank ones are skipped.
        received: for each of ``lines`` when it was received, in seconds since any moment
            (``feed.recv_ts.txt``); None when that was not recorded.

    Raises:
        RecordingError: a line is not JSON, or has no receive time, or there are receive
            times left over. Raised when that line is reached.
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
    """Return the message's own time, seconds since the epoch, or None when it has none.

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
