"""Errors, sorted by who must act (DESIGN §7).

HedgehogError
├── OperatorError     the person who started us: wrong flag, file or machine; exit 64 or 78
├── FeedError         we dial again; ``for_good`` when the exchange has refused us: exit 69
└── SubscriberError   one subscriber is told, nobody else notices
"""

EXIT_USAGE = 64
EXIT_UNAVAILABLE = 69
EXIT_BUG = 70
EXIT_CONFIG = 78


class HedgehogError(Exception):
    """Root of all errors that hedgehogd raises on purpose."""


class OperatorError(HedgehogError):
    """What the operator asked for cannot be done.

    Attributes:
        exit_status: the process's exit status, ``EXIT_USAGE`` or ``EXIT_CONFIG``.
    """

    def __init__(self, message: str, exit_status: int = EXIT_CONFIG) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class FeedError(HedgehogError):
    """The upstream connection is of no more use.

    Attributes:
        for_good: dialling again would not help; the process ends with exit 69.
    """

    def __init__(self, message: str, *, for_good: bool = False) -> None:
        super().__init__(message)
        self.for_good = for_good


class SubscriberError(HedgehogError):
    """One subscriber asked for what it cannot have.

    Attributes:
        code: a stable name for machines, for example ``unknown_pair``.
        status: the HTTP status for it.
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
"""4000–4499: come back. 4500–4999: change something first (DESIGN §7)."""
