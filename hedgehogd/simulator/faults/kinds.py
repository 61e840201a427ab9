"""The kinds of faults: names, effects, parameters, and how often each recurs."""

import math
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, NamedTuple

from hedgehogd.domain.channel import BY_ALIAS
from hedgehogd.simulator.faults import doors, ends, lines, spoils
from hedgehogd.simulator.faults.orders import FaultError, FaultOrder

Fault = lines.LineFault | doors.SubscribeFault | doors.Http | doors.RestFault

_COUNT_MAX = 10_000
_SECONDS_MAX = 3600.0
_SNAPSHOT_BYTES_MAX = 15_000_000  # the limit of a message is 16 MiB
_CODES = frozenset({1000, 1001, 1002, 1003, *range(1006, 1016), *range(3000, 5000)})


class Param(NamedTuple):
    """The parameter of a fault, written after its name and a colon.

    Attributes:
        name: for operators, with its unit; empty when the fault has no parameter.
        default: the text used when the parameter is absent.
        read: converts the text to the fault's parameter; its ValueError states the expected form.
    """

    name: str
    default: str
    read: Callable[[str], Any]


class Kind(NamedTuple):
    """One kind of fault.

    Attributes:
        says: its effect, in one line.
        param: its parameter.
        period_s: mean period when it recurs (``--fault``).
        make: makes an armed fault.
    """

    says: str
    param: Param
    period_s: float
    make: Callable[[FaultOrder], Fault]


def _nothing(text: str) -> None:
    if text:
        raise ValueError("no parameter")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _COUNT_MAX):
        raise ValueError(f"a whole number from 1 to {_COUNT_MAX}")
    return int(text)


def _bytes(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _SNAPSHOT_BYTES_MAX):
        raise ValueError(f"bytes, from 1 to {_SNAPSHOT_BYTES_MAX}")
    return int(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= _SECONDS_MAX:
        raise ValueError(f"a number above 0, at most {_SECONDS_MAX:g}")
    return number


def _close_code(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) in _CODES):
        raise ValueError("a WebSocket close code, such as 1001 or 1012")
    return int(text)


def _status(text: str) -> tuple[int, int]:
    status, _, times = text.partition("x")
    if not (status.isascii() and status.isdigit() and 400 <= int(status) <= 599):
        raise ValueError("an HTTP status from 400 to 599, or 503x3 for three times")
    return int(status), _count(times or "1")


def _garbage(text: str) -> str:
    if text not in {"extra", "truncated"}:
        raise ValueError("extra or truncated")
    return text


def _channel(text: str) -> str | None:
    if text and text not in BY_ALIAS:
        raise ValueError("a channel, such as ticker")
    return BY_ALIAS[text].name if text else None


_NONE = Param("", "", _nothing)
_MESSAGES = Param("messages", "1", _count)
_LATER = Param("messages in between", "3", _count)
_NTH = Param("at its n-th message from now", "1", _count)
_REFUSAL = Param("status, or status x times", "503", _status)

KINDS: dict[str, Kind] = {
    "sequence_gap": Kind("numbered messages of a product are lost on one connection",
        _MESSAGES, 20, lines.SequenceGap),
    "trade_gap": Kind("trades are lost on one connection", Param("trades", "1", _count), 20,
        lines.TradeGap),
    "trade_gap_everywhere": Kind("trades are lost on all connections; REST has them",
        Param("trades", "1", _count), 30, lines.TradeGapEverywhere),
    "duplicate": Kind("a numbered message is sent twice", _NONE, 10, lines.Duplicate),
    "late": Kind("a numbered message is sent after later ones", _LATER, 10, lines.Late),
    "year_one": Kind("an l2update is of the year one", _NONE, 10, spoils.YearOne),
    "malformed_amount": Kind("a size in a snapshot or l2update is 0.-10000", _NONE, 30,
        spoils.MalformedAmount),
    "ack_after_data": Kind("an acknowledgement comes after messages of data", _LATER, 20,
        lines.AckAfterData),
    "error_and_partial_ack": Kind("a product that exists is refused, the rest is subscribed",
        _NONE, 60, doors.PartialAck),
    "lost_subscription": Kind("a topic is acknowledged and never sent",
        Param("channel", "", _channel), 60, doors.LostSubscription),
    "silence": Kind("a connection stays open and sends nothing, pongs included",
        Param("seconds", "30", _positive), 120, ends.Silence),
    "quiet_product": Kind("a product sends no message, nor heartbeats, on one connection",
        _NONE, 120, lines.QuietProduct),
    "reset": Kind("a connection is reset", _NTH, 60, ends.Reset),
    "eof": Kind("a connection ends without a close frame", _NTH, 60, ends.Eof),
    "close": Kind("a connection is closed with a code; 1006 resets it",
        Param("code", "1001", _close_code), 60, ends.Close),
    "http": Kind("a handshake is answered with an HTTP status", _REFUSAL, 60, doors.Http),
    "big_snapshot": Kind("a book becomes so deep that its next snapshot is this large",
        Param("bytes", "5000000", _bytes), 300, doors.BigSnapshot),
    "slow_drip": Kind("a message comes byte by byte", Param("bytes/s", "100", _positive), 60,
        ends.SlowDrip),
    "garbage": Kind("a text that is not JSON, or half a message",
        Param("extra or truncated", "extra", _garbage), 30, spoils.Garbage),
    "bad_frame": Kind("a frame breaks the WebSocket protocol", _NONE, 60, spoils.BadFrame),
    "binary": Kind("a binary message", _NONE, 30, spoils.Binary),
    "unknown_type": Kind("a message of an unknown type", _NONE, 10, spoils.UnknownType),
    "crossed_book": Kind("an l2update makes a book cross on one connection", _NONE, 30,
        spoils.CrossedBook),
    "bare_removal": Kind("an l2update removes a level that is not there", _NONE, 30,
        spoils.BareRemoval),
    "rest_error": Kind("REST answers with an HTTP status", _REFUSAL, 30, doors.RestError),
    "rest_stale": Kind("a first page of trades is some seconds old",
        Param("seconds", "6", _positive), 30, doors.RestStale),
    "rest_slow": Kind("REST answers late", Param("seconds", "5", _positive), 30,
        doors.RestSlow),
}  # fmt: skip


def find_kind(name: str) -> Kind:
    """Return the kind of that name.

    Raises:
        FaultError: no such kind; the text names the most similar one.
    """
    kind = KINDS.get(name)
    if kind is None:
        near = get_close_matches(name, KINDS, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else "See `hedgehogd simulate --fault help`."
        raise FaultError(f"there is no fault {name!r}\n  {hint}")
    return kind


def read_param(name: str, text: str | None) -> Any:
    """Return the value of ``text``, or of the default, as parameter of the fault ``name``.

    Raises:
        FaultError: no such fault, or an invalid parameter.
    """
    param = find_kind(name).param
    try:
        return param.read(param.default if text is None else text)
    except ValueError as error:
        raise FaultError(f"fault {name}: found {text!r}, expected {error}") from None


def fault_list() -> str:
    """Return the list of all faults as text, one line each, for operators."""
    rows = []
    for name, kind in KINDS.items():
        param = kind.param
        usage = f"{name}:{param.default or param.name.upper()}" if param.name else name
        rows.append((usage, f"{kind.says} ({param.name})" if param.name else kind.says))
    width = max(len(usage) for usage, _ in rows)
    return "".join(f"  {usage:{width}}  {says}\n" for usage, says in rows)
