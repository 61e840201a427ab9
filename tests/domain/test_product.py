"""Products: the form of an id, and the catalogue of accepted products."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgehogd.domain import product
from hedgehogd.domain.product import Catalogue, is_product_id
from tests.recordings import PRO, recording


def test_every_product_of_coinbase_has_a_valid_id():
    """A rule that is stricter than the exchange's would hide a market."""
    listed = [row["id"] for row in json.loads(recording(f"{PRO}/rest_products.json").read_bytes())]

    assert len(listed) > 100
    assert [product_id for product_id in listed if not is_product_id(product_id)] == []


@pytest.mark.parametrize("text", ["1INCH-USD", "BTC-PERP-INTX", "A-B", "X" * 16 + "-USD"])
def test_an_unusual_id_is_valid(text):
    """Ids of new markets had digits and three parts."""
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
def test_an_invalid_id_is_refused(text):
    """Ids are used in URLs, logs, metrics and positions, where separators would be harmful."""
    assert not is_product_id(text)


HISTORIES = {
    "nothing is known": (None, [], {"BTC-USD": True, "NO-SUCH": True, "nonsense": False}),
    "the list is known": (
        None,
        [("replace", {"BTC-USD"})],
        {"BTC-USD": True, "ETH-USD": False, "nonsense": False},
    ),
    "a refusal before the list": (
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
    "a delisted product": (
        None,
        [("replace", {"BTC-USD", "OLD-USD"}), ("replace", {"BTC-USD"})],
        {"BTC-USD": True, "OLD-USD": False},
    ),
    "only the configured pairs, list or not": (
        {"BTC-USD"},
        [],
        {"BTC-USD": True, "ETH-USD": False, "nonsense": False},
    ),
    "only the configured pairs that are listed": (
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


@pytest.mark.parametrize(("only", "steps", "expected"), HISTORIES.values(), ids=HISTORIES)
def test_the_catalogue_accepts_what_may_exist(only, steps, expected):
    """A strict rule hides markets while REST is down; a lax one sends invalid subscribes."""
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
def test_the_catalogue_reports_if_a_list_is_known(only, steps, expected):
    """Without a known list an unlisted pair must not be answered with 404."""
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
def test_the_catalogue_returns_the_known_products(only, steps, expected):
    """The product list of a recording is made from this."""
    catalogue = follow(only, steps)

    assert (catalogue.known(), catalogue.only) == (expected, only)


def test_a_refused_channel_is_remembered_with_the_exchanges_texts():
    """Later subscribers are refused at once, because the exchange refuses all of them."""
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
def test_the_known_products_are_in_both_lists(only, listed, expected):
    """A product of the permanent demand must exist and be configured."""
    catalogue = follow(only, [] if listed is None else [("replace", listed)])

    assert expected == catalogue.known()
    assert only == catalogue.only


def test_remembered_refusals_are_bounded(monkeypatch):
    """A hostile feed can refuse any number of products that no subscriber requested."""
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
def test_a_malformed_id_is_never_accepted(text, steps):
    """An id that is invalid in a position is refused even if the exchange lists it."""
    assert not follow(None, steps).accepts(text) or is_product_id(text)


def test_the_configured_list_may_change():
    """A reload sets a new list; products that the exchange does not list stay refused."""
    catalogue = Catalogue(frozenset({"A-B"}))
    catalogue.replace(frozenset({"A-B", "C-D"}))
    assert [catalogue.accepts(each) for each in ("A-B", "C-D", "E-F")] == [True, False, False]
    catalogue.restrict(frozenset({"C-D", "E-F"}))
    assert [catalogue.accepts(each) for each in ("A-B", "C-D", "E-F")] == [False, True, False]
    catalogue.restrict(None)

    assert [catalogue.accepts(each) for each in ("A-B", "C-D", "E-F")] == [True, True, False]


def test_auctions_come_from_the_newest_list():
    """No message reports the end of an auction."""
    catalogue = Catalogue()
    catalogue.replace(frozenset({"A-B", "C-D"}), frozenset({"A-B"}))
    assert [catalogue.is_in_auction(each) for each in ("A-B", "C-D")] == [True, False]

    catalogue.replace(frozenset({"A-B", "C-D"}))
    assert not catalogue.is_in_auction("A-B")
