"""State of a product: its numbers by channel, and its queue."""

import pytest

from hedgehogd.arbitration.product_state import ProductState
from hedgehogd.domain.gap import Gap
from hedgehogd.domain.limits import SEQUENCE_STEP_MAX, TRADE_ID_STEP_MAX


@pytest.mark.parametrize(
    ("channel", "step_max", "has_gaps"),
    [
        ("matches", TRADE_ID_STEP_MAX, True),
        ("full", SEQUENCE_STEP_MAX, True),
        ("ticker", SEQUENCE_STEP_MAX, False),
    ],
)
def test_each_channel_counts_on_its_own(channel, step_max, has_gaps):
    """A ticker carries its match's sequence, and leaves out most."""
    state = ProductState("BTC-USD", 7)
    numbers = state.numbers_of(channel)
    numbers.observe(1, 0)

    assert numbers is state.numbers_of(channel)
    assert Gap(2, step_max) == numbers.gap_before(1 + step_max)
    assert numbers.gap_before(2 + step_max) is None
    assert has_gaps == (numbers.observe(9, 0).gap is not None)
    assert (7, None, None) == (state.heard_at, state.data_at, state.leader)


@pytest.mark.parametrize(("channel", "gap"), [("full", None), ("matches", ("full", Gap(2, 3)))])
def test_a_released_channel_has_no_open_gap(channel, gap):
    """The other channels keep theirs."""
    state = ProductState("BTC-USD", 0)
    state.numbers_of("full")
    state.open_gap = ("full", Gap(2, 3))
    state.forget(channel)

    assert gap == state.open_gap
    assert (channel != "full") == ("full" in state.numbers)
