"""Client of the exchange's REST service: as few requests as possible, at a bounded rate.

Thousands of callers may ask for data; the client sends at most ``REST_REQUESTS_PER_S`` requests a
second, because the exchange counts them per address and blocks an address that sends more. So:

* Equal questions of several callers share one request, and its answer is cached for a moment.
* A request belongs to the client, not to its first caller: a caller that is cancelled does not
  cancel it for the other callers. A queued request without callers is not sent.
* A request that cannot be sent soon is refused at once. Every queue is bounded.
* ``429`` pauses all requests; consecutive pauses grow.
* Backfill and level-3 books use ``get_later``: callers of ``get`` go first, but not for ever.

No fault of the exchange raises an exception here: every outcome is an ``Answer``.
"""

from collections import Counter, deque
from collections.abc import Hashable
from random import Random

import httpx
import trio

from hedgehogd.domain import limits
from hedgehogd.domain.secret import NO_SECRETS, Secrets
from hedgehogd.feeds.rest_cache import Answer, Keeping, KeptAnswers, failure
from hedgehogd.feeds.rest_request import HEADERS, Query, ask
from hedgehogd.protocol.backoff import Backoff, TokenBucket

_NO_ANSWER = frozenset({"unreachable", "timeout"})
_FAILURE_KEEP_S = 1.0  # callers must not cause repeated requests to a failing service


class _Fetch:
    """One request, from its first caller to its answer."""

    def __init__(self, key: Hashable, path: str, query: Query, keeping: Keeping | None) -> None:
        self.key = key
        self.path = path
        self.query = query
        self.keeping = keeping  # None: not cached, and of low priority
        self.callers = 0
        self.tries = 0
        self.done = trio.Event()
        self.answer = failure(503, "this hedgehogd is shutting down")


class RestClient:
    """Access of one instance to the exchange's REST service.

    Args:
        url: ``https://host[:port]`` without a path.
        random: source of the jitter of pauses.
        authorization: the ``Authorization`` header; empty for none.
        secrets: removed from the error messages of the service.
        transport: replaces the network in tests.
        exists: True if the service is known to exist.

    Attributes:
        url: the argument.
        exists: True once the service has answered with any status but 404, errors included, or
            from the start if it is known to exist.
        requests: requests sent since start, repeated ones included.
        errors: failed requests, by the label of ``rest_request.ask``; 400 and 404 are no failures.
        cache_hits: calls answered from the cache.
        coalesced: calls that waited for a request that was queued or sent already.
        refused: calls refused at once: too many wait, a long pause is in force, or ``run`` does
            not run.
    """

    def __init__(
        self,
        url: str,
        random: Random,
        *,
        authorization: str = "",
        secrets: Secrets = NO_SECRETS,
        transport: httpx.AsyncBaseTransport | None = None,
        exists: bool = False,
    ) -> None:
        self.url = url
        self.exists = exists
        self.requests = 0
        self.errors: Counter[str] = Counter()
        self.cache_hits = 0
        self.coalesced = 0
        self.refused = 0
        self._headers = HEADERS | ({"Authorization": authorization} if authorization else {})
        self._secrets = secrets
        self._transport = transport
        self._kept = KeptAnswers()
        self._fetches: dict[Hashable, _Fetch] = {}
        self._urgent: deque[_Fetch] = deque()
        self._later: deque[_Fetch] = deque()
        self._urgent_in_a_row = 0
        self._wake = trio.Event()
        self._slots = trio.Semaphore(limits.REST_IN_FLIGHT_MAX)
        self._bucket = TokenBucket(limits.REST_REQUESTS_PER_S, limits.REST_REQUESTS_BURST)
        self._pauses = Backoff(2 * limits.REST_PAUSE_MIN_S, limits.REST_PAUSE_MAX_S, random)
        self._paused_until = 0.0
        self._is_running = False

    def share(self, among: int) -> None:
        """Limit the request rate to one of ``among`` equal shares of ``REST_REQUESTS_PER_S``."""
        self._bucket.share(among)

    async def get(self, path: str, query: Query = (), *, keeping: Keeping) -> Answer:
        """Return an answer that several callers may share; the caller limits the time.

        Args:
            path: absolute path, without characters that need quoting.
            query: keys and values, in any order.
            keeping: returns how long an answer of status 200 may be cached, in seconds; any other
                answer is cached for a second. When callers share a request, that of the first
                caller applies.
        """
        query = tuple(sorted(query))
        key = (path, query)
        now = trio.current_time()
        kept = self._kept.find(key, now)
        if kept is not None:
            self.cache_hits += 1
            await trio.lowlevel.checkpoint()
            return kept
        fetch = self._fetches.get(key)
        if fetch is not None:
            self.coalesced += 1
            return await self._wait(fetch)
        return await self._enter(_Fetch(key, path, query, keeping), self._urgent)

    async def get_later(self, path: str, query: Query = ()) -> Answer:
        """Return an answer to a request of its own; wait until callers of ``get`` leave room."""
        return await self._enter(_Fetch(object(), path, query, None), self._later)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Send requests until cancelled; calls that still wait then get a 503."""
        async with httpx.AsyncClient(
            base_url=self.url,
            headers=self._headers,
            timeout=limits.REST_TIMEOUT_S,
            limits=httpx.Limits(max_connections=limits.REST_IN_FLIGHT_MAX),
            transport=self._transport,
            trust_env=True,
        ) as client:
            try:
                async with trio.open_nursery() as nursery:
                    self._is_running = True
                    task_status.started()
                    await self._dispatch(client, nursery)
            finally:
                self._is_running = False
                self._urgent.clear()
                self._later.clear()
                for fetch in self._fetches.values():
                    fetch.done.set()
                self._fetches.clear()

    async def _enter(self, fetch: _Fetch, queue: deque[_Fetch]) -> Answer:
        """Put ``fetch`` into ``queue`` and wait for its answer, or return a refusal at once."""
        refusal = self._refusal(queue)
        if refusal is not None:
            self.refused += 1
            await trio.lowlevel.checkpoint()
            return refusal
        self._fetches[fetch.key] = fetch
        queue.append(fetch)
        self._wake.set()
        return await self._wait(fetch)

    def _refusal(self, queue: deque[_Fetch]) -> Answer | None:
        if not self._is_running:
            return failure(503, "the exchange's REST service cannot be used now")
        pause_s = self._paused_until - trio.current_time()
        if pause_s > limits.REST_ASKER_S:
            return failure(503, "the exchange's rate limit is reached", pause_s)
        if len(queue) >= limits.REST_WAITING_MAX:
            wait_s = max(pause_s, 0.0) + len(queue) / limits.REST_REQUESTS_PER_S
            return failure(503, "too many requests are waiting for the exchange", wait_s)
        return None

    async def _wait(self, fetch: _Fetch) -> Answer:
        fetch.callers += 1
        try:
            await fetch.done.wait()
        finally:
            fetch.callers -= 1
            if not fetch.callers:
                self._abandon(fetch)
        return fetch.answer

    def _abandon(self, fetch: _Fetch) -> None:
        """Remove a request without callers from its queue, if it has not been sent."""
        queue = self._later if fetch.keeping is None else self._urgent
        if fetch in queue:
            queue.remove(fetch)
            del self._fetches[fetch.key]

    async def _dispatch(self, client: httpx.AsyncClient, nursery: trio.Nursery) -> None:
        """Start requests in order of priority, for ever."""
        while True:
            while not self._urgent and not self._later:
                self._wake = trio.Event()
                await self._wake.wait()
            await self._slots.acquire()
            await trio.sleep(self._bucket.take(trio.current_time()))
            while self._paused_until > trio.current_time():  # noqa: ASYNC110  # a 429 moves it
                await trio.sleep_until(self._paused_until)
            fetch = self._next()
            if fetch is None:  # the callers of all queued requests were cancelled
                self._slots.release()
            else:
                nursery.start_soon(self._send, client, fetch)

    def _next(self) -> _Fetch | None:
        if self._later and (
            not self._urgent or self._urgent_in_a_row >= limits.REST_ASKERS_IN_A_ROW_MAX
        ):
            self._urgent_in_a_row = 0
            return self._later.popleft()
        if self._urgent:
            self._urgent_in_a_row = self._urgent_in_a_row + 1 if self._later else 0
            return self._urgent.popleft()
        return None

    async def _send(self, client: httpx.AsyncClient, fetch: _Fetch) -> None:
        """Send one request, cache the answer to a ``get``, and wake the callers that wait for it.

        After ``429`` the request goes back to the head of its queue, unless the pause is too long,
        it has no callers, or its tries are used up.
        """
        try:
            self.requests += 1
            answer, error = await ask(client, fetch.path, fetch.query)
            if answer.status != 200:
                message = self._secrets.hide(answer.message)
                answer = failure(answer.status, message, answer.retry_after_s)
        finally:
            self._slots.release()
        if error:
            self.errors[error] += 1
        if error not in _NO_ANSWER and answer.status != 404:
            self.exists = True
        if answer.status == 429:
            fetch.tries += 1
            answer = self._pause(answer)
            retriable = self._paused_until - trio.current_time() <= limits.REST_ASKER_S
            if retriable and fetch.callers and fetch.tries < limits.REST_LIMITED_TRIES_MAX:
                (self._later if fetch.keeping is None else self._urgent).appendleft(fetch)
                self._wake.set()
                return
        elif answer.status < 500:
            self._pauses.reset()
        if fetch.keeping is not None:
            keep_s = fetch.keeping(answer) if answer.status == 200 else _FAILURE_KEEP_S
            self._kept.keep(fetch.key, answer, trio.current_time() + keep_s)
        del self._fetches[fetch.key]
        fetch.answer = answer
        fetch.done.set()

    def _pause(self, limited: Answer) -> Answer:
        """Pause all requests; return the 503 for callers that cannot wait so long."""
        now = trio.current_time()
        if now >= self._paused_until:  # a 429 during a pause does not lengthen the next one
            pause_s = max(self._pauses.next_s(), limited.retry_after_s)
        else:
            pause_s = limited.retry_after_s
        self._paused_until = max(self._paused_until, now + pause_s)
        return failure(503, "the exchange's rate limit is reached", self._paused_until - now)
