"""Verified fakes: each passes the test suite of its port, which also runs on the real adapter.

``tests/fanout/test_member.py`` verifies ``FakeMember``.
"""

import json

import trio

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.errors import CLOSE_SLOW_CONSUMER
from hedgehogd.domain.message import Message
from hedgehogd.fanout.member import Member, MemberStatistics
from hedgehogd.protocol.frames import encode_text
from hedgehogd.protocol.wire import WEBSOCKET

_KINDS = {"matches": "match", "level2": "l2update", "level2_batch": "l2update"}


def make_message(channel, product_id="BTC-USD", sequence=None, kind=None, also=None, **more):
    """Return a message as the feed would make it, with consistent payload, frame and head."""
    kind = kind or _KINDS.get(channel, channel)
    body = {"type": kind, "product_id": product_id, "sequence": sequence, **more}
    payload = json.dumps({key: value for key, value in body.items() if value is not None}).encode()
    topic = Topic(channel, product_id)
    trade_id = more.get("trade_id")
    return Message(topic, kind, encode_text(payload), payload, sequence, trade_id, also)


def make_row(*fields):
    """Return a message of ``level3``: an array of texts, ``type, product, sequence, …``."""
    payload = json.dumps([str(field) for field in fields]).encode()
    topic = Topic("level3", fields[1])
    return Message(topic, "level3", encode_text(payload), payload, int(fields[2]))


class FakeMember(Member):
    """A subscriber in memory, which records everything that is sent to it.

    Attributes:
        session: closed when the member ends; set by tests that need it.
        chunks: the chunks written.
        notices: the payloads of notices.
        data: all bytes, as its socket would carry them.
        ends: the code and reason of each end.
        on_write: called with each chunk, at the end of the write.
    """

    __slots__ = ("_chunks_max", "chunks", "data", "ends", "form", "notices", "on_write", "session")

    def __init__(self, form=WEBSOCKET, chunks_max=None):
        super().__init__()
        self.form = form
        self.session = None
        self.chunks = []
        self.notices = []
        self.data = bytearray()
        self.ends = []
        self.on_write = lambda chunk: None
        self._chunks_max = chunks_max

    @property
    def messages(self):
        return [message for chunk in self.chunks for message in chunk.messages]

    def write(self, chunk):
        if self.ends:
            return
        if len(self.chunks) == self._chunks_max:  # slow: this chunk exceeds the limit
            self.end(CLOSE_SLOW_CONSUMER, "slow_consumer")
            return
        self.chunks.append(chunk)
        self.data += chunk.data
        self.on_write(chunk)

    def tell(self, payload):
        if not self.ends:
            self.notices.append(payload)
            self.data += self.form.tell(payload)

    def end(self, code, reason, detail=""):
        if not self.ends:
            self.ends.append((code, reason))
            if self.session is not None:
                self.session.close()

    def shed(self):
        self.end(CLOSE_SLOW_CONSUMER, "waiting_bytes_max")

    async def wait_written(self):
        await trio.lowlevel.checkpoint()

    def waiting(self):
        return ()

    def statistics(self, now):
        return MemberStatistics(len(self.messages), 0, 0, 0.0)
