"""The text of a backfilled trade."""

import json

import pytest

from hedgehogd.domain.message import read_head
from hedgehogd.protocol.backfilled import encode_trade

TRADE = {"trade_id": 7, "side": "sell", "size": "0.0100", "price": "1.50", "time": "2026-01-01T"}


@pytest.mark.parametrize("more", [{}, {"type": "last_match"}, {"product_id": "X", "extra": [1]}])
def test_a_trade_has_the_form_of_a_match(more):
    """A reader of the log finds type and product where a match has them; amounts stay exact."""
    text = encode_trade("BTC-USD", TRADE | more)
    head = read_head(text)

    assert text.startswith(b'{"type":"match"')
    assert json.loads(text) == TRADE | more | {"type": "match", "product_id": "BTC-USD"}
    assert (head.type, head.product_id, head.trade_id, head.sequence) == (
        "match", "BTC-USD", 7, None,
    )  # fmt: skip
