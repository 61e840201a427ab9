"""The errors that end a connection, and their descriptions."""

import ssl

import h11
import pytest
import trio
from trio_websocket import CloseReason, ConnectionClosed
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from hedgehogd.domain.errors import FeedError
from hedgehogd.feeds.disconnects import (
    OUTSIDE_ERRORS,
    cause_of,
    describe,
    is_for_good,
    is_rate_limit,
)
from hedgehogd.feeds.tap import UpgradeRefused
from hedgehogd.protocol.frames import FrameError


def tls_failure():
    error = trio.BrokenResourceError()
    error.__cause__ = ssl.SSLCertVerificationError("certificate verify failed")
    return error


def handshake_failure():
    error = h11.LocalProtocolError("can't handle event type Response when role=CLIENT")
    error.__context__ = h11.LocalProtocolError("again")
    error.__context__.__context__ = RemoteProtocolError("Bad accept token")
    return error


def unreachable():
    error = OSError("all attempts to connect to a.test:443 failed")
    error.__cause__ = ExceptionGroup("", [OSError(111, "refused"), OSError(111, "refused")])
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            unreachable(),
            "network: all attempts to connect to a.test:443 failed: [Errno 111] refused",
        ),
        (ConnectionClosed(CloseReason(4001, "slow")), "closed: 4001 slow"),
        (ConnectionClosed(CloseReason(1006, None)), "closed: 1006"),
        (ConnectionClosed(None), "closed"),
        (UpgradeRefused(503), "refused: HTTP 503"),
        (trio.TooSlowError(), "timeout: no connection in time"),
        (FrameError(1002, "a mask"), "protocol: a mask"),
        (LocalProtocolError("too late"), "protocol: too late"),
        (h11.LocalProtocolError("too late"), "handshake: too late"),
        (handshake_failure(), "handshake: Bad accept token"),
        (FeedError("silent: 10 s"), "silent: 10 s"),
        (FeedError("hung up"), "ended: hung up"),
        (OSError("no route"), "network: no route"),
        (trio.BrokenResourceError(), "broken"),
        (trio.ClosedResourceError("by whom"), "broken: by whom"),
        (trio.BusyResourceError("in the way"), "broken: in the way"),
        (tls_failure(), "broken: ('certificate verify failed',)"),
    ],
)
def test_every_disconnect_has_a_name_and_a_detail(error, words):
    """The name is a metric's label, so it must not vary; the detail is for people."""
    assert isinstance(error, OUTSIDE_ERRORS)
    assert describe(error) == words


@pytest.mark.parametrize("others_first", [True, False])
def test_the_cause_is_reported_not_its_consequence(others_first):
    """The order of failing tasks is arbitrary; "closed" or a collision with a ping is no cause."""
    why = ExceptionGroup("", [FrameError(1002, "why")])
    errors = [ConnectionClosed(None), trio.BusyResourceError("in the way"), why]
    group = ExceptionGroup("", errors if others_first else errors[::-1])

    assert str(cause_of(group)) == "why"


def test_a_close_alone_is_its_own_cause():
    """Without another error, ``ConnectionClosed`` is the cause."""
    closed = ConnectionClosed(CloseReason(1001, None))

    assert cause_of(ExceptionGroup("", [closed, ConnectionClosed(None)])) is closed


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        *((status, False) for status in (200, 301, 408, 425, 429, 500, 503)),
        *((status, True) for status in (400, 401, 403, 404, 451)),
    ],
)
def test_a_refusal_is_for_good_when_asking_again_would_not_help(status, expected):
    """Exit status 69 needs an operator; a 503 only needs time."""
    assert is_for_good(UpgradeRefused(status)) is expected
    assert not is_for_good(FeedError("refused: HTTP 403"))


@pytest.mark.parametrize(("status", "expected"), [(429, True), (403, False), (503, False)])
def test_too_many_requests_are_distinguished_from_other_refusals(status, expected):
    """A 429 needs a longer pause, of all connections."""
    assert is_rate_limit(UpgradeRefused(status)) is expected
    assert not is_rate_limit(FeedError("refused: HTTP 429"))
