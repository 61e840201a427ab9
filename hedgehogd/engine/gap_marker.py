"""Gap notices placed between the messages where the gap is."""

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message
from hedgehogd.protocol.frames import encode_text
from hedgehogd.protocol.wire import notice_event


class InBand(Message, gc=False):
    """A notice in the form of a message; never data, and never delivered to live subscribers.

    Attributes:
        up_to: the last missing sequence: a subscriber at this sequence or above does not need the
            notice; None when it is not known.
    """

    up_to: int | None = None


def in_band(topic: Topic, payload: bytes, up_to: int | None = None, place: int = 0) -> InBand:
    """Return a notice about ``topic`` in the form of a message.

    Args:
        topic: the topic with the gap.
        payload: the notice in JSON.
        up_to: the last missing sequence; None when it is not known.
        place: its ``published_us``, and its ``received_us``, µs since the epoch; 0 when it is not
            placed by time.
    """
    notice = InBand(topic, "notice", encode_text(payload), payload)
    notice.event = notice_event(payload)
    notice.up_to, notice.received_us, notice.published_us = up_to, place, place
    return notice
