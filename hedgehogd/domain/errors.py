"""Errors, grouped by the party that must act, with exit statuses and WebSocket close codes.

HedgehogError
├── OperatorError     the operator: wrong flag, file or machine; exit 64 or 78
├── FeedError         the feed, which dials again; ``for_good`` if the exchange refused us: exit 69
└── SubscriberError   one subscriber, the only one that receives the error
"""

EXIT_USAGE = 64
EXIT_UNAVAILABLE = 69
EXIT_BUG = 70
EXIT_CONFIG = 78


class HedgehogError(Exception):
    """Base class of the errors that the operator, the feed or a subscriber must act on."""


class OperatorError(HedgehogError):
    """A request of the operator that cannot be carried out.

    Attributes:
        exit_status: the status with which the process exits, ``EXIT_USAGE`` or ``EXIT_CONFIG``.
    """

    def __init__(self, message: str, exit_status: int = EXIT_CONFIG) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class FeedError(HedgehogError):
    """A failure of the upstream connection, which must be closed.

    Attributes:
        for_good: True if another dial cannot succeed; the process then exits with 69.
    """

    def __init__(self, message: str, *, for_good: bool = False) -> None:
        super().__init__(message)
        self.for_good = for_good


class SubscriberError(HedgehogError):
    """A request of one subscriber that is refused.

    Attributes:
        code: a stable name for programs, for example ``unknown_pair``.
        status: the HTTP status of the answer.
    """

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


CLOSE_NORMAL = 1000
CLOSE_PROTOCOL_ERROR = 1002
CLOSE_UNSUPPORTED = 1003
CLOSE_INVALID_UTF8 = 1007
CLOSE_POLICY = 1008
CLOSE_TOO_BIG = 1009
CLOSE_BUG = 1011
CLOSE_RESTART = 1012
CLOSE_SLOW_CONSUMER = 4001
CLOSE_EXPIRED = 4002
"""Codes 4000–4499: the subscriber may reconnect as it is. 4500–4999: it must change something."""
