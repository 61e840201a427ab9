"""Estimated memory of a message while it is kept."""

from hedgehogd.domain.message import Message
from hedgehogd.protocol.deflate import DEFLATE_BYTES_MIN

_FORMS = 4  # payload, frame, line and event each hold the bytes
_OBJECTS_BYTES = 380  # Python objects around them, and the entries in the index of the tape


def weight(message: Message) -> int:
    """Return how many bytes of memory ``message`` takes when all its wire forms are made.

    Measured on recorded l2updates with 120 bytes of payload each: 476 bytes while only
    WebSocket subscribers receive them, 807 when all wire forms are made.
    """
    size = len(message.payload)
    forms = _FORMS + (size >= DEFLATE_BYTES_MIN)  # a large payload is kept compressed too
    return forms * size + _OBJECTS_BYTES
