"""Answers of the exchange's REST service, and those kept for the next who ask."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import NamedTuple

import msgspec

from hedgehogd.domain.limits import REST_KEPT_ANSWERS_MAX, REST_KEPT_BYTES_MAX


class Answer(NamedTuple):
    """What a client of the exchange would have got, or what we say in its place.

    Attributes:
        status: the HTTP status. 200, 400 and 404 are the exchange's; 502, 503 and 504 say
            that it could not be asked.
        body: JSON; an object with a ``message`` for every status but 200.
        before: the header ``cb-before``, the newest trade id of a page; or empty.
        after: the header ``cb-after``, the oldest one; or empty.
        retry_after_s: for 503, when to ask again; 0 when that is not known.
    """

    status: int
    body: bytes
    before: str = ""
    after: str = ""
    retry_after_s: float = 0.0

    @property
    def message(self) -> str:
        """What the ``message`` of an error says; empty when it is none."""
        return error_message(self.body)


Keeping = Callable[[Answer], float]
"""How long an answer of status 200 may be kept, in seconds."""


class _Said(msgspec.Struct):
    message: str


def error_message(body: bytes) -> str:
    """Return the ``message`` of an error in the exchange's form; empty when it is another."""
    try:
        return msgspec.json.decode(body, type=_Said).message
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def failure(status: int, message: str, retry_after_s: float = 0.0) -> Answer:
    """Return an error of ours in the form that the exchange's clients read."""
    body = msgspec.json.encode({"message": message})
    return Answer(status, body, retry_after_s=retry_after_s)


class KeptAnswers:
    """Answers by what was asked, each until it is too old; the least recently used go first.

    Args:
        answers_max: answers kept at most.
        bytes_max: what their bodies take at most; a larger one is not kept at all.
    """

    def __init__(
        self, answers_max: int = REST_KEPT_ANSWERS_MAX, bytes_max: int = REST_KEPT_BYTES_MAX
    ) -> None:
        self._answers_max = answers_max
        self._bytes_max = bytes_max
        self._kept: OrderedDict[Hashable, tuple[float, Answer]] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, asked: Hashable, now: float) -> Answer | None:
        """Return the answer if it is kept and not too old at ``now``, in seconds."""
        found = self._kept.get(asked)
        if found is None:
            return None
        until, answer = found
        if now >= until:
            self._drop(asked)
            return None
        self._kept.move_to_end(asked)
        return answer

    def keep(self, asked: Hashable, answer: Answer, until: float) -> None:
        """Keep ``answer`` up to ``until``, on the same clock as ``find``."""
        if asked in self._kept:
            self._drop(asked)
        if len(answer.body) > self._bytes_max:
            return
        self._kept[asked] = (until, answer)
        self.bytes += len(answer.body)
        while self.bytes > self._bytes_max or len(self._kept) > self._answers_max:
            self._drop(next(iter(self._kept)))

    def _drop(self, asked: Hashable) -> None:
        _, answer = self._kept.pop(asked)
        self.bytes -= len(answer.body)
