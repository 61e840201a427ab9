"""A subscriber that records everything that it receives, in order."""

from hedgehogd.fanout.member import Member, MemberStatistics
from hedgehogd.protocol.wire import WEBSOCKET


class Witness(Member):
    """One subscriber's log: ``("data", message)`` and ``("notice", payload)`` entries."""

    __slots__ = ("ends", "form", "has_left", "log", "sent_before", "session")

    def __init__(self):
        super().__init__()
        self.form = WEBSOCKET
        self.session = None
        self.log = []
        self.ends = []
        self.has_left = False
        self.sent_before = {}  # messages that the market had sent of each topic before it joined

    def write(self, chunk):
        if not self.ends:
            self.log += [("data", message) for message in chunk.messages]

    def tell(self, payload):
        if not self.ends:
            self.log.append(("notice", payload))

    def end(self, code, reason, detail=""):
        self.ends.append((code, reason))
        self.session.close()

    def statistics(self, now):
        return MemberStatistics(len(self.log), 0, 0, 0.0)
