"""What somebody asked to go wrong."""

from hedgehogd.simulator.faults.kinds import KINDS
from hedgehogd.simulator.faults.lines import Outgoing
from hedgehogd.simulator.faults.orders import FaultError, FaultOrder


class Line:
    number = 3


def test_an_order_hears_of_its_fault_once_and_only_of_what_it_did():
    """However many messages it spoils; a count of armed faults would prove nothing."""
    fired = []
    order = FaultOrder("sequence_gap", 2, "BTC-USD", 3, None, lambda: fired.append(1))
    fault = KINDS["sequence_gap"].make(order)
    line = Line()
    seen = [
        len(fault.see(line, Outgoing("full", product_id, b'{"sequence":%d}' % number, b"")))
        for number, product_id in enumerate(["ETH-USD", *["BTC-USD"] * 3])
    ]

    assert seen == [1, 0, 0, 1]
    assert fired == [1]
    assert fault.is_over


def test_a_fault_that_cannot_be_is_a_value_error():
    """Callers in tests need not know our errors."""
    assert issubclass(FaultError, ValueError)
