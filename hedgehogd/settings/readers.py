"""Readers of values: text of a flag or a variable, or a TOML value, becomes the value of a key.

Each raises ValueError with the words that follow "expected". A list is a TOML list or a text with
commas; an item that is written twice counts once, a pair in any case of letters.
"""

from collections.abc import Callable
from typing import Any

from hedgehogd.domain.channel import BY_ALIAS
from hedgehogd.domain.networks import read_networks
from hedgehogd.domain.product import is_product_id
from hedgehogd.domain.secret import hide_in_url
from hedgehogd.protocol.access import ANY, read_authority, read_origin

PORT_MAX = 65535
AUTO, NONE = "auto", "none"


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise ValueError("a list of names")
    return tuple(dict.fromkeys(item.strip() for item in value if item.strip()))


def read_pairs(value: Any) -> tuple[str, ...]:
    """Read a list of pairs in any case of letters; return them in upper case."""
    pairs = tuple(dict.fromkeys(item.upper() for item in _texts(value)))
    for pair in pairs:
        if not is_product_id(pair):
            raise ValueError(f"pairs such as BTC-USD, and {pair!r} is none")
    return pairs


def read_channels(value: Any) -> tuple[str, ...]:
    """Read a list of channel names, Coinbase's aliases included; return them unchanged."""
    names = _texts(value)
    for name in names:
        if name not in BY_ALIAS:
            raise ValueError(f"channels among {', '.join(sorted(BY_ALIAS))}; {name!r} is none")
    return names


def read_network_list(value: Any) -> tuple[str, ...]:
    """Read a list of addresses and networks; return them as text."""
    texts = _texts(value)
    try:
        read_networks(texts)
    except ValueError as error:
        raise ValueError(f"addresses and networks such as 10.0.0.0/8; {error}") from None
    return texts


def read_address(text: str) -> tuple[str, int]:
    """Read ``ADDRESS:PORT``; an IPv6 address has brackets, which are not returned.

    The port is from 1 to 65535. Whether the address exists or is a name is not checked.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        is_sound = ":" in host
    else:
        is_sound = not set(host) & set(":[]")
    if not (host and colon and is_sound and port.isascii() and port.isdecimal()):
        raise ValueError("ADDRESS:PORT such as 127.0.0.1:9001 or [::1]:9001, or none")
    return host, whole_number(1, PORT_MAX)(port)


def read_operator_bind(value: Any) -> str:
    """Check ``ADDRESS:PORT``, ``auto`` or ``none``; return it unchanged."""
    text = read_text(value)
    if text not in {AUTO, NONE}:
        read_address(text)
    return text


def read_hosts(value: Any) -> tuple[str, ...]:
    """Read a list of names and addresses without a port, or ``*``; return them in lower case."""
    hosts = []
    for text in _texts(value):
        is_bare = text.count(":") > 1 and not text.startswith("[")  # an IPv6 address
        named = read_authority(f"[{text}]" if is_bare else text)
        if text != ANY and (named is None or named.port is not None):
            raise ValueError(f"names or addresses without a port, or *; {text!r} is none")
        hosts.append(ANY if named is None else named.host)
    return tuple(hosts)


def read_origins(value: Any) -> tuple[str, ...]:
    """Read a list of origins of web pages, or ``*``; return them unchanged."""
    texts = _texts(value)
    for text in texts:
        if text != ANY and read_origin(text) is None:
            raise ValueError(
                f"origins such as https://app.example, or *; {hide_in_url(text)!r} is none"
            )
    return texts


def read_text(value: Any) -> str:
    """Read a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError("a text that is not empty")
    return value


def one_of(*choices: str) -> Callable[[Any], str]:
    """Return a reader of one of ``choices``."""

    def read(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return str(value)

    return read


def whole_number(low: int, high: int) -> Callable[[Any], int]:
    """Return a reader of a whole number between ``low`` and ``high``, both included."""

    def read(value: Any) -> int:
        expected = f"a whole number from {low} to {high}"
        try:
            found = int(value) if isinstance(value, str | int) else None
        except ValueError:
            found = None
        if found is None or isinstance(value, bool) or not low <= found <= high:
            raise ValueError(expected)
        return found

    return read


def number(low: float, high: float) -> Callable[[Any], float]:
    """Return a reader of a number between ``low`` and ``high``, both included."""

    def read(value: Any) -> float:
        expected = f"a number from {low:g} to {high:g}"
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(expected)
        try:
            found = float(value)
        except ValueError:
            raise ValueError(expected) from None
        if not low <= found <= high:
            raise ValueError(expected)
        return found

    return read


def read_switch(value: Any) -> bool:
    """Read a truth value: true, 1, yes, false, 0 or no, in any case of letters."""
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise ValueError("true or false")
