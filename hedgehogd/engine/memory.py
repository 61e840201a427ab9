"""How much memory messages take while they are kept."""

from hedgehogd.domain.message import Message
from hedgehogd.protocol.deflate import DEFLATE_BYTES_MIN

_FORMS = 4  # the payload is held again in its frame, its line and its event
_OBJECTS_BYTES = 380  # what Python wraps around them, and their places in the index of the tape


def weight(message: Message) -> int:
    """Return how many bytes of memory ``message`` takes at most.

    Measured on the shared recording's l2updates, 120 bytes of payload each: 476 bytes while
    only WebSocket subscribers want them, 807 once all forms have been made.
    """
    size = len(message.payload)
    forms = _FORMS + (size >= DEFLATE_BYTES_MIN)  # large ones are held compressed too
    return forms * size + _OBJECTS_BYTES
