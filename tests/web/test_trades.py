"""Recorded trades as answers; ``test_history`` requests them by HTTP."""

from hedgehogd.fanout.turns import Readings
from hedgehogd.web.trades import recorded_trades


class UnreadableHistory:
    """A history port that returns unreadable trades."""

    def keeps(self, topic):
        return True

    async def trades(self, product_id, first, last):
        return dict.fromkeys(range(first, last + 1), b'{"trade_id":1}')


async def test_an_unreadable_trade_is_not_served():
    """A recorded message need not be a valid trade."""
    asked = [("limit", "2"), ("after", "9")]
    assert await recorded_trades(UnreadableHistory(), Readings(), "BTC-USD", asked) is None


async def test_without_history_there_is_no_answer():
    """The exchange answers instead."""
    assert await recorded_trades(None, Readings(), "BTC-USD", [("after", "9")]) is None
