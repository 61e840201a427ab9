"""A session: one open stream, what it subscribes to, and the way to control it.

A command may come over the stream itself (WebSocket) or by REST, which names the session
by its id; both end here. All methods are plain functions, so the steps of a join cannot
be interrupted: leave the old topics, write the state of the new ones, stand in the new
cohort. No checkpoint lies between, so nothing can slip between (DESIGN §5).

level2 has no state to greet with before order books exist: a new subscriber stands aside
until the topic's next snapshot passes, which is asked for upstream. What it sees is whole.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from hedgehogd.domain.channel import BY_TOPIC_CHANNEL, Topic
from hedgehogd.domain.errors import CLOSE_POLICY
from hedgehogd.domain.message import Message
from hedgehogd.domain.product import Catalogue
from hedgehogd.engine.anteroom import Anteroom
from hedgehogd.engine.demand import Demand
from hedgehogd.engine.hub import Hub
from hedgehogd.engine.latest import Latest
from hedgehogd.engine.member import Member, MemberStatistics
from hedgehogd.engine.subscription import Subscription
from hedgehogd.engine.tape import Tape
from hedgehogd.protocol import coinbase
from hedgehogd.protocol.commands import SUBSCRIBE_FAILED, Command
from hedgehogd.protocol.upstream import Refusal
from hedgehogd.protocol.wire import WireForm


class Pipe(NamedTuple):
    """The parts of one instance that sessions are plugged into."""

    tape: Tape
    hub: Hub
    latest: Latest
    demand: Demand
    catalogue: Catalogue
    anteroom: Anteroom
    now: Callable[[], float]


class Session:
    """One open stream.

    Attributes:
        id: ``instance.random``; whoever knows it may control the stream.
        form: how messages look on it.
        subscription: what it subscribes to.
        has_subscribed: it has subscribed to something at some time.
        is_closed: it takes no more commands and gets no more data.
    """

    __slots__ = (
        "_awaiting",
        "_member",
        "_pipe",
        "_topics",
        "form",
        "has_subscribed",
        "id",
        "is_closed",
        "subscription",
    )

    def __init__(
        self, session_id: str, member: Member, form: WireForm, pipe: Pipe, topics_max: int
    ) -> None:
        self.id = session_id
        self.form = form
        self.subscription = Subscription(topics_max)
        self.has_subscribed = False
        self.is_closed = False
        self._member = member
        self._pipe = pipe
        self._topics: frozenset[Topic] = frozenset()
        self._awaiting: frozenset[Topic] = frozenset()

    def apply(self, command: Command) -> list[str]:
        """Carry out ``command``; the subscriber gets new topics from this moment on.

        Returns:
            A reason for each thing that could not be done.
        """
        errors = self.subscription.apply(
            command, self._pipe.catalogue, may_conflate=self.form.has_notices
        )
        self._follow(self.subscription.topics())
        self.has_subscribed |= bool(self.subscription.state)
        return errors

    def answer(self, command: Command) -> list[bytes]:
        """Carry out ``command``; return Coinbase's answer: errors, then the whole state."""
        errors = self.apply(command)
        answers = [coinbase.error(command.failure, reason) for reason in errors]
        return [*answers, coinbase.subscriptions(self.subscription.state)]

    def admit(self, topic: Topic) -> None:
        """The next message of ``topic`` is its snapshot: stand in for it."""
        self._awaiting -= {topic}
        self._stand()

    def refuse(self, refusal: Refusal) -> None:
        """The exchange does not know a product: drop it, and tell the subscriber if it asked.

        A stream that can be told nothing is ended instead; silence would be a lie.
        """
        if not self.subscription.remove_product(refusal.product_id):
            return
        self._follow(self.subscription.topics())
        self._member.tell(coinbase.error(refusal.message or SUBSCRIBE_FAILED, refusal.reason))
        self._member.tell(coinbase.subscriptions(self.subscription.state))
        if not self.form.can_tell:
            self._member.end(CLOSE_POLICY, "refused_product")

    def notify(self, payload: bytes) -> None:
        """Tell the subscriber something of ours, where its stream has notices."""
        if self.form.has_notices and not self.is_closed:
            self._member.tell(payload)

    def close(self) -> None:
        """Leave all topics; nothing more is written. May be called twice."""
        self.is_closed = True
        self._pipe.hub.remove(self._member)
        topics, self._topics, self._awaiting = self._topics, frozenset(), frozenset()
        self._pipe.anteroom.leave(self)
        self._pipe.demand.release(topics, self._pipe.now())

    def position(self, at: int) -> dict[Topic, int]:
        """Return the resume position of a subscriber served up to tape offset ``at``."""
        return self._pipe.tape.position(self._topics, at)

    def statistics(self) -> MemberStatistics:
        """Return how the subscriber is doing."""
        return self._member.statistics(self._pipe.now())

    def _follow(self, topics: frozenset[Topic]) -> None:
        """Make ``topics`` the topics of this session."""
        added, gone = topics - self._topics, self._topics - topics
        if self.is_closed or not (added or gone):
            return
        self._topics = topics
        demand = self._pipe.demand
        demand.want(added)
        demand.release(gone, self._pipe.now())
        changes = frozenset(
            topic for topic in added if BY_TOPIC_CHANNEL[topic.channel].begins_with_snapshot
        )
        for topic in changes:
            demand.ask_snapshot(topic)
        self._awaiting = (self._awaiting | changes) & topics
        self._pipe.anteroom.wait(self, self._awaiting)
        self._stand()  # may write, and a write may end the member and so close us
        if not self.is_closed:
            self._greet(added)

    def _stand(self) -> None:
        self._pipe.hub.place(self._member, self._topics - self._awaiting, self.form)

    def _greet(self, added: frozenset[Topic]) -> None:
        """Write the state of ``added``: last ticker, last match, status."""
        greetings: list[Message] = []
        for topic in sorted(added):
            greeting = self._pipe.latest.greeting(topic)
            if greeting is not None:
                greetings.append(greeting)
        if greetings:
            # They stand before the next message: all that came before them is delivered.
            offsets = [self._pipe.tape.end + 1] * len(greetings)
            self._pipe.hub.give(self._member, greetings, offsets)


class Sessions:
    """All sessions of one instance, by id."""

    def __init__(self) -> None:
        self.opened: Counter[str] = Counter()
        self._by_id: dict[str, Session] = {}

    def __len__(self) -> int:
        """Return how many sessions are open."""
        return len(self._by_id)

    def __iter__(self) -> Iterator[Session]:
        """Iterate over a copy: sessions may come and go meanwhile."""
        return iter(list(self._by_id.values()))

    def add(self, session: Session) -> None:
        """Register ``session`` under its id."""
        self._by_id[session.id] = session
        self.opened[session.form.kind] += 1

    def discard(self, session: Session) -> None:
        """Close ``session`` and forget it."""
        self._by_id.pop(session.id, None)
        session.close()

    def get(self, session_id: str) -> Session | None:
        """Return the open session with this id, or None when nobody here has it."""
        session = self._by_id.get(session_id)
        return None if session is None or session.is_closed else session
