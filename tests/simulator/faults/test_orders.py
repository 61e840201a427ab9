"""Requests for faults."""

from hedgehogd.simulator.faults.kinds import KINDS
from hedgehogd.simulator.faults.lines import Outgoing
from hedgehogd.simulator.faults.orders import FaultError, FaultOrder


class Line:
    number = 3


def test_an_order_counts_its_fault_once_at_the_first_effect():
    """For any number of affected messages; a count of armed faults would prove nothing."""
    fired = []
    order = FaultOrder("sequence_gap", 2, "BTC-USD", 3, None, lambda: fired.append(1))
    fault = KINDS["sequence_gap"].make(order)
    line = Line()
    counts = [
        len(fault.apply(line, Outgoing("full", product_id, b'{"sequence":%d}' % number, b"")))
        for number, product_id in enumerate(["ETH-USD", *["BTC-USD"] * 3])
    ]

    assert counts == [1, 0, 0, 1]
    assert fired == [1]
    assert fault.is_over


def test_an_invalid_fault_is_a_value_error():
    """Callers in tests need not import our errors."""
    assert issubclass(FaultError, ValueError)
