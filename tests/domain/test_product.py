"""Products: the shape of an id, and which of them may be subscribed to."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgehogd.domain import product
from hedgehogd.domain.product import Catalogue, is_product_id
from tests.recordings import PRO, recording


def test_every_product_that_coinbase_listed_is_one():
    """A rule stricter than the exchange's would hide a market."""
    listed = [row["id"] for row in json.loads(recording(f"{PRO}/rest_products.json").read_bytes())]

    assert len(listed) > 100
    assert [product_id for product_id in listed if not is_product_id(product_id)] == []


@pytest.mark.parametrize("text", ["1INCH-USD", "BTC-PERP-INTX", "A-B", "X" * 16 + "-USD"])
def test_unusual_ids_are_ids(text):
    """New markets have had digits and three parts."""
    assert is_product_id(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "BTC",
        "BTCUSD",
        "-",
        "BTC-",
        "-USD",
        "btc-usd",
        "BTC_USD",
        "BTC/USD",
        "BTC-USD ",
        "BTC-USD\n",
        "BTC-USD\0",
        "BTC--USD",
        "A-B-C-D-E",
        "X" * 17 + "-USD",
        "BTC-USD,ETH-USD",
        "BTC-USD@1",
        "ΒTC-USD",  # a Greek capital beta
        "٣-USD",
    ],
)
def test_what_cannot_be_an_id_is_none(text):
    """Ids end up in URLs, logs, metrics and positions; separators in them would break those."""
    assert not is_product_id(text)


CONVERSATIONS = {
    "nothing is known": (None, [], {"BTC-USD": True, "NO-SUCH": True, "nonsense": False}),
    "the list is known": (
        None,
        [("replace", {"BTC-USD"})],
        {"BTC-USD": True, "ETH-USD": False, "nonsense": False},
    ),
    "a refusal stands in for the list": (
        None,
        [("refuse", "NO-SUCH")],
        {"BTC-USD": True, "NO-SUCH": False},
    ),
    "the list overrules an older refusal": (
        None,
        [("refuse", "NEW-USD"), ("replace", {"NEW-USD"})],
        {"NEW-USD": True},
    ),
    "the list overrules a later refusal": (
        None,
        [("replace", {"BTC-USD"}), ("refuse", "BTC-USD")],
        {"BTC-USD": True},
    ),
    "a delisted product goes": (
        None,
        [("replace", {"BTC-USD", "OLD-USD"}), ("replace", {"BTC-USD"})],
        {"BTC-USD": True, "OLD-USD": False},
    ),
    "only the configured pairs, list or not": (
        {"BTC-USD"},
        [],
        {"BTC-USD": True, "ETH-USD": False, "nonsense": False},
    ),
    "only the configured pairs, and of them the listed": (
        {"BTC-USD", "OLD-USD"},
        [("replace", {"BTC-USD", "ETH-USD"})],
        {"BTC-USD": True, "ETH-USD": False, "OLD-USD": False},
    ),
    "a configured pair that is refused": (
        {"BTC-USD", "OLD-USD"},
        [("refuse", "OLD-USD")],
        {"BTC-USD": True, "OLD-USD": False},
    ),
}


def follow(only, steps):
    catalogue = Catalogue(None if only is None else frozenset(only))
    for step, value in steps:
        if step == "replace":
            catalogue.replace(frozenset(value))
        else:
            catalogue.refuse(value)
    return catalogue


@pytest.mark.parametrize(("only", "steps", "expected"), CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_the_catalogue_accepts_what_may_exist(only, steps, expected):
    """Too strict hides markets while REST is down; too lax asks the exchange for nonsense."""
    catalogue = follow(only, steps)

    assert expected == {product_id: catalogue.accepts(product_id) for product_id in expected}


@pytest.mark.parametrize(
    ("only", "steps", "expected"),
    [
        (None, [], False),
        (None, [("refuse", "NO-SUCH")], False),
        (None, [("replace", set())], True),
        ({"BTC-USD"}, [], True),
    ],
)
def test_the_catalogue_knows_whether_it_knows(only, steps, expected):
    """Until it does, an unlisted pair cannot be answered 404."""
    assert expected == follow(only, steps).is_known


@pytest.mark.parametrize(
    ("only", "steps", "expected"),
    [
        (None, [("refuse", "NO-SUCH")], None),
        (None, [("replace", {"A-USD", "B-USD"})], {"A-USD", "B-USD"}),
        ({"A-USD"}, [], {"A-USD"}),
        ({"A-USD", "C-USD"}, [("replace", {"A-USD", "B-USD"})], {"A-USD"}),
    ],
)
def test_the_catalogue_tells_what_it_knows(only, steps, expected):
    """A recording's list of products is made from this."""
    catalogue = follow(only, steps)

    assert (catalogue.known(), catalogue.only) == (expected, only)


def test_a_refused_channel_is_remembered_in_the_exchanges_words():
    """Who asks later is told at once; the exchange gives it to none of us."""
    catalogue = follow(None, [])
    catalogue.refuse_channel("level2", "Failed to subscribe", "a key")
    catalogue.replace(frozenset({"BTC-USD"}))

    assert ("Failed to subscribe", "a key") == catalogue.refusal_of("level2")
    assert catalogue.refusal_of("full") is None
    for _ in range(2):
        catalogue.allow_channel("level2")
        assert catalogue.refusal_of("level2") is None


@pytest.mark.parametrize(
    ("only", "listed", "expected"),
    [
        (None, None, None),
        ({"A-USD"}, None, {"A-USD"}),
        (None, {"A-USD", "B-USD"}, {"A-USD", "B-USD"}),
        ({"A-USD", "C-USD"}, {"A-USD", "B-USD"}, {"A-USD"}),
    ],
)
def test_the_products_that_are_known_are_those_of_both_lists(only, listed, expected):
    """What is always to be held must exist, and be configured."""
    catalogue = follow(only, [] if listed is None else [("replace", listed)])

    assert expected == catalogue.known()
    assert only == catalogue.only


def test_refusals_are_not_remembered_without_end(monkeypatch):
    """A hostile feed refuses what nobody asked for (invariant 4)."""
    monkeypatch.setattr(product, "TOPICS_MAX", 2)
    catalogue = follow(None, [("refuse", name) for name in ("A-USD", "B-USD", "C-USD")])
    accepted = [name for name in ("A-USD", "B-USD", "C-USD") if catalogue.accepts(name)]

    assert accepted == ["C-USD"]


@settings(deadline=None)
@given(
    st.text(max_size=40),
    st.lists(
        st.one_of(
            st.tuples(st.just("replace"), st.sets(st.text(max_size=5), max_size=3)),
            st.tuples(st.just("refuse"), st.text(max_size=5)),
        )
    ),
)
def test_nothing_malformed_is_ever_accepted(text, steps):
    """Whatever the exchange lists, an id that would break a position stays outside."""
    assert not follow(None, steps).accepts(text) or is_product_id(text)


def test_what_alone_is_served_may_change():
    """A reload; products that the exchange does not list are not served by being named."""
    catalogue = Catalogue(frozenset({"A-B"}))
    catalogue.replace(frozenset({"A-B", "C-D"}))
    assert [catalogue.accepts(each) for each in ("A-B", "C-D", "E-F")] == [True, False, False]
    catalogue.restrict(frozenset({"C-D", "E-F"}))
    assert [catalogue.accepts(each) for each in ("A-B", "C-D", "E-F")] == [False, True, False]
    catalogue.restrict(None)

    assert [catalogue.accepts(each) for each in ("A-B", "C-D", "E-F")] == [True, True, False]


def test_auctions_are_those_of_the_newest_list():
    """One ends without a word."""
    catalogue = Catalogue()
    catalogue.replace(frozenset({"A-B", "C-D"}), frozenset({"A-B"}))
    assert [catalogue.is_in_auction(each) for each in ("A-B", "C-D")] == [True, False]

    catalogue.replace(frozenset({"A-B", "C-D"}))
    assert not catalogue.is_in_auction("A-B")
