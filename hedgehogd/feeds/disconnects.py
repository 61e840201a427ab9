"""The errors that end an upstream connection, and their descriptions.

A description has a stable name first, then the detail. It is shown in the log, ``/readyz`` and
the ``stale`` notice; the metric ``hedgehogd_feed_losses`` has the part before the first colon.
"""

from collections.abc import Iterator

import h11
import trio
from trio_websocket import ConnectionClosed
from wsproto.utilities import ProtocolError, RemoteProtocolError

from hedgehogd.domain.errors import FeedError
from hedgehogd.feeds.tap import UpgradeRefused
from hedgehogd.protocol.frames import FrameError

OUTSIDE_ERRORS = (
    OSError,  # name resolution's errors are among them
    trio.TooSlowError,
    trio.BrokenResourceError,  # a failed TLS handshake is one
    trio.ClosedResourceError,
    trio.BusyResourceError,  # our close frame collided with a ping or pong of the library
    ConnectionClosed,
    ProtocolError,  # a ping crossed our close frame: the library may no longer answer it
    h11.ProtocolError,  # an invalid answer to the handshake
    FrameError,
    FeedError,
)
"""Errors caused by the exchange or the network; any other error is a bug of hedgehogd."""

_TOO_MANY_REQUESTS = 429
_TRY_AGAIN_STATUSES = frozenset({408, 425, _TOO_MANY_REQUESTS})
_CONSEQUENCES = (ConnectionClosed, trio.BusyResourceError)


def cause_of(group: BaseExceptionGroup[Exception]) -> Exception:
    """Return the first error in ``group`` that is no consequence; if all are, the first one.

    When a connection ends, the library also raises ``ConnectionClosed``, and our close frame may
    collide with a ping (``BusyResourceError``). The order of these errors is arbitrary.
    """
    errors = list(_leaves(group))
    causes = (error for error in errors if not isinstance(error, _CONSEQUENCES))
    return next(causes, errors[0])


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def is_for_good(error: Exception) -> bool:
    """Return whether the exchange refused the handshake permanently.

    That is any status from 400 to 499, except those that ask for another try.
    """
    return (
        isinstance(error, UpgradeRefused)
        and 400 <= error.status < 500
        and error.status not in _TRY_AGAIN_STATUSES
    )


def is_rate_limit(error: Exception) -> bool:
    """Return whether the exchange refused the handshake because of too many dials."""
    return isinstance(error, UpgradeRefused) and error.status == _TOO_MANY_REQUESTS


def describe(error: Exception) -> str:
    """Describe the error that ended a connection: a stable name, then the detail."""
    if isinstance(error, ConnectionClosed):
        reason = error.reason
        return f"closed: {reason.code} {reason.reason or ''}".rstrip() if reason else "closed"
    if isinstance(error, trio.TooSlowError):
        return "timeout: no connection in time"
    if isinstance(error, h11.ProtocolError):
        return f"handshake: {_refusal_of(error)}"
    if isinstance(error, FrameError | ProtocolError):
        return f"protocol: {error}"
    if isinstance(error, FeedError):
        return str(error) if ": " in str(error) else f"ended: {error}"
    if isinstance(error, OSError):
        return f"network: {_reasons(error)}"
    detail = str(error) or str(error.__cause__ or "")  # trio has the TLS reason in the cause
    return f"broken: {detail}" if detail else "broken"


def _reasons(error: OSError) -> str:
    """Return why a host cannot be reached; trio has the reason of each address in the cause."""
    if not isinstance(error.__cause__, BaseExceptionGroup):
        return str(error)
    causes = {str(each).replace("Error connecting to ", "") for each in error.__cause__.exceptions}
    return f"{error}: " + "; ".join(sorted(causes))  # in a stable order


def _refusal_of(error: h11.ProtocolError) -> BaseException:
    """Return the error that the library found in the answer to the handshake, else ``error``.

    The library handles that error by answering as a server would, which fails in turn. It raises
    the second error; the first one is in its ``__context__``.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RemoteProtocolError):
            return cause
        cause = cause.__context__
    return error
