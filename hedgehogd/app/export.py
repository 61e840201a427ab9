"""``hedgehogd export``: a stretch of history into a file, as CSV or lines of JSON."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TextIO

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.errors import OperatorError
from hedgehogd.domain.instant import to_text
from hedgehogd.domain.message import Message
from hedgehogd.history.reader import Reader
from hedgehogd.history.schema import StoreError
from hedgehogd.protocol.csv import header, lines, rows

FORMATS = ("ndjson", "csv")


class Export(NamedTuple):
    """The messages to export, and the file to write.

    Attributes:
        directory: where the store is.
        topic: of which channel and product.
        since_us: from then on, µs since the epoch; 0 for all.
        until_us: up to before then.
        format: one of ``FORMATS``.
        file: where to; ``-`` for standard output.
    """

    directory: Path
    topic: Topic
    since_us: int
    until_us: int
    format: str
    file: str


def export(what: Export, progress: TextIO) -> int:
    """Write the file; return how many messages it has.

    On a terminal ``progress`` shows how far it is. The messages are written to a new file
    beside the old one, which replaces it when it is complete.

    Raises:
        OperatorError: nothing is kept of that, or the store or the file cannot be used.
    """
    try:
        reader = Reader(what.directory)
        try:
            return _export(reader, what, progress)
        finally:
            reader.close()
    except BrokenPipeError:
        return 0  # the reader of the pipe has enough
    except StoreError as error:
        raise OperatorError(f"the history in {what.directory}: {error}") from None
    except OSError as error:
        raise OperatorError(f"{what.file}: {error.strerror or error}") from None


def _export(reader: Reader, what: Export, progress: TextIO) -> int:
    extents = reader.extents()
    extent = extents.get(what.topic)
    if extent is None:
        kept = ", ".join(sorted(map(str, extents))) or "nothing"
        raise OperatorError(f"{what.topic} is not kept in {what.directory}\n  Kept is {kept}.")
    if what.since_us > extent.last_place or what.until_us <= extent.first_place:
        span = f"{to_text(extent.first_place)} to {to_text(extent.last_place)}"
        raise OperatorError(f"of {what.topic} nothing is kept then\n  Kept is {span}.")
    if what.file == "-":
        return _write(reader, what, extent.last_place, sys.stdout.buffer.write, progress)
    part = Path(f"{what.file}.part")
    with part.open("wb") as file:
        count = _write(reader, what, extent.last_place, file.write, progress)
    part.replace(what.file)
    return count


def _write(
    reader: Reader,
    what: Export,
    newest: int,
    write: Callable[[bytes], object],
    progress: TextIO,
) -> int:
    """Write page after page; return how many messages that were."""
    if what.format == "csv":
        write(header(what.topic.channel))
    first = reader.first_place(what.topic) or 0
    begin = max(what.since_us, first)
    end = min(what.until_us - 1, newest)
    cursor, count = begin - 1, 0
    while cursor < end:
        page = reader.page([what.topic], cursor)
        messages = [message for message in page.messages if message.id <= end]
        if messages:
            write(_bytes(messages, what.format))
            count += len(messages)
        if progress.isatty():
            share = min(1.0, (page.end - begin) / max(1, end - begin))
            progress.write(f"\r{what.topic}  {share:4.0%}  {count} messages")
            progress.flush()
        if page.is_last:
            break
        cursor = page.end
    if progress.isatty():
        progress.write("\n")
    return count


def _bytes(messages: list[Message], form: str) -> bytes:
    return rows(messages) if form == "csv" else lines(messages)
