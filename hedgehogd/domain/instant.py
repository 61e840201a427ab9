"""Instants: µs since the epoch, and their text form (RFC 3339, and the ISO 8601 forms of Python).

Source: RFC 3339 §5.6. The exchange writes six decimals of a second and ``Z`` (COINBASE §6).
"""

from datetime import UTC, datetime, timedelta

NEVER_US = 2**62
"""A number of µs that is later than any instant; it has no text."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)
_FIELD = b'"time":"'
_LENGTH_MAX = 40


class BadInstant(ValueError):
    """A text that is not an instant; the error message states the expected form."""


def to_us(text: str) -> int:
    """Parse an instant; return whole µs since the epoch, negative before 1970.

    Every form of ISO 8601 that ``datetime.fromisoformat`` reads is accepted, not only RFC 3339.

    Raises:
        BadInstant: ``text`` has none of these forms, or has no time zone.
    """
    try:
        when = datetime.fromisoformat(text)
        return (when - _EPOCH) // _US
    except (ValueError, TypeError, OverflowError):  # TypeError: without a zone
        raise BadInstant(f"{text!r} is not a time like 2026-01-31T12:00:00Z") from None


def to_text(us: int) -> str:
    """Format an instant as the exchange does, ``2026-01-31T12:00:00.000000Z``.

    Raises:
        OverflowError: ``us`` is outside the years 1 to 9999.
    """
    return f"{(_EPOCH + us * _US).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def time_of(payload: bytes) -> int | None:
    """Return the exchange's time of a message in µs since the epoch; None if it is not found.

    The time is the last text of a ``level3`` array, and the last ``"time":"…"`` (without white
    space) of an object. ``payload`` is searched, not parsed; an unreadable time is None too.
    """
    if payload[:1] == b"[":
        end = payload.rfind(b'"')
        text = payload[payload.rfind(b'"', 0, end) + 1 : end]
    else:
        at = payload.rfind(_FIELD)
        if at < 0:
            return None
        begin = at + len(_FIELD)
        text = payload[begin : payload.find(b'"', begin, begin + _LENGTH_MAX)]
    try:
        return to_us(text.decode("ascii"))
    except ValueError:
        return None
