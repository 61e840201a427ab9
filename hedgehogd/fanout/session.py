"""A session: one open stream, its subscription, and the commands that control it.

A command may arrive on the stream itself (WebSocket) or by REST, which names the session by its
id. All methods but ``wait_written`` are plain functions, so the steps of a join are one turn of the
loop: leave the old cohort, join the new cohort, write the state of the new topics. No message is
published between.

Each topic of a session is in one of three states:

    state        the subscriber receives      kept in
    -----------  ---------------------------  --------------------------------------------
    live         each message                 the member's cohort (``hub``)
    awaiting     nothing, until a snapshot    ``_awaiting``; waits in ``snapshots``
    catching up  recorded messages            ``_catching_up``, with its catch-up or replay

    event                                            from         to
    -----------------------------------------------  -----------  ------------------------------
    subscribe with a position, or a replay           (none)       catching up
    subscribe to a book                              (none)       awaiting
    subscribe to another topic                       (none)       live, or catching up with a
                                                                  catch-up that runs (``_resume``)
    ``admit``: a snapshot                            awaiting     live
    ``step_aside``: conflation dropped the book      live         awaiting, and waits for a
                                                                  snapshot from ``step_in`` on
    ``stand_in``: the catch-up reached the tape      catching up  live
    ``go_live``: a replay reached the present        catching up  awaiting (a book), catching up
                                                                  (with a position) or live
    unsubscribe, ``refuse``, ``close``               any          (none)

Re-entrancy: each write to the member may call ``close`` or ``step_aside`` of this session before it
returns. So a method completes its changes of state before its first write, and examines
``is_closed`` (``admit`` also ``_awaiting``) before each later one. An ended member ignores writes.
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
        id: ``NUMBER.RANDOM`` with the number of the instance; a client that knows it may control
            the stream.
        form: the wire form of the stream.
        address: the subscriber's address, shown to operators; empty when unknown.
        share: the key by which its work is counted: its address or network, else its own id.
        subscription: its channels and products.
        has_subscribed: True once a command has left it with at least one topic.
        is_closed: True after ``close``: it receives no more data.
    """

    __slots__ = (
        "_awaiting",
        "_catching_up",
        "_member",
        "_pipe",
        "_resumed_from",
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
        self._resumed_from: dict[Topic, int] = {}  # position after a completed catch-up

    def apply(self, command: Command) -> list[str]:
        """Execute ``command``; the subscriber receives new topics from this turn on.

        The last values and the notices in force of the topics subscribed to are written at once.

        Returns:
            A reason for each part of it that was not executed, each reason once.
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
        """Return the greater number: topics that ``command`` names, topics that it has now."""
        return max(command.weight, self.subscription.count)

    def answer(self, command: Command) -> list[bytes]:
        """Execute ``command``; return Coinbase's answer: errors, then the whole subscription.

        The caller sends the messages of the answer.
        """
        errors = self.apply(command)
        answers = [coinbase.error(command.failure, reason) for reason in errors]
        return [*answers, coinbase.subscriptions(self.subscription.state)]

    def admit(self, topic: Topic, chunks: Iterable[Chunk] = ()) -> None:
        """Make ``topic`` live and write ``chunks``, which begin with its snapshot.

        ``chunks`` are empty when the snapshot is the next message on the tape.
        """
        self._awaiting -= {topic}
        self._place()
        for chunk in chunks:
            if not self.is_closed and topic not in self._awaiting:
                self._pipe.hub.deliver_chunk(self._member, chunk)

    def step_aside(self, topics: Iterable[Topic]) -> None:
        """Stop the books ``topics``: conflation dropped their waiting messages.

        They wait for new snapshots from ``step_in`` on.
        """
        self._awaiting |= self._topics.intersection(topics)
        self._place()

    def step_in(self) -> None:
        """Register for new snapshots of the stopped books: the backlog has room again."""
        self._pipe.snapshots.wait(self, self._awaiting)

    def resumes(self, topic: Topic, catch_up: Giving) -> bool:
        """Say whether ``topic`` still catches up by ``catch_up``."""
        return self._catching_up.get(topic) is catch_up

    def take_past(self, chunk: Chunk) -> None:
        """Write ``chunk`` of recorded messages to the member."""
        self._pipe.hub.deliver_recorded(self._member, chunk, self.form)

    async def wait_written(self) -> None:
        """Wait until the backlog is empty, or will never be sent."""
        await self._member.wait_written()

    def stand_in(self, catch_up: Giving, owed: list[tuple[int, Message]], end: Message) -> None:
        """Make the topics of ``catch_up`` live, and write the rest of it.

        The ``owed`` messages are written first. A stream with notices then receives the notices in
        force, trades fetched recently where the catch-up has a gap, and ``end``.

        Args:
            catch_up: the catch-up that has reached the tape.
            owed: messages that it has not delivered, each with its offset.
            end: the ``resumed`` notice in the form of a message.
        """
        topics = [topic for topic, each in self._catching_up.items() if each is catch_up]
        position = catch_up.position(())
        self._resumed_from |= {topic: position[topic] for topic in topics if topic in position}
        self._catching_up = {t: c for t, c in self._catching_up.items() if c is not catch_up}
        self._place()
        if owed and not self.is_closed:
            offsets, messages = zip(*owed, strict=True)
            self._pipe.hub.deliver(self._member, list(messages), list(offsets))
        if not self.form.has_notices:
            return
        for notice in (*self._pipe.standing.of(topics), *self._pipe.tape.doubts(topics)):
            self.notify(notice)
        incomplete = {t.product_id for t in catch_up.lacking if t.channel in _OF_TRADES}
        asked = {t.product_id for t in topics if t.channel == MATCHES.topic_channel}
        self._notify_backfilled(incomplete & asked)
        if not self.is_closed:
            self._pipe.hub.deliver(self._member, [end], [self._pipe.tape.end + 1])

    def go_live(self, replay: CatchUp, starts: Mapping[Topic, Start]) -> None:
        """End ``replay`` at the present, and continue its topics with live messages.

        Books wait for snapshots, topics in ``starts`` catch up from there, other topics are live.
        """
        topics = frozenset(t for t, each in self._catching_up.items() if each is replay)
        self._catching_up = {t: c for t, c in self._catching_up.items() if t not in topics}
        self._await_books(topics)
        self._resume(topics, starts, _NOTHING, sent=replay.messages)
        self._pipe.snapshots.wait(self, self._awaiting)
        self._place()

    def finish(self) -> None:
        """End the stream: the replay has reached its end."""
        self._member.end(CLOSE_NORMAL, "replay_ended", "the replay is over")

    def expire(self) -> None:
        """End the stream: messages after its position are gone, and it accepts no gap."""
        self._member.end(CLOSE_EXPIRED, "position_expired", "messages after the position are gone")

    def fail(self) -> None:
        """End the stream: an unexpected error occurred while it caught up."""
        self._member.end(CLOSE_BUG, "bug", "internal error")

    def shed(self) -> None:
        """End the stream: all subscribers together hold too much memory, and this one the most."""
        self._member.shed()

    def refuse(self, refusal: Refusal) -> None:
        """Drop a refused product or channel, and report this if the subscriber has it.

        A stream that cannot carry the report is ended: it would look healthy and stay silent.
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
        """Say whether it is subscribed to one of ``topics``, live or not."""
        return not self._topics.isdisjoint(topics)

    def notify(self, payload: bytes) -> None:
        """Send a notice, where the stream has notices; without effect after ``close``."""
        if self.form.has_notices and not self.is_closed:
            self._member.tell(payload)

    def close(self) -> None:
        """Leave all topics; nothing more of them is written. A second call has no effect.

        The caller closes the stream.
        """
        self.is_closed = True
        self._pipe.hub.remove(self._member)
        topics, self._topics, self._awaiting = self._topics, frozenset(), frozenset()
        self._catching_up = {}
        self._pipe.snapshots.leave(self)
        self._pipe.demand.release(topics, self._pipe.now())

    def position(self, at: int) -> dict[Topic, int]:
        """Return the resume position of a subscriber served up to tape offset ``at``.

        Topics without a known sequence are left out.
        """
        live, tape = self._topics - self._catching_up.keys(), self._pipe.tape
        position = tape.position(live, at)
        for topic in live & self._resumed_from.keys():
            known = tape.held_from(topic)
            # The tape may know no sequence, or a lower one; one that has left it may be higher.
            if topic in position or known is None or not known.has_left:
                position[topic] = max(self._resumed_from[topic], position.get(topic, 0))
        for catch_up in set(self._catching_up.values()):
            position |= catch_up.position(self._member.waiting())
        return position

    def statistics(self) -> MemberStatistics:
        """Return the statistics of the subscriber."""
        return self._member.statistics(self._pipe.now())

    def _follow(
        self,
        topics: frozenset[Topic],
        asked: set[tuple[Channel, str]],
        command: Command,
    ) -> None:
        """Make ``topics`` the topics of this session, and send the state of the ``asked`` ones.

        New topics begin as ``command`` states: with a replay, with a position, or live; without a
        replay, books wait for a snapshot. Topics that catch up are sent no state now. A closed
        session changes nothing.
        """
        added, gone = topics - self._topics, self._topics - topics
        if self.is_closed or not (added or gone or asked):
            return
        self._topics = topics
        self._pipe.demand.want(added)
        self._pipe.demand.release(gone, self._pipe.now())
        for topic in gone:
            self._catching_up.pop(topic, None)
            self._resumed_from.pop(topic, None)
        self._awaiting &= topics
        if command.pace is not None and added:
            starts = {topic: command.since.get(topic, Start(is_new=True)) for topic in added}
            replay = Replay(self._pipe.resumes, self, starts, command.pace)
            self._pipe.resumes.start(replay)
            self._catching_up |= dict.fromkeys(added, replay)
        else:
            self._await_books(added)
            self._resume(added, command.since, command)
        self._pipe.snapshots.wait(self, self._awaiting)
        self._place()
        if not self.is_closed:
            self._greet({(c, p) for c, p in asked if c.topic(p) not in self._catching_up})

    def _await_books(self, topics: Iterable[Topic]) -> None:
        self._awaiting |= {t for t in topics if BY_TOPIC_CHANNEL[t.channel].begins_with_snapshot}

    def _resume(
        self, added: frozenset[Topic], since: Mapping[Topic, Start], how: Command, *, sent: int = 0
    ) -> None:
        """Start a catch-up for the ``added`` topics with a position in ``since``, if any.

        ``sent`` is the number of messages that a preceding replay has sent.
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
        # Further topics join the catch-up that runs. With positions in the wire form, because each
        # event states the position of all topics; and matches with full, because a trade of full is
        # one of matches too, and would be delivered twice if only one of them caught up.
        running = next(iter(self._catching_up.values()), None)
        if running is not None:
            is_one = self.form.states_position
            together = {t for t in added - starts.keys() if is_one or _twin(t) in starts}
            running.join(together)
            self._catching_up |= dict.fromkeys(together, running)

    def _place(self) -> None:
        aside = self._awaiting | self._catching_up.keys()
        self._pipe.hub.place(self._member, self._topics - aside, self.form)

    def _greet(self, asked: set[tuple[Channel, str]]) -> None:
        """Write the state of the ``asked`` topics: last ticker, last match, status, schema.

        A stream with notices also receives those in force, and trades fetched recently.
        """
        greetings: dict[bytes, Message] = {}
        for channel, product_id in sorted(asked, key=_name_of):
            greeting = self._pipe.latest.greeting(channel.topic(product_id))
            if greeting is not None:
                greetings[greeting.payload] = greeting
        if greetings:
            # Their offset is that of the next message: all messages before it are delivered.
            offsets = [self._pipe.tape.end + 1] * len(greetings)
            self._pipe.hub.deliver(self._member, list(greetings.values()), offsets)
        if self.form.has_notices:
            for notice in self._pipe.standing.of(c.topic(product) for c, product in asked):
                self._member.tell(notice)
            self._notify_backfilled(product for c, product in asked if c is MATCHES)

    def _notify_backfilled(self, product_ids: Iterable[str]) -> None:
        """Send trades fetched recently: a subscriber that reconnected may have missed them."""
        for product_id in sorted(product_ids) if len(self._pipe.backfilled) else ():
            trades = self._pipe.backfilled.since(product_id, self._pipe.now())
            trades = trades[-BACKFILL_RETOLD_TRADES_MAX:]
            for at in range(0, len(trades), BACKFILL_CHUNK_TRADES_MAX):
                part = trades[at : at + BACKFILL_CHUNK_TRADES_MAX]
                self.notify(notices.backfilled(product_id, part))


def _twin(topic: Topic) -> Topic | None:
    """Return the other topic with the same trades: ``full`` for ``matches`` and vice versa.

    None for a topic of another channel.
    """
    twins = {MATCHES.topic_channel: FULL, FULL.topic_channel: MATCHES}
    twin = twins.get(topic.channel)
    return None if twin is None else twin.topic(topic.product_id)


def _name_of(pair: tuple[Channel, str]) -> tuple[str, str]:
    """Return the sort key of a pair; comparing whole channels takes many times as long."""
    return pair[0].name, pair[1]


def _pairs(subscription: Subscription) -> set[tuple[Channel, str]]:
    """Return each channel of the subscription with each of its products.

    The product is ``""`` for a channel without products, or for all products.
    """
    return {
        (channel, product_id)
        for channel, product_ids in subscription.state.items()
        for product_id in product_ids or ("",)
    }
