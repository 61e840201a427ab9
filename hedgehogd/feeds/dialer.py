"""The dialer: how connections reach the exchange, and how often they may."""

from collections.abc import Awaitable, Callable, Mapping
from random import Random

import trio

from hedgehogd.domain import limits
from hedgehogd.domain.feed_address import FeedAddress
from hedgehogd.feeds.dial import dial
from hedgehogd.protocol.backoff import TokenBucket
from hedgehogd.protocol.signing import Credentials


class Dialer:
    """One address of the exchange, its limits, and the credentials for it.

    All connections of a feed share one dialer, so its limits hold for all of them together.

    Args:
        address: address of the exchange.
        random: source of jitter.
        wall_us: see the attribute.
        credentials: for channels that need a key; None without a key.
        stale_after_s: see the attribute.
        message_bytes_max: see the attribute.
        open_stream: connects to an address; tests pass their own function.

    Attributes:
        address: address of the exchange.
        random: source of jitter.
        wall_us: returns the wall-clock time, µs since the epoch, for receive times and signatures.
        secrets: secrets of the address and of the key; no text that is shown may contain them.
        stale_after_s: silence after which a connection is dead, in seconds.
        message_bytes_max: longest upstream message, in bytes.
        open_stream: connects to ``address``.
        requests: rate limit of subscribe and unsubscribe requests.
        not_before: no dial before this time, because the exchange reported its rate limit; on
            the clock of ``trio.current_time``.
    """

    def __init__(
        self,
        address: FeedAddress,
        random: Random,
        wall_us: Callable[[], int],
        *,
        credentials: Credentials | None = None,
        stale_after_s: float = limits.STALE_AFTER_S,
        message_bytes_max: int = limits.UPSTREAM_MESSAGE_BYTES_MAX,
        open_stream: Callable[[FeedAddress], Awaitable[trio.abc.Stream]] = dial,
    ) -> None:
        self.address = address
        self.random = random
        self.wall_us = wall_us
        self.secrets = address.secrets
        if credentials is not None:
            self.secrets |= credentials.secrets
        self.stale_after_s = stale_after_s
        self.message_bytes_max = message_bytes_max
        self.open_stream = open_stream
        self.requests = TokenBucket(limits.UPSTREAM_REQUESTS_PER_S, limits.UPSTREAM_REQUESTS_BURST)
        self.not_before = -float("inf")
        self._dials = TokenBucket(limits.DIALS_PER_S, limits.DIALS_BURST)
        self._credentials = credentials
        self._logged_failure, self._logged_at = "", 0.0

    @property
    def sign(self) -> Callable[[], Mapping[str, str]] | None:
        """The function that returns the fields of a signature; None without credentials."""
        credentials = self._credentials
        return None if credentials is None else lambda: credentials.sign(self.wall_us() / 1e6)

    def share(self, among: int) -> None:
        """Limit the dials to one of ``among`` equal shares of those that the exchange allows."""
        self._dials.share(among)

    async def wait_for_a_dial(self) -> None:
        """Wait until the exchange's limits allow another dial, and count it as made."""
        while True:
            await trio.sleep_until(self.not_before)
            await trio.sleep(self._dials.take(trio.current_time()))
            if self.not_before <= trio.current_time():  # no connection was refused meanwhile
                return

    def is_news(self, failure: str) -> bool:
        """Say whether to log a failed dial: its reason is new, or was logged long ago.

        Long ago means ``DIAL_LOGGED_S``. True records ``failure`` as logged now.
        """
        now = trio.current_time()
        is_known = failure == self._logged_failure
        if is_known and now < self._logged_at + limits.DIAL_LOGGED_S:
            return False
        self._logged_failure, self._logged_at = failure, now
        return True

    def forget_failure(self) -> None:
        """Forget the last failure after a successful dial: the next failure is another fault."""
        self._logged_failure = ""
