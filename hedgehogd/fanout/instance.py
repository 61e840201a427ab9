"""One daemon process: the parts that the layers above share, and their counters."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from hedgehogd.domain.errors import SubscriberError
from hedgehogd.engine.health import FeedHealth, HistoryHealth
from hedgehogd.fanout.broker import Broker
from hedgehogd.fanout.pipe import Pipe
from hedgehogd.fanout.sessions import Sessions
from hedgehogd.fanout.turns import Readings, Turns
from hedgehogd.protocol.commands import ChannelRequest, Command


@dataclass
class StreamCounts:
    """Counters of streams since start, and ``visitors``; every bad input and drop is counted.

    Attributes:
        refusals: requests, frames and commands refused, by reason.
        ends: streams that ended, by reason.
        drops: messages that a subscriber did not receive, by reason; each was reported to the
            subscriber, or its stream closed.
        forwards: requests about streams of other instances, by result.
        accept_pauses: how often accepting paused because file descriptors or memory ran out.
        visitors: connections open now that are not streams.
    """

    refusals: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    drops: Counter[str] = field(default_factory=Counter)
    forwards: Counter[str] = field(default_factory=Counter)
    accept_pauses: int = 0
    visitors: int = 0


@dataclass
class Instance:
    """One daemon process.

    Attributes:
        number: the instance's number; session ids start with it.
        pipe: tape, hub, demand and the parts around them.
        sessions: the open streams.
        broker: the task that publishes.
        health: health of the feed.
        counts: counters of streams.
        history: health of history.
        turns: the order in which commands are executed.
        readings: the order in which pages of history are read and answers from them are encoded.
        is_draining: True while the instance stops: not ready, and it accepts no new stream.
        loop_lag_s: how late the event loop woke a sleeping task when this was last measured.
    """

    number: int
    pipe: Pipe
    sessions: Sessions
    broker: Broker
    health: FeedHealth
    counts: StreamCounts = field(default_factory=StreamCounts)
    history: HistoryHealth = field(default_factory=HistoryHealth)
    turns: Turns = field(default_factory=Turns)
    readings: Readings = field(default_factory=Readings)
    is_draining: bool = False
    loop_lag_s: float = 0.0

    def check(self, requests: Iterable[ChannelRequest]) -> None:
        """Refuse requests for unknown pairs and for channels that the exchange refuses.

        Raises:
            SubscriberError: a pair is not listed (404), or the exchange refuses a channel (403).
        """
        catalogue = self.pipe.catalogue
        for request in requests:
            for pair in request.product_ids:
                if not catalogue.accepts(pair):
                    raise SubscriberError("unknown_pair", f"{pair} is not a pair listed here", 404)
            refusal = catalogue.refusal_of(request.channel.topic_channel)
            if refusal is not None:
                raise SubscriberError("refused_channel", refusal[1] or refusal[0], 403)

    def check_replay(self, command: Command) -> None:
        """Refuse a replay of topics that are not recorded; accept any other command.

        Raises:
            SubscriberError: there is no history, or not of every requested topic (404).
        """
        if command.pace is None:
            return
        past = self.pipe.resumes.past
        if past is None:
            raise SubscriberError("no_history", "nothing is kept here (--history)", 404)
        for request in command.requests:
            for pair in request.product_ids or ("",):
                topic = request.channel.topic(pair)
                if not past.keeps(topic):
                    raise SubscriberError("not_kept", f"{topic} is not kept here", 404)

    def readiness(self) -> tuple[bool, str]:
        """Return whether a load balancer should send subscribers here, and a text about the state.

        While the instance drains, the text is ``draining``. Else it has the feed's state, its
        newest alarm and a failure of history, also with True.
        """
        if self.is_draining:
            return False, "draining"
        health = self.health
        lost = f"history is not kept: {self.history.reason}" if self.history.reason else ""
        details = "; ".join(filter(None, (health.reason, health.alarm, lost)))
        return health.is_ready, f"{health.state}: {details}" if details else health.state
