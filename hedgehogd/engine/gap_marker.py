"""Notices that keep their place among the data: what is missing is told where it is missing."""

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message
from hedgehogd.protocol.frames import encode_text
from hedgehogd.protocol.wire import notice_event


class InBand(Message, gc=False):
    """A notice in the form of a message; never data, never given to live subscribers.

    Attributes:
        up_to: what is missing ends at this sequence, so whoever has got that far lacks
            nothing; None where that is not known.
    """

    up_to: int | None = None


def in_band(topic: Topic, payload: bytes, up_to: int | None = None, received_us: int = 0) -> InBand:
    """Return a notice about ``topic``; ``received_us`` says where it stands."""
    notice = InBand(topic, "notice", encode_text(payload), payload)
    notice.event = notice_event(payload)
    notice.up_to, notice.received_us = up_to, received_us
    return notice
