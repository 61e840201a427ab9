"""Placement: each product on one connection, and no change of variant on a live one."""

import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgehogd.arbitration.placement import Plan
from hedgehogd.domain.channel import CHANNELS, Topic, upstream_topics
from hedgehogd.domain.limits import HANDOVER_S, HEAVY_CONNECTIONS_MAX, MOVES_MAX

KINDS = ({"full", "matches"}, {"level2", "level2_batch"})
NAMES = sorted(channel.topic_channel for channel in CHANNELS if channel.takes_products)
HEAVY = {"full", "level3"}


def topics(product_id, *channels):
    return frozenset(Topic(channel, product_id) for channel in channels)


def held(plan, product_id):
    """Return the channels of a product by slot."""
    found = {s: {t.channel for t in plan.topics(s) if t.product_id == product_id} for s in
             plan.slots()}  # fmt: skip
    return {slot: channels for slot, channels in found.items() if channels}


class Watched:
    """A plan, and the variants that its connections have carried since they began."""

    def __init__(self):
        self.plan = Plan()
        self.asked = frozenset()
        self.carried = {}
        self.newest = {}

    def follow(self, asked, now):
        self.asked = asked
        before = {p: held(self.plan, p) for p in {t.product_id for t in asked}}
        self.plan.follow(asked, now)
        self.check(before, now)

    def check(self, before, now):
        plan = self.plan
        slots = plan.slots()
        assert set().union(*map(plan.topics, slots)) >= self.asked
        assert {t.product_id for s in slots for t in plan.topics(s)} == {
            t.product_id for t in self.asked
        }
        assert all(0 <= slot <= HEAVY_CONNECTIONS_MAX + 6 + MOVES_MAX for slot in slots)
        for product_id in before:
            wanted = {t.channel for t in self.asked if t.product_id == product_id}
            now_held = held(plan, product_id)
            assert 1 <= len(now_held) <= 2
            homes = [slot for slot, channels in now_held.items() if channels == wanted]
            assert homes
            if wanted & HEAVY:
                assert any(1 <= slot <= HEAVY_CONNECTIONS_MAX for slot in homes)
            for slot, channels in now_held.items():
                for kind, variants in enumerate(KINDS):
                    for channel in channels & variants:
                        key = (slot, product_id, kind)
                        assert self.carried.setdefault(key, channel) == channel

    def ended(self, slot):
        self.plan.ended(slot)
        self.carried = {key: v for key, v in self.carried.items() if key[0] != slot}
        for key_slot in self.plan.slots():
            for topic in self.plan.topics(key_slot):
                for kind, variants in enumerate(KINDS):
                    if topic.channel in variants:
                        key = (key_slot, topic.product_id, kind)
                        assert self.carried.setdefault(key, topic.channel) == topic.channel


@settings(max_examples=60)
@given(st.integers(0, 2**32))
def test_a_product_is_on_one_connection_and_never_changes_its_variant(seed):
    """Indistinguishable messages would otherwise go to the wrong subscribers."""
    rng = random.Random(seed)
    watched, now, wanted = Watched(), 0.0, set()
    for _ in range(40):
        now += rng.choice([0, 0.3, 2])
        step = rng.random()
        if step < 0.6:
            product_id = rng.choice(["A-USD", "B-USD", "C-USD"])
            if rng.random() < 0.2:
                wanted = {t for t in wanted if t.product_id != product_id}
            else:
                wanted ^= topics(product_id, *rng.sample(NAMES, rng.randint(1, 3)))
            watched.follow(upstream_topics(wanted), now)
        elif step < 0.85 and watched.plan.slots():
            slot = rng.choice(watched.plan.slots())
            for product_id in {t.product_id for t in watched.plan.topics(slot)}:
                watched.plan.arrived(slot, product_id, now)
        elif step < 0.92 and watched.plan.slots():
            slot = rng.choice(watched.plan.slots())
            watched.plan.avoid(slot, rng.choice(sorted(watched.plan.topics(slot))).product_id)
            watched.follow(watched.asked, now)
        elif watched.plan.slots():
            watched.ended(rng.choice(watched.plan.slots()))
        due = watched.plan.next_change_at()
        if due is not None and due <= now:
            watched.follow(watched.asked, now)


FULL, MATCHES = topics("A-USD", "full"), topics("A-USD", "matches")


def test_an_old_variant_is_kept_until_a_moment_after_the_new_one_arrives():
    """Dropped sooner, trades between the two would be lost."""
    plan = Plan()
    plan.follow(MATCHES, 0)
    plan.follow(FULL, 10)
    assert {0: {"matches"}, 1: {"full"}} == held(plan, "A-USD")
    assert plan.next_change_at() is None

    plan.arrived(0, "A-USD", 20)  # from the old one: that shows nothing
    plan.follow(FULL, 90)
    assert {0: {"matches"}, 1: {"full"}} == held(plan, "A-USD")

    plan.arrived(1, "A-USD", 100)
    plan.arrived(1, "A-USD", 100.9)
    plan.arrived(1, "B-USD", 100)
    assert 100 + HANDOVER_S == plan.next_change_at()
    plan.follow(FULL, 100 + HANDOVER_S - 0.01)
    assert [0, 1] == plan.slots()
    plan.follow(FULL, 100 + HANDOVER_S)
    assert [1] == plan.slots()
    assert plan.next_change_at() is None


def test_a_new_connection_that_ends_before_the_move_is_over_delays_it():
    """The product does not arrive on it any more."""
    plan = Plan()
    plan.follow(MATCHES, 0)
    plan.follow(FULL, 0)
    plan.arrived(1, "A-USD", 0)
    plan.ended(1)
    plan.follow(FULL, 100)

    assert {0: {"matches"}, 1: {"full"}} == held(plan, "A-USD")


def test_a_product_whose_topics_change_back_moves_back_at_once():
    """The old connection still holds it."""
    plan = Plan()
    plan.follow(MATCHES, 0)
    plan.arrived(0, "A-USD", 0)
    plan.follow(FULL, 10)
    plan.follow(MATCHES, 10.1)

    assert {0: {"matches"}} == held(plan, "A-USD")


def test_a_product_that_moves_again_during_a_move_keeps_the_live_connection():
    """Three connections for one product would be one too many."""
    plan = Plan()
    plan.follow(topics("A-USD", "matches", "level2_batch"), 0)
    plan.arrived(0, "A-USD", 0)
    plan.follow(topics("A-USD", "matches", "level2"), 10)
    plan.follow(topics("A-USD", "full", "level2_batch"), 11)
    assert {0: {"matches", "level2_batch"}, 1: {"full", "level2_batch"}} == held(plan, "A-USD")

    plan.follow(topics("A-USD", "full", "level2"), 12)
    plan.arrived(2, "A-USD", 12)
    plan.follow(topics("A-USD", "matches", "level2"), 12.1)
    assert {2: {"full", "level2"}, 9: {"matches", "level2"}} == held(plan, "A-USD")


def test_channels_without_variants_come_and_go_where_the_product_is():
    """The product need not move for them."""
    plan = Plan()
    plan.follow(FULL, 0)
    plan.follow(FULL | topics("A-USD", "ticker"), 1)
    plan.follow(topics("A-USD", "ticker"), 2)

    assert {1: {"ticker"}} == held(plan, "A-USD")


@pytest.mark.parametrize("before", [(), ("ticker",), ("ticker", "heartbeat", "level2")])
@pytest.mark.parametrize("heavy", ["full", "level3"])
def test_heavy_products_are_spread(before, heavy):
    """Also products that were light before: a slow reader is disconnected (COINBASE §11)."""
    plan = Plan()
    products = [f"P{number}-USD" for number in range(20)]
    light = frozenset().union(*(topics(p, *before) for p in products))
    plan.follow(light, 0)
    asked = light.union(*(topics(p, heavy) for p in products))
    plan.follow(asked, 1)
    for slot in range(1, HEAVY_CONNECTIONS_MAX + 1):
        for product_id in products:
            plan.arrived(slot, product_id, 2)
    plan.follow(asked, 2 + HANDOVER_S)
    load = Counter(t.product_id for s in plan.slots() for t in plan.topics(s) if t.channel == heavy)

    assert list(range(1, HEAVY_CONNECTIONS_MAX + 1)) == plan.slots()
    assert set(load.values()) == {1}
    assert {2, 3} == {sum(t.channel == heavy for t in plan.topics(slot)) for slot in plan.slots()}


def test_a_refused_channel_leaves_no_variant():
    """So the poorer variant may arrive on the same connection."""
    plan = Plan()
    plan.follow(topics("A-USD", "level2"), 0)
    plan.refused({"level2", "full"})
    plan.follow(topics("A-USD", "level2_batch"), 1)

    assert {0: {"level2_batch"}} == held(plan, "A-USD")


def test_a_connection_that_has_ended_may_carry_another_variant():
    """The next connection has carried nothing yet."""
    plan = Plan()
    plan.follow(topics("A-USD", "level2"), 0)
    plan.follow(frozenset(), 1)
    plan.ended(0)
    plan.follow(topics("A-USD", "level2_batch"), 2)

    assert {0: {"level2_batch"}} == held(plan, "A-USD")


@pytest.mark.parametrize(("channel", "slots"), [("ticker", [0, 9, 10, 11]), ("full", [1, 2, 3, 4])])
def test_a_silent_product_moves_a_few_times(channel, slots):
    """The connection may be the cause; when it arrives on no connection, none of them is."""
    plan, asked, homes = Plan(), topics("A-USD", channel), []
    for now in range(MOVES_MAX + 3):
        plan.follow(asked, now)
        homes.append(plan.slots()[-1])
        plan.avoid(homes[-1], "A-USD")
        plan.avoid(homes[-1], "A-USD")

    assert slots + slots[-1:] * 2 == homes
    plan.ended(slots[0])
    plan.avoid(slots[-1], "A-USD")
    plan.follow(asked, 99)
    assert slots[0] in plan.slots()


@pytest.mark.parametrize("channel", ["ticker", "full"])
def test_emptied_connections_that_end_give_a_product_no_more_moves(channel):
    """A product that arrives nowhere would open connections for ever, each to end empty."""
    plan, asked, homes = Plan(), topics("A-USD", channel), []
    for now in range(0, 10 * MOVES_MAX, 2):
        plan.follow(asked, now)
        homes.append(next(slot for slot in range(20) if plan.products([slot])))
        plan.arrived(homes[-1], "A-USD", now)  # a heartbeat arrives, and no other message
        plan.follow(asked, now + HANDOVER_S)
        for left in set(homes[:-1]) - set(plan.slots()):
            plan.ended(left)
        plan.avoid(homes[-1], "A-USD")

    assert sum(before != later for before, later in pairwise(homes)) == MOVES_MAX
    assert len(set(homes[MOVES_MAX:])) == 1


def test_a_product_is_counted_at_its_newest_placement():
    """An old variant elsewhere is about to end."""
    plan = Plan()
    plan.follow(MATCHES | topics("B-USD", "ticker"), 0)
    assert ({"A-USD", "B-USD"}, set()) == (plan.products([0]), plan.products([1]))
    plan.follow(FULL | topics("B-USD", "ticker"), 1)

    assert ({"B-USD"}, {"A-USD"}) == (plan.products([0]), plan.products([1]))
    assert {"A-USD", "B-USD"} == plan.products(iter([0, 1, 7]))


def test_without_topics_no_connection_is_held():
    """No connection is opened without demand."""
    plan = Plan()
    plan.follow(FULL | topics("B-USD", "ticker"), 0)
    plan.follow(frozenset(), 1)

    assert ([], frozenset()) == (plan.slots(), plan.topics(1))


def test_a_moved_product_is_silent_until_it_arrives_or_is_dropped():
    """The silence of such a product does not show that its connection is dead."""
    plan, asked = Plan(), topics("A-USD", "ticker") | topics("B-USD", "ticker")
    plan.follow(asked, 0)
    plan.avoid(0, "A-USD")
    plan.avoid(0, "B-USD")
    assert {"A-USD", "B-USD"} == plan.silent

    plan.follow(asked, 1)
    (slot,) = plan.slots()[-1:]
    plan.arrived(slot, "A-USD", 2)
    assert {"B-USD"} == plan.silent
    plan.follow(topics("A-USD", "ticker"), 3)
    assert set() == plan.silent
