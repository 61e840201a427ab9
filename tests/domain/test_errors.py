"""Errors carry exit statuses, HTTP statuses and close codes as standards define them."""

import os

import pytest
from wsproto.frame_protocol import CloseReason

from hedgehogd.domain import errors


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.OperatorError("no such file"), {"exit_status": os.EX_CONFIG}),
        (errors.OperatorError("no such flag", errors.EXIT_USAGE), {"exit_status": os.EX_USAGE}),
        (errors.FeedError("silent"), {"for_good": False}),
        (errors.FeedError("refused", for_good=True), {"for_good": True}),
        (errors.SubscriberError("bad_request", "no"), {"code": "bad_request", "status": 400}),
        (
            errors.SubscriberError("unknown_pair", "no", 404),
            {"code": "unknown_pair", "status": 404},
        ),
    ],
    ids=repr,
)
def test_an_error_has_its_attributes_and_a_text(error, expected):
    """A single ``except HedgehogError`` at the top must find a text for people in each error."""
    assert isinstance(error, errors.HedgehogError)
    assert expected == vars(error)
    assert (str(error),) == error.args


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (os.EX_USAGE, errors.EXIT_USAGE),
        (os.EX_UNAVAILABLE, errors.EXIT_UNAVAILABLE),
        (os.EX_SOFTWARE, errors.EXIT_BUG),
        (os.EX_CONFIG, errors.EXIT_CONFIG),
        (CloseReason.PROTOCOL_ERROR, errors.CLOSE_PROTOCOL_ERROR),
        (CloseReason.UNSUPPORTED_DATA, errors.CLOSE_UNSUPPORTED),
        (CloseReason.INVALID_FRAME_PAYLOAD_DATA, errors.CLOSE_INVALID_UTF8),
        (CloseReason.POLICY_VIOLATION, errors.CLOSE_POLICY),
        (CloseReason.MESSAGE_TOO_BIG, errors.CLOSE_TOO_BIG),
        (CloseReason.SERVICE_RESTART, errors.CLOSE_RESTART),
    ],
)
def test_numbers_are_those_of_sysexits_and_rfc_6455(expected, actual):
    """systemd units and clients decide by these numbers whether to restart or reconnect."""
    assert expected == actual


def test_the_close_code_of_slow_consumers_allows_a_reconnect():
    """Codes 4000 to 4499 mean that the client may reconnect without a change."""
    assert errors.CLOSE_SLOW_CONSUMER in range(4000, 4500)
