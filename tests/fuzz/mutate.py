"""Unusual inputs from a seeded ``Random``: values, JSON texts, bytes and their division."""

import json
from itertools import pairwise
from random import Random
from typing import Any


class Token(str):
    """A piece of JSON text that is written unchanged, valid or not."""

    __slots__ = ()


ODD_TOKENS = tuple(
    map(
        Token,
        (
            "NaN", "-Infinity", "1e400", "-0", "00", "1.", ".5", "1e", "0x1f", "'a'", "truth", "",
            '"\\ud800"', '"\\u0000"', '"a\nb"', '"\\x"', '"', "[", "{", "}", "{,}", "[1,]",
            "9" * 400, "-" + "9" * 40, "1" + "0" * 30 + ".5", "[" * 600 + "]" * 600,
            '{"a":' * 300 + "1" + "}" * 300, "\ufeff1", "/**/1",
        ),
    )
)  # fmt: skip

ODD_VALUES = (
    None, True, False, 0, -1, 1, 2**31, 2**53 - 1, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63) - 1,
    0.1, -0.0, 1e308, 1e-320, "", " ", "0", "-0", "-1", "+1", "1e5", "9.6E-05", "1E+3", "0e0",
    "NaN", "Infinity", "0.1234567890123456789", "1" * 40, "1." + "0" * 60, "1_000", "١٢", "0x10",
    "BTC-USD", "btc-usd", "BTC-USD-PERP-X-Y", "-", "é", "\u2028", "a\r\nb", "\x00", "\ud7ff",
    "2026-01-31T12:00:00Z", "0000-00-00T00:00:00Z", "9999-12-31T23:59:59.999999999Z",
    [], {}, [[]], [None], [[None, None]], {"": ""}, ["buy"], ["buy", "1", "1", "more"],
)  # fmt: skip


def odd_value(random: Random) -> Any:
    """Return a value of an unexpected kind."""
    if random.random() < 0.15:
        return random.choice(ODD_TOKENS)
    return random.choice(ODD_VALUES)


def changed(random: Random, value: Any, rate: float) -> Any:
    """Return ``value`` with about ``rate`` of its parts replaced, dropped or doubled."""
    if random.random() < rate:
        return odd_value(random)
    if isinstance(value, dict):
        items = {}
        for key, each in value.items():
            draw = random.random()
            if draw < rate / 2:
                continue
            name = (
                random.choice(("", "type", "product_id", key.upper()))
                if draw > 1 - rate / 8
                else key
            )
            items[name] = changed(random, each, rate)
        if random.random() < rate / 2:
            items[random.choice(("extra", "type", "sequence", "changes"))] = odd_value(random)
        return items
    if isinstance(value, list):
        parts = [changed(random, each, rate) for each in value if random.random() >= rate / 2]
        if parts and random.random() < rate:
            parts.append(random.choice((parts[0], odd_value(random))))
        return parts
    return value


def text_of(random: Random, value: Any) -> str:
    """Return ``value`` as JSON, sometimes with other white space or a repeated key."""
    if isinstance(value, Token):
        return str(value)
    space = random.choice(("", "", "", "", " ", "\n", "\r\n\t")) if random.random() < 0.1 else ""
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}:{space}{text_of(random, each)}" for key, each in value.items()]
        if items and random.random() < 0.02:
            items.append(random.choice(items))
        return "{" + f",{space}".join(items) + "}"
    if isinstance(value, list):
        return "[" + f",{space}".join(text_of(random, each) for each in value) + "]"
    return json.dumps(value, ensure_ascii=random.random() < 0.5)


def damaged(random: Random, data: bytes) -> bytes:
    """Return ``data`` with one to four changes of bytes: flips, deletions, copies, insertions."""
    damaged_bytes = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(damaged_bytes) + 1)
        size = random.choice((1, 1, 2, 4, 16))
        match random.randrange(6):
            case 0 if at < len(damaged_bytes):
                damaged_bytes[at] ^= 1 << random.randrange(8)
            case 1:
                del damaged_bytes[at : at + size]
            case 2:
                damaged_bytes[at:at] = random.randbytes(size)
            case 3:
                damaged_bytes[at:at] = damaged_bytes[at : at + size] * random.choice((1, 2, 8))
            case 4:
                damaged_bytes[at : at + size] = bytes(
                    [random.choice(b'\x00\x7f\x80\xff\r\n ,:"[]{}%=&?')]
                )
            case 5:
                del damaged_bytes[at:]
    return bytes(damaged_bytes)


def pieces(random: Random, data: bytes) -> list[bytes]:
    """Return ``data`` in one or several pieces, sometimes single bytes, as reads deliver it."""
    if random.random() < 0.7 or len(data) < 2:
        return [data]
    if random.random() < 0.1:
        return [data[at : at + 1] for at in range(len(data))]
    bounds = sorted(
        {0, len(data), *(random.randrange(len(data)) for _ in range(random.randint(1, 4)))}
    )
    return [data[begin:end] for begin, end in pairwise(bounds)]
