"""A true stream of one product, connections that damage it, and checks of the result."""

import heapq
import json
from itertools import count, pairwise

from hedgehogd.arbitration.batch import NoticeKind
from hedgehogd.arbitration.connection_state import Source
from hedgehogd.arbitration.session import UpstreamSession
from hedgehogd.domain.channel import Topic
from hedgehogd.protocol.frames import encode_text

PRODUCT = "BTC-USD"
PATIENCE_S = 0.05
FULL, MATCHES, TICKER, HEARTBEAT, LEVEL2 = (
    Topic(channel, PRODUCT) for channel in ("full", "matches", "ticker", "heartbeat", "level2")
)
WITH_FULL = frozenset({FULL, TICKER, HEARTBEAT, LEVEL2})
WITH_MATCHES = frozenset({MATCHES, TICKER, HEARTBEAT, LEVEL2})


def true_stream(rng, events):
    """Return ``(time, channel, fields)`` of the messages of a perfect connection."""
    now, trade, update, beat_at, stream = 0.0, 500, 0, 0.0, []
    for sequence in range(1_000, 1_000 + events):
        now += rng.choice([0.001, 0.01, 0.03, 0.2])
        fields = {"type": "open", "sequence": sequence}
        if rng.random() < 0.4:
            trade += 1
            fields = {"type": "match", "sequence": sequence, "trade_id": trade}
            stream.append((now, "match", fields))
            stream.append((now, "ticker", fields | {"type": "ticker"}))
        else:
            stream.append((now, "full", fields))
        if rng.random() < 0.5:
            update += 1
            stream.append((now, "level2", {"type": "l2update", "time": update}))
        if now - beat_at > 0.4:
            beat_at = now
            beat = {"type": "heartbeat", "sequence": sequence, "last_trade_id": trade}
            stream.append((now, "heartbeat", beat))
    return stream


class Carrier:
    """One connection of the model.

    Attributes:
        begins, ends: when it is connected.
        lag: how late it is.
        carried: ``(arrival, fields)`` of all messages that arrived on it.
    """

    def __init__(self, line, held, begins, ends, lag):
        self.source = Source(line, held)
        self.held = held
        self.begins, self.ends, self.lag = begins, ends, lag
        self.carried = []

    def damage(self, rng, stream, loss, repeats):
        """Yield ``(arrival, fields)`` of the messages that arrive on it, in order."""
        greeted = False
        arrival = 0.0
        for now, channel, fields in stream:
            arrival = max(arrival, now + self.lag + rng.choice([0, 0, 0.004]))
            if now < self.begins or arrival >= self.ends:
                continue
            if not greeted:
                greeted = True
                yield arrival, self.snapshot(stream, now)
            if channel == "match":
                is_held = bool({FULL, MATCHES} & self.held)
            else:
                is_held = Topic(channel, PRODUCT) in self.held
            if is_held and rng.random() >= loss:
                for _ in range(2 if rng.random() < repeats else 1):
                    yield arrival, dict(fields)

    @staticmethod
    def snapshot(stream, now):
        """Return the book's snapshot as of ``now``, which is before an event's messages."""
        updates = [f["time"] for at, channel, f in stream if channel == "level2" and at < now]
        return {"type": "snapshot", "time": max(updates, default=0)}


class Run:
    """Plays carriers into a session and records the output.

    Attributes:
        out: ``(time, topics, fields)`` of messages and gaps, in order.
        kept_waiting_alone: a message was queued although only one connection was live.
    """

    def __init__(self, stream, carriers):
        self.session = UpstreamSession(PATIENCE_S)
        self.out = []
        self.kept_waiting_alone = False
        self._stream = stream
        self._ids = count()
        self._order = count()
        self._todo = []
        self._alive = set()
        self._by_id = {}
        self._by_source = {carrier.source: carrier for carrier in carriers}

    def at(self, when, what, carrier, fields=None):
        """Plan a step."""
        heapq.heappush(self._todo, (when, next(self._order), what, carrier, fields))

    def play(self):
        """Do all steps in the order of time."""
        arbiter = self.session.arbiter
        while self._todo:
            due = arbiter.next_expiry()
            if due is not None and due <= self._todo[0][0]:
                self._note(due, self.session.expire(due))  # may plan a step before the next
                continue
            when, _, what, carrier, fields = heapq.heappop(self._todo)
            if what == "begin":
                self.session.connected(carrier.source)
                self._alive.add(carrier)
            elif what == "end":
                self._alive.discard(carrier)
                self._note(when, self.session.lost(carrier.source, when))
            elif what == "hold":
                carrier.source.held = fields
            elif carrier in self._alive:
                self._bring(when, carrier, fields)
            if len(self._alive) == 1 and arbiter.next_expiry() is not None:
                self.kept_waiting_alone = True
        while (due := arbiter.next_expiry()) is not None:
            self._note(due, self.session.expire(due))

    def _bring(self, when, carrier, fields):
        if fields["type"] == "snapshot?":
            fields = carrier.snapshot(self._stream, when - carrier.lag - 0.004)
        fields |= {"product_id": PRODUCT, "id": next(self._ids), "arrival": when}
        carrier.carried.append((when, fields))
        payload = json.dumps(fields).encode()
        received = self.session.receive(carrier.source, [(encode_text(payload), payload)], when)
        self._by_id[fields["id"]] = carrier
        self._note(when, received)

    def _note(self, when, received):
        for messages, notices in received.parts():
            for notice in notices:
                if notice.kind is NoticeKind.WHOLE:
                    continue  # it is sent to no subscriber
                self.out.append((when, {notice.audience}, json.loads(notice.payload)))
            for message in messages:
                fields = json.loads(message.payload)
                self.out.append((when, {message.topic, message.also}, fields))
        leader = self.session.products[PRODUCT].leader if self.session.products else None
        for topic in received.resyncs:
            carrier = self._by_source.get(leader)
            # A connection that begins later sends a snapshot. Or it holds only the other book.
            if carrier is None or topic not in carrier.source.held:
                continue
            self.at(when + 0.02, "data", carrier, {"type": "snapshot?"})

    def carrier_of(self, fields):
        """Return the carrier on which a message arrived."""
        return self._by_id[fields["id"]]


def play(rng, carriers, stream, losses, repeats=0.0, holds=()):
    """Play all carriers, each with its share of losses; return the run.

    ``holds`` are ``(time, carrier, topics)``: the topics that a connection holds from then on.
    """
    run = Run(stream, carriers)
    for when, carrier, topics in holds:
        run.at(when, "hold", carrier, topics)
    for carrier, loss in zip(carriers, losses, strict=True):
        run.at(carrier.begins, "begin", carrier)
        for arrival, fields in carrier.damage(rng, stream, loss, repeats):
            run.at(arrival, "data", carrier, fields)
        if carrier.ends < float("inf"):
            run.at(carrier.ends, "end", carrier)
    run.play()
    return run


def check_numbers(run, topic, key):
    """Check that each number is delivered once, in order, or reported missing before the next.

    Returns:
        the numbers delivered, and ``(time, number)`` of those reported missing.
    """
    highest, delivered, reported = None, [], []
    for when, topics, fields in run.out:
        if topic not in topics:
            continue
        if fields["type"] == "gap":
            first, last = fields[f"first_{key}"], fields[f"last_{key}"]
            assert first == highest + 1
            assert first <= last
            reported += [(when, number) for number in range(first, last + 1)]
            highest = last
        else:
            assert highest is None or fields[key] == highest + 1
            highest = fields[key]
            delivered.append(highest)
    return delivered, reported


def check_reported(run, carriers, channels, key, reported):
    """Check that each number reported missing had not arrived and could not be waited for."""
    for when, number in reported:
        arrived = [
            (arrival, carrier)
            for carrier in carriers
            if channels & carrier.held
            for arrival, fields in carrier.carried
            if fields.get(key) == number and fields["type"] in {"open", "match"}
        ]
        assert all(arrival > when for arrival, _ in arrived)
        revealed = min(
            (
                arrival
                for carrier in carriers
                if channels & carrier.held
                for arrival, fields in carrier.carried
                if fields.get(key, 0) > number and fields["type"] in {"open", "match"}
            ),
            default=when,
        )
        for arrival, carrier in arrived:
            connected = [
                other
                for other in carriers
                if other.begins <= revealed and other.ends > arrival and other.held & channels
            ]
            is_late = arrival > revealed + PATIENCE_S - 1e-9
            assert carrier not in connected or len(connected) < 2 or is_late


def check_state(run):
    """Check books and heartbeats, and that no other message is queued longer than the patience."""
    book, updates = None, 0
    full_highest = 0
    for when, topics, fields in run.out:
        if fields["type"] == "gap":
            if FULL in topics:
                full_highest = fields["last_sequence"]
            continue
        carrier = run.carrier_of(fields)
        may_be_early = fields["type"] == "heartbeat" and FULL in carrier.held
        assert may_be_early or when - fields["arrival"] <= PATIENCE_S + 1e-9
        if FULL in topics:
            full_highest = fields["sequence"]
        elif fields["type"] == "snapshot":
            book, updates = carrier, fields["time"]
        elif fields["type"] == "l2update":
            assert book is carrier
            assert fields["time"] >= updates
            updates = fields["time"]
        elif may_be_early and full_highest:
            assert full_highest >= fields["sequence"]
    tickers = [f["sequence"] for _, topics, f in run.out if TICKER in topics]
    assert all(one < other for one, other in pairwise(tickers))
    assert not run.kept_waiting_alone
