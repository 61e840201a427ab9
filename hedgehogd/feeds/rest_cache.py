"""Answers of the exchange's REST service, and their cache."""

from collections.abc import Callable, Hashable
from typing import NamedTuple

import msgspec

from hedgehogd.domain.limits import REST_KEPT_ANSWERS_MAX, REST_KEPT_BYTES_MAX
from hedgehogd.domain.lru import Lru


class Answer(NamedTuple):
    """The answer of the exchange to a client, or an error of hedgehogd in its place.

    Attributes:
        status: the HTTP status. 200, 400 and 404 are the exchange's. 502: it cannot be reached,
            its answer cannot be read, or it has another error status. 503: its rate limit is
            reached, or the request was refused here. 504: it did not answer in time. 429 never
            leaves ``rest_client``.
        body: JSON; an object with a ``message`` for every status but 200.
        before: the header ``cb-before``, the newest trade id of a page; or empty.
        after: the header ``cb-after``, the oldest one; or empty.
        retry_after_s: for 503, the time until another try, in seconds; 0 if that is not known.
    """

    status: int
    body: bytes
    before: str = ""
    after: str = ""
    retry_after_s: float = 0.0

    @property
    def message(self) -> str:
        """The ``message`` of an error body; empty for any other body."""
        return error_message(self.body)


Keeping = Callable[[Answer], float]
"""Time for which an answer of status 200 may be cached, in seconds."""


class _Error(msgspec.Struct):
    message: str


def error_message(body: bytes) -> str:
    """Return the ``message`` of an error body in the exchange's form; empty for other forms."""
    try:
        return msgspec.json.decode(body, type=_Error).message
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def failure(status: int, message: str, retry_after_s: float = 0.0) -> Answer:
    """Return an error of hedgehogd in the form of the exchange's errors."""
    body = msgspec.json.encode({"message": message})
    return Answer(status, body, retry_after_s=retry_after_s)


class KeptAnswers:
    """Cache of answers by request, each with an expiry; evicts the least recently used.

    Args:
        answers_max: greatest number of answers.
        bytes_max: greatest size of all bodies together; a larger body is not cached.
    """

    def __init__(
        self, answers_max: int = REST_KEPT_ANSWERS_MAX, bytes_max: int = REST_KEPT_BYTES_MAX
    ) -> None:
        self._bytes_max = bytes_max
        self._kept: Lru[Hashable, tuple[float, Answer]] = Lru(answers_max, bytes_max)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def bytes(self) -> int:
        """Size of all cached bodies together."""
        return self._kept.weight

    def find(self, request: Hashable, now: float) -> Answer | None:
        """Return the cached answer; None if there is none or it has expired at ``now`` (seconds).

        An expired answer is removed.
        """
        found = self._kept.get(request)
        if found is None:
            return None
        until, answer = found
        if now >= until:
            self._kept.pop(request)
            return None
        return answer

    def keep(self, request: Hashable, answer: Answer, until: float) -> None:
        """Cache ``answer`` up to ``until``, on the clock of ``find``, in place of an earlier one.

        An answer with a body larger than ``bytes_max`` only removes the earlier one.
        """
        if len(answer.body) > self._bytes_max:
            self._kept.pop(request)
        else:
            self._kept.put(request, (until, answer), len(answer.body))
