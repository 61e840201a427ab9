"""What is kept as trades of the exchange; ``test_history`` asks for them by HTTP."""

from hedgehogd.fanout.turns import Readings
from hedgehogd.web.trades import recorded_trades


class Nonsense:
    """A past whose trades cannot be read."""

    def keeps(self, topic):
        return True

    async def trades(self, product_id, first, last):
        return dict.fromkeys(range(first, last + 1), b'{"trade_id":1}')


async def test_a_trade_that_cannot_be_read_is_not_served():
    """What was relayed once need not be a trade."""
    asked = [("limit", "2"), ("after", "9")]
    assert await recorded_trades(Nonsense(), Readings(), "BTC-USD", asked) is None


async def test_without_a_past_there_is_nothing():
    """The exchange is asked as ever."""
    assert await recorded_trades(None, Readings(), "BTC-USD", [("after", "9")]) is None
