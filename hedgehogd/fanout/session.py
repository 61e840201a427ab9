"""A session: one open stream, what it subscribes to, and the way to control it.

A command may come over the stream itself (WebSocket) or by REST, which names the session
by its id; both end here. All methods are plain functions, so the steps of a join cannot
be interrupted: leave the old topics, write the state of the new ones, stand in the new
cohort. No checkpoint lies between, so nothing can slip between (DESIGN §5).

A book's new subscriber stands aside until it can be given a snapshot, the exchange's own or
one made from our book (``snapshots``), and who comes back with a position until it has been
given what is behind it (``catch_up``). What it sees is whole.
"""

from collections.abc import Iterable, Mapping

from hedgehogd.arbitration.batch import Refusal
from hedgehogd.domain.channel import BY_TOPIC_CHANNEL, FULL, MATCHES, Channel, Topic
from hedgehogd.domain.errors import CLOSE_BUG, CLOSE_EXPIRED, CLOSE_NORMAL, CLOSE_POLICY
from hedgehogd.domain.limits import BACKFILL_CHUNK_TRADES_MAX, BACKFILL_RETOLD_TRADES_MAX
from hedgehogd.domain.message import Message
from hedgehogd.domain.position import Start
from hedgehogd.engine.chunk import Chunk
from hedgehogd.fanout.member import Member, MemberStatistics
from hedgehogd.fanout.pipe import Pipe
from hedgehogd.fanout.subscription import Subscription
from hedgehogd.protocol import coinbase, notices
from hedgehogd.protocol.commands import SUBSCRIBE_FAILED, Command
from hedgehogd.protocol.wire import WireForm
from hedgehogd.recovery.catch_up import CatchUp
from hedgehogd.recovery.delivery import Giving
from hedgehogd.recovery.replay import Replay

_OF_TRADES = {MATCHES.topic_channel, FULL.topic_channel}
_NOTHING = Command(False, ())


class Session:
    """One open stream.

    Attributes:
        id: ``instance.random``; whoever knows it may control the stream.
        form: how messages look on it.
        address: where the subscriber is, for people; empty when that is not known.
        share: what its work is counted by: its address or network, else its own id.
        subscription: what it subscribes to.
        has_subscribed: it has subscribed to something at some time.
        is_closed: it takes no more commands and gets no more data.
    """

    __slots__ = (
        "_awaiting",
        "_came_with",
        "_catching_up",
        "_member",
        "_pipe",
        "_topics",
        "address",
        "form",
        "has_subscribed",
        "id",
        "is_closed",
        "share",
        "subscription",
    )

    def __init__(
        self,
        session_id: str,
        member: Member,
        form: WireForm,
        pipe: Pipe,
        topics_max: int,
        address: str = "",
        share: str = "",
    ) -> None:
        self.id = session_id
        self.form = form
        self.address = address
        self.share = share or session_id
        self.subscription = Subscription(topics_max)
        self.has_subscribed = False
        self.is_closed = False
        self._member = member
        self._pipe = pipe
        self._topics: frozenset[Topic] = frozenset()
        self._awaiting: frozenset[Topic] = frozenset()
        self._catching_up: dict[Topic, CatchUp] = {}
        self._came_with: dict[Topic, int] = {}  # the position of who had caught up

    def apply(self, command: Command) -> list[str]:
        """Carry out ``command``; the subscriber gets new topics from this moment on.

        Returns:
            A reason for each thing that could not be done.
        """
        before = _pairs(self.subscription)
        errors = self.subscription.apply(
            command, self._pipe.catalogue, may_conflate=self.form.has_notices
        )
        asked = _pairs(self.subscription) - before
        self._follow(self.subscription.topics(), asked, command)
        self.has_subscribed |= bool(self.subscription.state)
        return errors

    def weight(self, command: Command) -> int:
        """Return how many topics it takes to carry out ``command``: named or held."""
        return max(command.weight, self.subscription.count)

    def answer(self, command: Command) -> list[bytes]:
        """Carry out ``command``; return Coinbase's answer: errors, then the whole state."""
        errors = self.apply(command)
        answers = [coinbase.error(command.failure, reason) for reason in errors]
        return [*answers, coinbase.subscriptions(self.subscription.state)]

    def admit(self, topic: Topic, chunks: Iterable[Chunk] = ()) -> None:
        """Stand in for ``topic``: its state is in ``chunks``, or is its next message."""
        self._awaiting -= {topic}
        self._stand()
        for chunk in chunks:
            # Each write may end the member, or drop this book again because it is too much.
            if not self.is_closed and topic not in self._awaiting:
                self._pipe.hub.give_chunk(self._member, chunk)

    def step_aside(self, topics: Iterable[Topic]) -> None:
        """Get no more of these books until ``step_in``: what waited of them was dropped."""
        self._awaiting |= self._topics.intersection(topics)
        self._stand()

    def step_in(self) -> None:
        """The subscriber can take more: wait for fresh snapshots."""
        self._pipe.snapshots.wait(self, self._awaiting)

    def resumes(self, topic: Topic, catch_up: Giving) -> bool:
        """Say whether this session waits for ``catch_up`` to bring ``topic``."""
        return self._catching_up.get(topic) is catch_up

    def take_past(self, chunk: Chunk) -> None:
        """Take what is not live; each write may end the stream."""
        self._pipe.hub.give_past(self._member, chunk, self.form)

    async def wait_written(self) -> None:
        """Return when nothing waits to be sent, or never will be."""
        await self._member.wait_written()

    def stand_in(self, catch_up: Giving, owed: list[tuple[int, Message]], end: Message) -> None:
        """Be live again, behind what is ``owed``, by offset; then tell the ``end`` of it."""
        topics = [topic for topic, each in self._catching_up.items() if each is catch_up]
        position = catch_up.position(())
        self._came_with |= {topic: position[topic] for topic in topics if topic in position}
        self._catching_up = {t: c for t, c in self._catching_up.items() if c is not catch_up}
        self._stand()
        if owed and not self.is_closed:
            offsets, messages = zip(*owed, strict=True)
            self._pipe.hub.give(self._member, list(messages), list(offsets))
        if not self.form.has_notices:
            return
        for notice in (*self._pipe.standing.of(topics), *self._pipe.tape.doubts(topics)):
            self.notify(notice)
        lacking = {t.product_id for t in catch_up.lacking if t.channel in _OF_TRADES}
        asked = {t.product_id for t in topics if t.channel == MATCHES.topic_channel}
        self._tell_backfilled(lacking & asked)
        if not self.is_closed:
            self._pipe.hub.give(self._member, [end], [self._pipe.tape.end + 1])

    def go_live(self, replay: CatchUp, starts: Mapping[Topic, Start]) -> None:
        """A replay has come to the present: go on from ``starts``, books with a snapshot."""
        topics = frozenset(t for t, each in self._catching_up.items() if each is replay)
        self._catching_up = {t: c for t, c in self._catching_up.items() if t not in topics}
        self._await_books(topics)
        self._come_back(topics, starts, _NOTHING, sent=replay.messages)
        self._pipe.snapshots.wait(self, self._awaiting)
        self._stand()

    def finish(self) -> None:
        """End: the stretch that was replayed is over."""
        self._member.end(CLOSE_NORMAL, "replay_ended", "the replay is over")

    def expire(self) -> None:
        """End: what was asked for is gone, and all or nothing was wanted."""
        self._member.end(CLOSE_EXPIRED, "position_expired", "part of what follows is gone")

    def fail(self) -> None:
        """End: a bug of ours was met while it caught up."""
        self._member.end(CLOSE_BUG, "bug", "internal error")

    def shed(self) -> None:
        """End: all subscribers together hold too much memory, and this one the most."""
        self._member.shed()

    def refuse(self, refusal: Refusal) -> None:
        """The exchange does not give us something: drop it, and tell the subscriber if it asked.

        A stream that can be told nothing is ended instead; silence would be a lie.
        """
        if refusal.product_id:
            has_changed = self.subscription.remove_product(refusal.product_id)
        else:
            has_changed = self.subscription.remove_channel(BY_TOPIC_CHANNEL[refusal.channel])
        if not has_changed:
            return
        self._follow(self.subscription.topics(), set(), _NOTHING)
        self._member.tell(coinbase.error(refusal.message or SUBSCRIBE_FAILED, refusal.reason))
        self._member.tell(coinbase.subscriptions(self.subscription.state))
        if not self.form.can_tell:
            self._member.end(CLOSE_POLICY, "refused_product")

    def has_any(self, topics: frozenset[Topic]) -> bool:
        """Say whether it subscribes to one of ``topics``, perhaps waiting for a snapshot."""
        return not self._topics.isdisjoint(topics)

    def notify(self, payload: bytes) -> None:
        """Tell the subscriber something of ours, where its stream has notices."""
        if self.form.has_notices and not self.is_closed:
            self._member.tell(payload)

    def close(self) -> None:
        """Leave all topics; nothing more is written. May be called twice."""
        self.is_closed = True
        self._pipe.hub.remove(self._member)
        topics, self._topics, self._awaiting = self._topics, frozenset(), frozenset()
        self._catching_up = {}
        self._pipe.snapshots.leave(self)
        self._pipe.demand.release(topics, self._pipe.now())

    def position(self, at: int) -> dict[Topic, int]:
        """Return the resume position of a subscriber served up to tape offset ``at``."""
        live, tape = self._topics - self._catching_up.keys(), self._pipe.tape
        position = tape.position(live, at)
        for topic in live & self._came_with.keys():
            known = tape.held_from(topic)
            # It may have nothing yet, or less; but what has left it may be more.
            if topic in position or known is None or not known.has_left:
                position[topic] = max(self._came_with[topic], position.get(topic, 0))
        for catch_up in set(self._catching_up.values()):
            position |= catch_up.position(self._member.waiting())
        return position

    def statistics(self) -> MemberStatistics:
        """Return how the subscriber is doing."""
        return self._member.statistics(self._pipe.now())

    def _follow(
        self,
        topics: frozenset[Topic],
        asked: set[tuple[Channel, str]],
        command: Command,
    ) -> None:
        """Make ``topics`` the topics of this session, and greet it for what it ``asked``."""
        added, gone = topics - self._topics, self._topics - topics
        if self.is_closed or not (added or gone or asked):
            return
        self._topics = topics
        self._pipe.demand.want(added)
        self._pipe.demand.release(gone, self._pipe.now())
        for topic in gone:
            self._catching_up.pop(topic, None)
            self._came_with.pop(topic, None)
        self._awaiting &= topics
        if command.pace is not None and added:
            starts = {topic: command.since.get(topic, Start(is_new=True)) for topic in added}
            replay = Replay(self._pipe.resumes, self, starts, command.pace)
            self._pipe.resumes.start(replay)
            self._catching_up |= dict.fromkeys(added, replay)
        else:
            self._await_books(added)
            self._come_back(added, command.since, command)
        self._pipe.snapshots.wait(self, self._awaiting)
        self._stand()  # may write, and a write may end the member and so close us
        if not self.is_closed:
            self._greet({(c, p) for c, p in asked if c.topic(p) not in self._catching_up})

    def _await_books(self, topics: Iterable[Topic]) -> None:
        self._awaiting |= {t for t in topics if BY_TOPIC_CHANNEL[t.channel].begins_with_snapshot}

    def _come_back(
        self, added: frozenset[Topic], since: Mapping[Topic, Start], how: Command, *, sent: int = 0
    ) -> None:
        """Begin to catch up with what of ``added`` has a position.

        ``sent`` messages were sent by the replay that the catch-up follows.
        """
        added = frozenset(t for t in added if BY_TOPIC_CHANNEL[t.channel].resumes)
        starts = {topic: since[topic] for topic in added & since.keys()}
        if starts:
            catch_up = CatchUp(
                self._pipe.resumes,
                self,
                starts,
                is_strict=how.is_strict,
                is_alone=how.is_alone,
                sent=sent,
            )
            self._pipe.resumes.start(catch_up)
            self._catching_up |= dict.fromkeys(starts, catch_up)
        # Each event states a position of all topics, so all that have one go on together; and
        # a trade of full is one of matches too, which would come twice if only one waited.
        running = next(iter(self._catching_up.values()), None)
        if running is not None:
            is_one = self.form.states_position
            together = {t for t in added - starts.keys() if is_one or _twin(t) in starts}
            running.join(together)
            self._catching_up |= dict.fromkeys(together, running)

    def _stand(self) -> None:
        aside = self._awaiting | self._catching_up.keys()
        self._pipe.hub.place(self._member, self._topics - aside, self.form)

    def _greet(self, asked: set[tuple[Channel, str]]) -> None:
        """Write the state of what was asked for: last ticker, last match, status, schema."""
        greetings: dict[bytes, Message] = {}
        for channel, product_id in sorted(asked, key=_name_of):
            greeting = self._pipe.latest.greeting(channel.topic(product_id))
            if greeting is not None:
                greetings[greeting.payload] = greeting
        if greetings:
            # They stand before the next message: all that came before them is delivered.
            offsets = [self._pipe.tape.end + 1] * len(greetings)
            self._pipe.hub.give(self._member, list(greetings.values()), offsets)
        if self.form.has_notices:
            for notice in self._pipe.standing.of(c.topic(product) for c, product in asked):
                self._member.tell(notice)
            self._tell_backfilled(product for c, product in asked if c is MATCHES)

    def _tell_backfilled(self, product_ids: Iterable[str]) -> None:
        """Who comes back to ``matches`` may have missed trades that were fetched meanwhile."""
        for product_id in sorted(product_ids) if len(self._pipe.backfilled) else ():
            trades = self._pipe.backfilled.since(product_id, self._pipe.now())
            trades = trades[-BACKFILL_RETOLD_TRADES_MAX:]
            for at in range(0, len(trades), BACKFILL_CHUNK_TRADES_MAX):
                part = trades[at : at + BACKFILL_CHUNK_TRADES_MAX]
                self.notify(notices.backfilled(product_id, part))


def _twin(topic: Topic) -> Topic | None:
    """Return the other topic that the same trades are of, if there is one."""
    twins = {MATCHES.topic_channel: FULL, FULL.topic_channel: MATCHES}
    twin = twins.get(topic.channel)
    return None if twin is None else twin.topic(topic.product_id)


def _name_of(pair: tuple[Channel, str]) -> tuple[str, str]:
    """Return what pairs are sorted by; to compare whole channels takes many times as long."""
    return pair[0].name, pair[1]


def _pairs(subscription: Subscription) -> set[tuple[Channel, str]]:
    """Return each channel that is subscribed to with each of its products."""
    return {
        (channel, product_id)
        for channel, product_ids in subscription.state.items()
        for product_id in product_ids or ("",)
    }
