"""Positions: what a subscriber has been given, as a token it can come back with.

A position is per topic, ``channel → product → last sequence delivered``, because a
product's channels share one counter (a ticker carries its match's number). It needs no
server state and means the same on every instance (DESIGN §5).

On the wire of ``/ws`` it is a JSON object; in an SSE ``id:`` it is text,
``matches:BTC-USD@135437581854,ticker:BTC-USD@135437581854``.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from hedgehogd.domain.channel import BY_TOPIC_CHANNEL, Topic
from hedgehogd.domain.instant import BadInstant, to_us
from hedgehogd.domain.limits import SEQUENCE_MAX

_AGE = re.compile(r"-([0-9]{1,9})(ms|s|m|h|d)")
_LOST_PLUS = re.compile(r"(?<=\d) (?=\d\d:?\d\d$)")
_UNITS_US = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}


class BadPosition(ValueError):
    """A text that is not a position; the message says where it stops being one."""


class Start(NamedTuple):
    """Where a topic is taken up.

    Attributes:
        sequence: behind the message of this number; None where time decides.
        after_us: behind what was received up to then, µs since the epoch.
        is_new: from now on; nothing that was before is missing.
    """

    sequence: int | None = None
    after_us: int = 0
    is_new: bool = False


def read_number(text: str, maximum: int = SEQUENCE_MAX) -> int | None:
    """Read a whole number from 0 to ``maximum``; None when ``text`` is not one."""
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(maximum))
    return int(text) if is_number and int(text) <= maximum else None


def read_moment(text: str, now_us: int) -> int:
    """Read a time (RFC 3339) or an age such as ``-5m``; return µs since the epoch.

    A URL's query turns the plus of an offset into a blank, so a blank before an offset is
    a plus.

    Raises:
        BadPosition: it is neither, or it is before 1970.
    """
    age = _AGE.fullmatch(text)
    try:
        us = to_us(_LOST_PLUS.sub("+", text)) if age is None else _back(now_us, age)
    except BadInstant:
        raise BadPosition(
            f"{text!r} is neither a time like 2026-01-31T12:00:00Z, nor an age like -5m"
        ) from None
    if us < 0:
        raise BadPosition(f"{text!r} is before 1970")
    return us


def _back(now_us: int, age: re.Match[str]) -> int:
    return now_us - int(age[1]) * _UNITS_US[age[2]]


def read_start(text: str, now_us: int) -> Start:
    """Read a sequence, a time (RFC 3339), or an age such as ``-5m``.

    A message that was received at that time is included.

    Raises:
        BadPosition: it is none of them.
    """
    number = read_number(text)
    if number is not None:
        return Start(number)
    try:
        return Start(after_us=read_moment(text, now_us) - 1)
    except BadPosition as error:
        raise BadPosition(f"{error}, nor a sequence up to {SEQUENCE_MAX}") from None


def to_text(position: Mapping[Topic, int]) -> str:
    """Write ``position`` as text, topics in alphabetical order; empty for no topics."""
    return ",".join([part_of_text(topic, position[topic]) for topic in sorted(position)])


def part_of_text(topic: Topic, sequence: int) -> str:
    """Return the part of a position's text that states ``sequence`` of ``topic``."""
    return f"{topic.channel}:{topic.product_id}@{sequence}"


def from_text(text: str) -> dict[Topic, int]:
    """Read what ``to_text`` wrote.

    Raises:
        BadPosition: a part has another form, or an unknown channel.
    """
    position: dict[Topic, int] = {}
    if not text:
        return position
    for part in text.split(","):
        name, at, number = part.partition("@")
        channel, colon, product_id = name.partition(":")
        sequence = read_number(number)
        if not (at and colon and product_id) or sequence is None:
            raise BadPosition(f"{part!r} is not CHANNEL:PRODUCT@SEQUENCE")
        if channel not in BY_TOPIC_CHANNEL:
            raise BadPosition(f"{channel!r} is not a channel")
        position[Topic(channel, product_id)] = sequence
    return position


def to_object(position: Mapping[Topic, int]) -> dict[str, dict[str, int]]:
    """Return ``position`` as ``{channel: {product: sequence}}``, ready for JSON."""
    result: dict[str, dict[str, int]] = {}
    for topic, number in sorted(position.items()):
        result.setdefault(topic.channel, {})[topic.product_id] = number
    return result
