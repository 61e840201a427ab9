"""A subscriber that writes down all it is given, in order."""

from hedgehogd.fanout.member import Member, MemberStatistics
from hedgehogd.protocol.wire import WEBSOCKET


class Witness(Member):
    """What one subscriber heard: ``("data", message)``, ``("told", payload)``, ``("asked", …)``."""

    __slots__ = ("ends", "form", "has_left", "log", "said_before", "session")

    def __init__(self):
        super().__init__()
        self.form = WEBSOCKET
        self.session = None
        self.log = []
        self.ends = []
        self.has_left = False
        self.said_before = {}  # how much the market had said of each topic when it came

    def write(self, chunk):
        if not self.ends:
            self.log += [("data", message) for message in chunk.messages]

    def tell(self, payload):
        if not self.ends:
            self.log.append(("told", payload))

    def end(self, code, reason, detail=""):
        self.ends.append((code, reason))
        self.session.close()

    def statistics(self, now):
        return MemberStatistics(len(self.log), 0, 0, 0.0)
