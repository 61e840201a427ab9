"""``full`` and ``level3``, byte for byte (docs/COINBASE.md §6.7 to §6.13)."""

import pytest

from hedgehogd.simulator.events import Changed, Done, Matched, Opened, Received, order_id
from hedgehogd.simulator.messages import match
from hedgehogd.simulator.order_messages import full, level3
from hedgehogd.simulator.products import LISTED

BTC = LISTED[0]
NOW = 1_788_335_050_104_422_000
TAIL = '"product_id":"BTC-USD","time":"2026-09-02T07:44:10.104422Z","sequence":9}'
TIME = "2026-09-02T07:44:10.104422Z"
ID, OTHER = order_id(1, 9), order_id(1, 3)


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            Received(9, "sell", 2135848, 7_000_000),
            (
                f'{{"order_id":"{ID}","order_type":"limit","size":"0.07","price":"21358.48",'
                f'"type":"received","side":"sell",{TAIL}'
            ),
        ),
        (
            Received(9, "buy", None, 7_000_000),
            (
                f'{{"order_id":"{ID}","order_type":"market","size":"0.07",'
                f'"type":"received","side":"buy",{TAIL}'
            ),
        ),
        (
            Received(9, "buy", None, None, 150_000_000_000),
            (
                f'{{"order_id":"{ID}","order_type":"market","funds":"15",'
                f'"type":"received","side":"buy",{TAIL}'
            ),
        ),
        (
            Opened(9, 3, "sell", 3157235, 23_000_000, ()),
            (
                f'{{"price":"31572.35","order_id":"{OTHER}","remaining_size":"0.23",'
                f'"type":"open","side":"sell",{TAIL}'
            ),
        ),
        (
            Done(9, 3, "sell", 3157235, 0, "filled", True),
            (
                f'{{"order_id":"{OTHER}","reason":"filled","price":"31572.35",'
                f'"remaining_size":"0","type":"done","side":"sell",{TAIL}'
            ),
        ),
        (
            Done(9, 3, "sell", None, 5, "canceled", False),
            f'{{"order_id":"{OTHER}","reason":"canceled","type":"done","side":"sell",{TAIL}',
        ),
        (
            Changed(9, 3, "buy", "STP", 40023, 40023, 200_000_000, 100_000_000, ()),
            (
                f'{{"price":"400.23","old_size":"2","new_size":"1","order_id":"{OTHER}",'
                f'"reason":"STP","type":"change","side":"buy",{TAIL}'
            ),
        ),
        (
            Changed(9, 3, "buy", "modify_order", 40023, 40024, 200_000_000, 200_000_000, ()),
            (
                f'{{"old_size":"2","new_size":"2","old_price":"400.23","new_price":"400.24",'
                f'"order_id":"{OTHER}","reason":"modify_order","type":"change","side":"buy",{TAIL}'
            ),
        ),
    ],
)
def test_full_is_written_in_the_order_of_the_wire(event, text):
    """Own fields first, then type, side, product, time and sequence."""
    assert full(BTC, 1, event, NOW).decode() == text


def test_a_match_is_the_same_on_full_and_on_matches():
    """One trade has one text on both channels."""
    trade = Matched(5, 9, 3, 8, "buy", 100, 200, NOW)

    assert full(BTC, 1, trade, NOW) == match(BTC, 1, trade)


@pytest.mark.parametrize(
    ("event", "cells"),
    [
        (Received(9, "sell", 2135848, 7), ["noop", "BTC-USD", "9", TIME]),
        (Done(9, 3, "sell", None, 7, "filled", False), ["noop", "BTC-USD", "9", TIME]),
        (
            Opened(9, 3, "sell", 3157235, 23_000_000, ()),
            ["open", "BTC-USD", "9", OTHER, "sell", "31572.35", "0.23", TIME],
        ),
        (Done(9, 3, "sell", 5, 7, "filled", True), ["done", "BTC-USD", "9", OTHER, TIME]),
        (
            Matched(5, 9, 3, 9, "buy", 100, 200_000_000, NOW),
            ["match", "BTC-USD", "9", OTHER, ID, "1", "2", TIME],
        ),
        (
            Changed(9, 3, "buy", "modify_order", 40023, 40024, 200_000_000, 100_000_000, ()),
            ["change", "BTC-USD", "9", OTHER, "400.24", "1", TIME],
        ),
    ],
)
def test_level3_is_arrays_of_texts_and_skips_no_number(event, cells):
    """Events that do not change the book are a ``noop`` (docs/COINBASE.md §6.13)."""
    text = '["' + '","'.join(cells) + '"]'

    assert level3(BTC, 1, event, NOW).decode() == text
