"""Positions: the last sequence delivered to a subscriber for each topic, as a token for resuming.

A sequence is enough because the channels of a product share one counter (a ticker has the sequence
of its match). A position needs no server state and is valid on every instance
(docs/decisions/0005-positions-per-topic.md).

On ``/ws`` it is a JSON object, ``{channel: {product: sequence}}``; in an SSE ``id:`` it is text,
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
    """A text that is not a position; the error message quotes the invalid part."""


class Start(NamedTuple):
    """The point after which a topic is delivered.

    Attributes:
        sequence: deliver the messages after this sequence; None if ``after_us`` applies.
        after_us: deliver the messages received after this time, µs since the epoch.
        is_new: True for a topic without a position, and for one with a position that was
            abandoned with a gap notice: no older message counts as missing.
    """

    sequence: int | None = None
    after_us: int = 0
    is_new: bool = False


def read_number(text: str, maximum: int = SEQUENCE_MAX) -> int | None:
    """Parse a whole number from 0 to ``maximum`` in ASCII digits; None if ``text`` is not one."""
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(maximum))
    return int(text) if is_number and int(text) <= maximum else None


def read_moment(text: str, now_us: int) -> int:
    """Parse a time (RFC 3339) or an age such as ``-5m``; return µs since the epoch.

    An age is a whole number of ``ms``, ``s``, ``m``, ``h`` or ``d`` before ``now_us``, which is in
    µs since the epoch. The query of a URL decodes the plus of a zone offset to a space, so a
    space before an offset is read as a plus.

    Raises:
        BadPosition: ``text`` is neither, or a time before 1970.
    """
    age = _AGE.fullmatch(text)
    try:
        us = to_us(_LOST_PLUS.sub("+", text)) if age is None else _before(now_us, age)
    except BadInstant:
        raise BadPosition(
            f"{text!r} is neither a time like 2026-01-31T12:00:00Z, nor an age like -5m"
        ) from None
    if us < 0:
        raise BadPosition(f"{text!r} is before 1970")
    return us


def _before(now_us: int, age: re.Match[str]) -> int:
    return now_us - int(age[1]) * _UNITS_US[age[2]]


def read_start(text: str, now_us: int) -> Start:
    """Parse a sequence, a time (RFC 3339), or an age such as ``-5m`` before ``now_us``.

    The messages after that sequence are delivered, or those received at that time or later.

    Raises:
        BadPosition: ``text`` has none of these forms, or is a time before 1970.
    """
    number = read_number(text)
    if number is not None:
        return Start(number)
    try:
        return Start(after_us=read_moment(text, now_us) - 1)
    except BadPosition as error:
        raise BadPosition(f"{error}, nor a sequence up to {SEQUENCE_MAX}") from None


def to_text(position: Mapping[Topic, int]) -> str:
    """Format ``position`` as text, topics in alphabetical order; empty without topics."""
    return ",".join([part_of_text(topic, position[topic]) for topic in sorted(position)])


def part_of_text(topic: Topic, sequence: int) -> str:
    """Return the part of a position's text that states ``sequence`` of ``topic``."""
    return f"{topic.channel}:{topic.product_id}@{sequence}"


def from_text(text: str) -> dict[Topic, int]:
    """Parse a text from ``to_text``; an empty text is an empty position.

    Of two parts for one topic the last one counts.

    Raises:
        BadPosition: a part has another form, or an unknown topic channel.
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
