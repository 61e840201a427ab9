"""Summaries: where the messages of one topic begin and end, by id, time and number.

Each block has one for each of its topics, and so has the index of a segment; a search reads them
instead of messages.
"""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

from hedgehogd.domain.channel import Topic
from hedgehogd.log.archive import columns
from hedgehogd.log.archive.errors import DamagedArchive
from hedgehogd.log.archive.group import Run

_LEVEL = 6
_NUMBERS = 4


class Summary(NamedTuple):
    """Messages of one topic in one stretch of ids.

    Attributes:
        messages: how many, at least one.
        first_id: the first one's id.
        last_id: the last one's id.
        first_us: the first one's receive time, µs since the epoch.
        last_us: the last one's receive time.
        snapshot_id: the id of the last one with type ``snapshot``; 0 without one.
        falls: True if a sequence or trade id is smaller than one before it.
        first_sequence: the first sequence; None if no message has one.
        last_sequence: the last sequence.
        first_trade_id: the first trade id; None if no message has one.
        last_trade_id: the last trade id.
    """

    messages: int
    first_id: int
    last_id: int
    first_us: int
    last_us: int
    snapshot_id: int
    falls: bool
    first_sequence: int | None = None
    last_sequence: int | None = None
    first_trade_id: int | None = None
    last_trade_id: int | None = None

    def begins_by(self, number: int, *, is_trade_id: bool) -> bool:
        """Say whether a message of these may have ``number`` or a smaller one."""
        first = self.first_trade_id if is_trade_id else self.first_sequence
        return first is not None and (self.falls or first <= number)


UNKNOWN = Summary(0, 0, 0, 0, 0, 0, falls=True)
"""The place of a summary that is damaged, in a footer."""


def of_run(run: Run) -> Summary:
    """Return the summary of ``run``, which is not empty."""
    snapshot_id = 0
    if "snapshot" in run.types:
        snapshot_id = max(
            at for at, kind in zip(run.ids, run.types, strict=True) if kind == "snapshot"
        )
    sequences = [number for number in run.sequences if number is not None]
    trade_ids = [number for number in run.trade_ids if number is not None]
    falls = sequences != sorted(sequences) or trade_ids != sorted(trade_ids)
    ends = [n for ns in (sequences, trade_ids) for n in ((ns[0], ns[-1]) if ns else (None, None))]
    return Summary(
        len(run), run.ids[0], run.ids[-1], run.received[0], run.received[-1], snapshot_id, falls,
        *ends,
    )  # fmt: skip


def of_second_topic(run: Run, topic: Topic) -> Summary:
    """Return the summary of those messages of ``run`` whose second topic is ``topic``."""
    chosen = Run(topic)
    for at, also in enumerate(run.also):
        if also == topic:
            chosen.ids.append(run.ids[at])
            chosen.received.append(run.received[at])
            chosen.types.append(run.types[at])
            chosen.sequences.append(run.sequences[at])
            chosen.trade_ids.append(run.trade_ids[at])
    return of_run(chosen)


def by_topic(topics: Sequence[Topic], summaries: Sequence[Summary]) -> dict[Topic, Summary]:
    """Return the summaries of one block by topic.

    A topic may have two: of its own messages, and of those whose second topic it is. They may be in
    any order among each other, so the summary of both says that numbers fall.
    """
    found: dict[Topic, Summary] = {}
    for topic, each in zip(topics, summaries, strict=False):
        other = found.get(topic)
        if other is not None:
            first, last = sorted((each, other), key=lambda one: one.first_id)
            found[topic] = joined(first, last)._replace(
                last_id=max(first.last_id, last.last_id),
                last_us=max((first, last), key=lambda one: one.last_id).last_us,
                snapshot_id=max(first.snapshot_id, last.snapshot_id),
                falls=True,
            )
        else:
            found[topic] = each
    return found


def joined(one: Summary | None, other: Summary) -> Summary:
    """Return the summary of both; ``other`` has the larger ids."""
    if one is None:
        return other
    falls = (
        one.falls
        or other.falls
        or _falls(one.last_sequence, other.first_sequence)
        or _falls(one.last_trade_id, other.first_trade_id)
    )
    return Summary(
        one.messages + other.messages,
        one.first_id,
        other.last_id,
        one.first_us,
        other.last_us,
        other.snapshot_id or one.snapshot_id,
        falls,
        *(
            getattr(*pair)
            for pair in (
                (one if one.first_sequence is not None else other, "first_sequence"),
                (other if other.last_sequence is not None else one, "last_sequence"),
                (one if one.first_trade_id is not None else other, "first_trade_id"),
                (other if other.last_trade_id is not None else one, "last_trade_id"),
            )
        ),
    )


def _falls(last: int | None, first: int | None) -> bool:
    return last is not None and first is not None and first < last


def pack(summaries: Sequence[Summary]) -> bytes:
    """Encode summaries."""
    parts = [
        columns.pack([each.messages for each in summaries], rising=False),
        columns.pack([each.first_id for each in summaries], rising=False),
        columns.pack([each.last_id - each.first_id for each in summaries], rising=False),
        columns.pack([each.first_us - each.first_id for each in summaries], rising=False),
        columns.pack([each.last_us - each.last_id for each in summaries], rising=False),
        columns.pack([each.snapshot_id for each in summaries], rising=False),
        columns.pack([int(each.falls) for each in summaries], rising=False),
        columns.pack_optional([each.first_sequence for each in summaries]),
        columns.pack_optional([_span(each[7], each[8]) for each in summaries]),
        columns.pack_optional([each.first_trade_id for each in summaries]),
        columns.pack_optional([_span(each[9], each[10]) for each in summaries]),
    ]
    return zlib.compress(b"".join(parts), _LEVEL)


def _span(first: int | None, last: int | None) -> int | None:
    """Return their difference as a number that is not negative."""
    if first is None or last is None:
        return None
    return 2 * (last - first) if last >= first else 2 * (first - last) - 1


def unpack(data: bytes) -> list[Summary]:
    """Decode bytes that ``pack`` returned.

    Raises:
        DamagedArchive: ``data`` differs from these bytes.
    """
    try:
        raw = zlib.decompress(data)
        at, found = 0, []
        for _ in range(7):
            column, at = columns.unpack(raw, at, rising=False)
            found.append(column)
        counts, first_ids, spans, first_lags, last_lags, snapshots, falls = found
        numbers = []
        for _ in range(_NUMBERS):
            optional, at = columns.unpack_optional(raw, at, len(counts))
            numbers.append(optional)
        summaries = []
        for each in zip(counts, first_ids, spans, first_lags, last_lags, snapshots, falls, *numbers,
                        strict=True):  # fmt: skip
            first, last = each[1], each[1] + each[2]
            summaries.append(
                Summary(
                    each[0], first, last, first + each[3], last + each[4], each[5], bool(each[6]),
                    each[7], _end(each[7], each[8]), each[9], _end(each[9], each[10]),
                )
            )  # fmt: skip
    except (zlib.error, columns.BadColumn, ValueError) as error:
        raise DamagedArchive(f"a summary is damaged: {error}") from None
    return summaries


def _end(first: int | None, span: int | None) -> int | None:
    if first is None or span is None:
        return None
    return first - (span + 1) // 2 if span % 2 else first + span // 2
