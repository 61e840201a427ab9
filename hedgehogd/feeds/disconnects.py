"""What can end an upstream connection, and in which words it is told.

The words go into the log, ``/readyz``, the ``stale`` notice and, up to the first colon, into
the metric ``hedgehogd_feed_losses``: a stable name first, then the detail.
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
    OSError,  # TLS's errors are among them
    trio.TooSlowError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.BusyResourceError,  # our goodbye met the library's ping or pong: the line is over
    ConnectionClosed,
    ProtocolError,  # a ping crossed our close: the library may no longer answer it
    h11.ProtocolError,  # an answer to the handshake that is none: it wants to refuse that
    FrameError,
    FeedError,
)
"""What others do to us; everything else that ends a connection is a bug of ours."""

_TOO_MANY_REQUESTS = 429
_TRY_AGAIN_STATUSES = frozenset({408, 425, _TOO_MANY_REQUESTS})
_CONSEQUENCES = (ConnectionClosed, trio.BusyResourceError)


def cause_of(group: BaseExceptionGroup[Exception]) -> Exception:
    """Return the error in ``group`` that the others came of.

    Whatever ends a connection also makes the library say that it is closed, and our goodbye
    may be in the way of a ping; which of them comes first is chance.
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
    """Say whether the exchange refused us in a way that dialling again will not change."""
    return (
        isinstance(error, UpgradeRefused)
        and 400 <= error.status < 500
        and error.status not in _TRY_AGAIN_STATUSES
    )


def is_rate_limit(error: Exception) -> bool:
    """Say whether the exchange refused us for dialling too often."""
    return isinstance(error, UpgradeRefused) and error.status == _TOO_MANY_REQUESTS


def describe(error: Exception) -> str:
    """Say in a few words what ended the connection: a stable name, then the detail."""
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
    detail = str(error) or str(error.__cause__ or "")  # trio keeps TLS's reason in the cause
    return f"broken: {detail}" if detail else "broken"


def _reasons(error: OSError) -> str:
    """Return why a host cannot be reached; trio names each address's reason in the cause."""
    if not isinstance(error.__cause__, BaseExceptionGroup):
        return str(error)
    causes = {str(each).replace("Error connecting to ", "") for each in error.__cause__.exceptions}
    return f"{error}: " + "; ".join(sorted(causes))  # tried in any order: one text for one failure


def _refusal_of(error: h11.ProtocolError) -> BaseException:
    """Return what was wrong with the answer to our handshake.

    The library notices, and while it handles that it tries to answer as a server would. What
    it raises is about its own answer; what it noticed is the context.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RemoteProtocolError):
            return cause
        cause = cause.__context__
    return error
