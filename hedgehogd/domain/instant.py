"""Instants: µs since the epoch, and how they are written (RFC 3339).

Source: RFC 3339 §5.6. The exchange writes six digits of a second and ``Z`` (FEED §6).
"""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)
_FIELD = b'"time":"'
_LENGTH_MAX = 40


class BadInstant(ValueError):
    """A text that is no instant; the message says what was expected."""


def to_us(text: str) -> int:
    """Read an instant.

    Raises:
        BadInstant: it is not of RFC 3339, or says no zone.
    """
    try:
        when = datetime.fromisoformat(text)
        return (when - _EPOCH) // _US
    except (ValueError, TypeError, OverflowError):  # TypeError: without a zone
        raise BadInstant(f"{text!r} is not a time like 2026-01-31T12:00:00Z") from None


def to_text(us: int) -> str:
    """Write an instant as the exchange does, ``2026-01-31T12:00:00.000000Z``."""
    return f"{(_EPOCH + us * _US).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def time_of(payload: bytes) -> int | None:
    """Return when the exchange made a message; None when that cannot be read of it.

    The last element of a ``level3`` array is its time, of an object its ``time``.
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
