"""Where new subscribers of a book wait for its snapshot."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.domain.channel import Topic
from hedgehogd.engine.anteroom import Anteroom
from tests.fakes import make_message

A, B = Topic("level2", "AAA-USD"), Topic("level2", "BBB-USD")
MESSAGES = {
    "a": make_message(*A),
    "b": make_message(*B),
    "A": make_message(*A, kind="snapshot"),
    "B": make_message(*B, kind="snapshot"),
    "t": make_message("ticker", "AAA-USD", 1),
}


class Waiter:
    """Writes down what it was let in for."""

    def __init__(self):
        self.admitted = []

    def admit(self, topic):
        self.admitted.append(topic)


@pytest.fixture
def anteroom():
    return Anteroom()


def let_through(anteroom, text):
    """Let messages through as the broker does; return the parts, one letter a message."""
    letters = {id(message): letter for letter, message in MESSAGES.items()}
    found = []
    for part in anteroom.parts([MESSAGES[letter] for letter in text]):
        if part[0].type == "snapshot":
            anteroom.admit(part[0].topic)
        found.append("".join(letters[id(message)] for message in part))
    return found


@pytest.mark.parametrize("text", ["a", "A", "aAbBt", "AAA"])
def test_with_nobody_waiting_a_batch_stays_whole(anteroom, text):
    """A snapshot that nobody waits for is a message like any other."""
    assert let_through(anteroom, text) == [text]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A", ["A"]),
        ("ab", ["ab"]),
        ("aAa", ["a", "Aa"]),
        ("taAtBbA", ["ta", "At", "BbA"]),
        ("AB", ["A", "B"]),
        ("bBA", ["b", "B", "A"]),
    ],
)
def test_a_batch_is_cut_before_each_snapshot_that_is_waited_for(anteroom, text, expected):
    """Who is let in there sees the snapshot first, and nothing from before it."""
    anteroom.wait(Waiter(), [A, B])

    assert let_through(anteroom, text) == expected


@given(st.text("aAbBt", min_size=1, max_size=9), st.sets(st.sampled_from([A, B])))
def test_everybody_is_let_in_once_exactly_before_the_first_snapshot(text, topics):
    """However many snapshots a batch brings, and whatever else."""
    anteroom, waiter, seen = Anteroom(), Waiter(), []
    anteroom.wait(waiter, topics)
    waiter.admit = lambda topic: waiter.admitted.append((topic, sum(map(len, seen))))
    letters = {A: "A", B: "B"}
    for part in anteroom.parts([MESSAGES[letter] for letter in text]):
        if part[0].type == "snapshot":
            anteroom.admit(part[0].topic)
        seen.append(part)

    firsts = {(t, text.index(letters[t])) for t in topics if letters[t] in text}
    assert set(waiter.admitted) == firsts
    assert len(waiter.admitted) == len(firsts)
    assert [MESSAGES[letter] for letter in text] == [m for part in seen for m in part]
    assert all(seen)


def test_each_waits_for_its_own_topics(anteroom):
    """Whoever has one of two books gets that one at once."""
    both, other = Waiter(), Waiter()
    anteroom.wait(both, [A, B])
    anteroom.wait(other, [B])
    anteroom.admit(A)
    assert (both.admitted, other.admitted) == ([A], [])

    anteroom.admit(B)
    anteroom.admit(B)
    assert (both.admitted, other.admitted) == ([A, B], [B])


def test_who_waits_anew_waits_for_nothing_else(anteroom):
    """An unsubscribe while waiting: the snapshot is not wanted any more."""
    waiter, other = Waiter(), Waiter()
    anteroom.wait(waiter, [A, B])
    anteroom.wait(other, [A])
    anteroom.wait(waiter, [B])
    assert let_through(anteroom, "AB") == ["A", "B"]

    assert (waiter.admitted, other.admitted) == ([B], [A])


def test_who_leaves_is_not_let_in_and_holds_up_nothing(anteroom):
    """A closed stream has nowhere to go, and a batch is not cut for it."""
    waiter = Waiter()
    anteroom.wait(waiter, [A])
    anteroom.leave(waiter)
    anteroom.leave(waiter)

    assert let_through(anteroom, "aA") == ["aA"]
    assert waiter.admitted == []


def test_who_begins_to_wait_in_the_middle_of_a_batch_gets_the_next_snapshot_of_it(anteroom):
    """Writing out a part may take several turns, and in each of them somebody may join."""
    first, second = Waiter(), Waiter()
    anteroom.wait(first, [A])
    parts = anteroom.parts([MESSAGES[letter] for letter in "aAbBb"])
    assert next(parts) == [MESSAGES["a"]]
    anteroom.wait(second, [B])

    assert [len(part) for part in parts] == [2, 2]
