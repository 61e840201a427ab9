"""``hedgehogd export``: write a part of the recorded past into a file, as CSV or lines of JSON."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from hedgehogd.app.past_files import open_past
from hedgehogd.domain.channel import MATCHES, Topic
from hedgehogd.domain.errors import OperatorError
from hedgehogd.domain.instant import to_text
from hedgehogd.domain.message import Message
from hedgehogd.log.archive.errors import ArchiveError
from hedgehogd.log.past_reader import PastReader
from hedgehogd.protocol.csv import header, lines, rows
from hedgehogd.recovery.history_port import PastGap, PastStretch

_GAPS_SHOWN_MAX = 20


class Export(NamedTuple):
    """The messages to export, and the file to write.

    Attributes:
        directory: the directory of history.
        topic: channel and product.
        since_us: earliest receive time, µs since the epoch, included; 0 for all.
        until_us: receive time of the end, excluded; ``NEVER_US`` for all.
        format: ``ndjson`` or ``csv``.
        file: the path of the file; ``-`` for standard output.
    """

    directory: Path
    topic: Topic
    since_us: int
    until_us: int
    format: str
    file: str


class Exported(NamedTuple):
    """The content of the file.

    Attributes:
        messages: number of messages.
        gaps: the gaps that backfilled trades do not fill.
    """

    messages: int
    gaps: list[PastGap]


def export(wish: Export, progress: TextIO) -> Exported:
    """Write the file.

    On a terminal ``progress`` shows how far it is. The messages are written to a new file
    beside the old one, which replaces it when it is complete.

    Raises:
        OperatorError: no such message is recorded, or the history or the file cannot be used.
    """
    try:
        reader = open_past(wish.directory)
        try:
            return _export(reader, wish, progress)
        finally:
            reader.close()
    except BrokenPipeError:
        return Exported(0, [])  # the reader of the pipe has enough
    except ArchiveError as error:
        raise OperatorError(f"the history in {wish.directory}: {error}") from None
    except OSError as error:
        raise OperatorError(f"{wish.file}: {error.strerror or error}") from None


def _export(reader: PastReader, wish: Export, progress: TextIO) -> Exported:
    extents = reader.extents()
    extent = extents.get(wish.topic)
    if extent is None:
        kept = ", ".join(sorted(map(str, extents))) or "nothing"
        raise OperatorError(f"{wish.topic} is not kept in {wish.directory}\n  Kept is {kept}.")
    stretches = reader.stretches(wish.since_us, wish.until_us)
    if not stretches:
        span = f"{to_text(extent.first_us)} to {to_text(extent.last_us)}"
        raise OperatorError(f"of {wish.topic} nothing is kept then\n  Kept is {span}.")
    if wish.file == "-":
        return _write(reader, wish, stretches, sys.stdout.buffer.write, progress)
    part = Path(f"{wish.file}.part")
    with part.open("wb") as file:
        exported = _write(reader, wish, stretches, file.write, progress)
    part.replace(wish.file)
    return exported


def _write(
    reader: PastReader,
    wish: Export,
    stretches: list[PastStretch],
    write: Callable[[bytes], object],
    progress: TextIO,
) -> Exported:
    """Write page after page."""
    if wish.format == "csv":
        write(header(wish.topic.channel))
    count, gaps = 0, list[PastGap]()
    whole, done = sum(each.last - each.after for each in stretches), 0
    for after, last in stretches:
        at = after
        while at < last:
            page = reader.page([wish.topic], at)
            messages = [m for m in page.messages if m.id <= last and _is_then(wish, m.received_us)]
            if messages:
                write(_bytes(messages, wish.format))
                count += len(messages)
            gaps += [gap for gap in page.gaps if gap.place <= last and _has_gap(wish, gap)]
            if progress.isatty():
                share = (done + min(page.end, last) - after) / whole
                progress.write(f"\r{wish.topic}  {share:4.0%}  {count} messages")
                progress.flush()
            if page.is_last:
                break
            at = page.end
        done += last - after
    if progress.isatty():
        progress.write("\n")
    return Exported(count, gaps)


def _is_then(wish: Export, received_us: int) -> bool:
    return wish.since_us <= received_us < wish.until_us


def _has_gap(wish: Export, gap: PastGap) -> bool:
    """Say whether a gap may be of the wanted times; of lost records the times are not known."""
    return gap.is_undated or _is_then(wish, gap.received_us)


def _bytes(messages: list[Message], form: str) -> bytes:
    return rows(messages) if form == "csv" else lines(messages)


def report(gaps: Sequence[PastGap], out: TextIO) -> None:
    """Print the gaps that remain, the first ones singly."""
    if not gaps:
        return
    print(f"{len(gaps)} gaps remain:" if len(gaps) > 1 else "1 gap remains:", file=out)
    for gap in gaps[:_GAPS_SHOWN_MAX]:
        print(f"  {gap.kind}: {_numbers_of(gap)}, noted {to_text(gap.received_us)}", file=out)
    if len(gaps) > _GAPS_SHOWN_MAX:
        print(f"  and {len(gaps) - _GAPS_SHOWN_MAX} more", file=out)


def _numbers_of(gap: PastGap) -> str:
    if gap.first is None:
        return "unknown numbers"
    unit = "trade id" if gap.topic.channel == MATCHES.topic_channel else "sequence"
    return f"{unit} {gap.first}" if gap.first == gap.last else f"{unit}s {gap.first} to {gap.last}"
