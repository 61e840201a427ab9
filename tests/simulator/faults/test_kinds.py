"""The kinds of faults, and their valid parameters."""

import pytest

from hedgehogd.simulator.faults import KINDS, FaultError, fault_list, read_param
from hedgehogd.simulator.faults.kinds import find_kind

NAMES = """sequence_gap trade_gap trade_gap_everywhere duplicate late year_one malformed_amount
ack_after_data error_and_partial_ack lost_subscription silence quiet_product reset eof close http
big_snapshot slow_drip garbage bad_frame binary unknown_type crossed_book bare_removal rest_error
rest_stale rest_slow"""


def test_the_list_of_kinds_is_complete():
    """Scripts and the fault campaign use these names."""
    assert set(KINDS) == set(NAMES.split())


@pytest.mark.parametrize("name", KINDS)
def test_each_default_is_valid(name):
    """``--fault NAME`` must be valid without a parameter."""
    kind = find_kind(name)
    read_param(name, None)

    assert kind.says
    assert kind.period_s > 0


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("sequence_gap", "3", 3),
        ("silence", "0.5", 0.5),
        ("close", "1012", 1012),
        ("http", "429", (429, 1)),
        ("rest_error", "500x7", (500, 7)),
        ("big_snapshot", "6000000", 6_000_000),
        ("garbage", "truncated", "truncated"),
        ("lost_subscription", "ticker_batch", "ticker_1000"),
        ("lost_subscription", "", None),
        ("binary", "", None),
    ],
)
def test_a_parameter_is_read_as_its_kind_defines(name, text, value):
    """From a command line, from a URL or from a test."""
    assert read_param(name, text) == value


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("sequence_gap", "0", "fault sequence_gap: found '0', expected a whole number from 1 to"),
        ("silence", "nan", "expected a number above 0"),
        ("silence", "long", "expected a number above 0"),
        ("close", "1005", "expected a WebSocket close code, such as 1001 or 1012"),
        ("http", "200", "expected an HTTP status from 400 to 599, or 503x3 for three times"),
        ("http", "503xx", "expected a whole number"),
        ("big_snapshot", "99999999", "expected bytes, from 1 to 15000000"),
        ("garbage", "some", "expected extra or truncated"),
        ("lost_subscription", "tickr", "expected a channel, such as ticker"),
        ("binary", "1", "expected no parameter"),
        ("sequence_gpa", None, "no fault 'sequence_gpa'\n  Did you mean 'sequence_gap'?"),
        ("", None, "no fault ''\n  See `hedgehogd simulate --fault help`."),
    ],
)
def test_an_invalid_fault_is_refused_with_the_valid_form(name, text, message):
    """A fault that silently has another effect proves nothing."""
    with pytest.raises(FaultError) as caught:
        read_param(name, text)

    assert message in str(caught.value)


def test_the_printed_list_has_a_line_for_each():
    """With its parameter, in the form of the command line."""
    lines = fault_list().splitlines()

    assert len(lines) == len(KINDS)
    assert any(line.split()[:1] == ["http:503"] for line in lines)
    assert all(len(line) < 110 for line in lines)
