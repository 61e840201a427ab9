"""``GET /api/v1/history/<pair>``: stream the recorded messages of one channel of a pair.

The store is read twice. The first pass finds the last message of the answer, because the response
head states the cursor and the number of gaps. The second pass sends page after page and holds one
page at a time.
"""

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from typing import NamedTuple

import msgspec
import trio
from quart import Response, request
from quart_trio import QuartTrio

from hedgehogd.domain import limits
from hedgehogd.domain.channel import BY_ALIAS, Topic
from hedgehogd.domain.errors import SubscriberError
from hedgehogd.domain.message import Message
from hedgehogd.domain.position import BadPosition, read_moment, read_number
from hedgehogd.fanout.instance import Instance
from hedgehogd.fanout.turns import CALLER, Readings
from hedgehogd.protocol.csv import header, lines, payload_of, rows
from hedgehogd.protocol.negotiation import choose_form
from hedgehogd.recovery.history_port import Past, PastGap, PastPage, PastUnavailable
from hedgehogd.web.parameters import query

AFTER_HEADER = "Hedgehog-After"
GAPS_HEADER = "Hedgehog-Gaps"
FORMS = {"ndjson": "application/x-ndjson", "json": "application/json", "csv": "text/csv"}
"""Values of the parameter ``format``, and the media types of ``Accept``."""


class Stretch(NamedTuple):
    """The requested part of the history.

    Attributes:
        topic: channel and product.
        after: receive time before the first message, in µs since the epoch; excluded.
        until: receive time of the last possible message, in µs since the epoch; included.
        limit: largest number of messages.
    """

    topic: Topic
    after: int
    until: int
    limit: int


def add_history(app: QuartTrio, instance: Instance) -> None:
    """Add the route to ``app``."""

    @app.get("/api/v1/history/<pair>")
    async def history(pair: str) -> Response:
        past = instance.pipe.resumes.past
        if past is None:
            raise SubscriberError("no_history", "this instance has no history (--history)", 404)
        requested = _read(pair.upper(), query(), instance.pipe.wall_us())
        if not past.keeps(requested.topic):
            raise SubscriberError("not_kept", f"{requested.topic} is not recorded here", 404)
        form = choose_form(request.headers.get("Accept"), query().get("format"), FORMS)
        instance.readings.check(CALLER.get())
        pages = InTurn(past, instance.readings, CALLER.get())
        try:
            end, gaps, has_more = await _measure(pages, requested)
        except PastUnavailable as error:
            raise SubscriberError("history_unavailable", str(error), 503) from None
        stretch = requested._replace(until=end)
        after = str(end) if has_more else ""
        response = Response(_BODIES[form](pages, stretch, after, gaps), content_type=form)
        response.timeout = None  # a slow client is no error
        response.headers["Cache-Control"] = "no-store"
        response.headers[GAPS_HEADER] = str(len(gaps))
        if after:
            response.headers[AFTER_HEADER] = after
        return response


class InTurn:
    """The history port for one query; it waits for its turn to read and to encode.

    Only queries of the same address wait for each other to read; all queries do to encode. A turn
    includes a pause as long as its work, except after a short read or the last encoded message.
    """

    def __init__(self, past: Past, readings: Readings, share: str) -> None:
        self._past = past
        self._readings = readings
        self._share = share

    async def page(self, topics: Iterable[Topic], after: int) -> PastPage:
        """Read a page (``recovery.history_port.Past``), then pause for as long as a long read took.

        The turn includes the pause, so the address cannot use the store for longer than half of
        the time.

        Raises:
            PastUnavailable: the store cannot be read now.
        """
        async with self._readings.turn(self._share):
            began = trio.current_time()
            page = await self._past.page(topics, after)
            took_s = trio.current_time() - began
            if took_s >= limits.HISTORY_PAUSE_MIN_S:
                await trio.sleep(took_s)
        return page

    async def written(
        self, messages: Sequence[Message], write: Callable[[Sequence[Message]], bytes]
    ) -> list[bytes]:
        """Encode ``messages`` by ``write``, a part in each writing turn; return all parts.

        A turn ends with a pause for as long as it has worked, so that all queries together use at
        most half of the loop's time. A thread encodes large messages, such as a book's snapshot.
        """
        parts: list[bytes] = []
        groups = _groups(messages)
        while True:
            async with self._readings.writing_turn(self._share):
                began = trio.current_time()
                worked_s = 0.0
                while worked_s < limits.HISTORY_WRITING_TURN_S:
                    group = next(groups, None)
                    if group is None:
                        return parts
                    if sum(len(each.payload) for each in group) < limits.HISTORY_LARGE_BYTES:
                        parts.append(write(group))
                    else:
                        parts.append(await trio.to_thread.run_sync(write, group))
                    worked_s = trio.current_time() - began
                await trio.sleep(worked_s)


def _groups(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """Yield ``messages`` in groups of bounded length; a large message is a group of its own."""
    first = 0
    for index, message in enumerate(messages):
        is_large = len(message.payload) >= limits.HISTORY_LARGE_BYTES
        if first < index and (is_large or index - first >= limits.HISTORY_WRITTEN_MESSAGES_MAX):
            yield messages[first:index]
            first = index
        if is_large:
            yield messages[index : index + 1]
            first = index + 1
    if first < len(messages):
        yield messages[first:]


def _read(pair: str, args: Mapping[str, str], now_us: int) -> Stretch:
    """Return the part of the history that the query requests; ``pair`` is not checked.

    Raises:
        SubscriberError: 400; a value is invalid.
    """
    channel = BY_ALIAS.get(args.get("channel", "matches"))
    if channel is None:
        raise SubscriberError("unknown_channel", f"{args['channel']!r} is not a channel")
    start, end = (_moment(args, name, now_us) for name in ("start", "end"))
    if start is not None and end is not None and start > end:
        raise SubscriberError("bad_request", "start is after end")
    after = (start or 0) - 1
    until = (now_us if end is None else end) - 1
    if text := args.get("after", ""):
        after = max(after, _number("after", text, 0))
    limit = _number("limit", args.get("limit", str(limits.HISTORY_QUERY_MESSAGES_DEFAULT_MAX)), 1)
    return Stretch(channel.topic(pair), after, until, min(limit, limits.HISTORY_QUERY_MESSAGES_MAX))


def _moment(args: Mapping[str, str], name: str, now_us: int) -> int | None:
    """Return a time or an age of the query as µs since the epoch; None if absent or empty.

    Raises:
        SubscriberError: 400; the text is neither, or a time before 1970.
    """
    text = args.get(name, "")
    try:
        return read_moment(text, now_us) if text else None
    except BadPosition as error:
        raise SubscriberError("bad_request", f"{name}: {error}") from None


def _number(name: str, text: str, minimum: int) -> int:
    number = read_number(text)
    if number is None or number < minimum:
        raise SubscriberError(
            "bad_request", f"{name} is a whole number from {minimum} to {limits.SEQUENCE_MAX}"
        )
    return number


async def _measure(past: InTurn, requested: Stretch) -> tuple[int, list[PastGap], bool]:
    """Read the answer once; return its end, its gaps, and whether ``limit`` has shortened it.

    The end is the receive time of the last message of a shortened answer, else the end of the
    requested stretch.

    Raises:
        PastUnavailable: the store cannot be read now.
    """
    count, end, gaps = 0, requested.after, list[PastGap]()
    async with aclosing(_pages(past, requested)) as pages:
        async for messages, page_gaps in pages:
            part = messages[: requested.limit - count]
            count += len(part)
            end = part[-1].received_us if part else end
            is_full = len(part) < len(messages)
            gaps += [gap for gap in page_gaps if not is_full or gap.place < end]
            if is_full:
                return end, gaps, True
    return max(end, requested.until), gaps, False


async def _pages(
    past: InTurn, stretch: Stretch
) -> AsyncGenerator[tuple[list[Message], list[PastGap]]]:
    """Yield the messages of a stretch, and its gaps, page by page; its ``limit`` is not applied.

    Raises:
        PastUnavailable: the store cannot be read now.
    """
    cursor = stretch.after
    while cursor < stretch.until:
        page = await past.page((stretch.topic,), cursor)
        messages = [m for m in page.messages if m.received_us <= stretch.until]
        yield messages, [gap for gap in page.gaps if gap.place <= stretch.until]
        if page.is_last or page.end > stretch.until:
            return
        cursor = page.end


async def _lines(
    past: InTurn,
    stretch: Stretch,
    after: str,  # noqa: ARG001
    gaps: list[PastGap],  # noqa: ARG001
) -> AsyncIterator[bytes]:
    async with aclosing(_pages(past, stretch)) as pages:
        async for messages, _ in pages:
            yield b"".join(await past.written(messages, lines))


async def _table(
    past: InTurn,
    stretch: Stretch,
    after: str,  # noqa: ARG001
    gaps: list[PastGap],  # noqa: ARG001
) -> AsyncIterator[bytes]:
    yield header(stretch.topic.channel)
    async with aclosing(_pages(past, stretch)) as pages:
        async for messages, _ in pages:
            yield b"".join(await past.written(messages, rows))


async def _object(
    past: InTurn, stretch: Stretch, after: str, gaps: list[PastGap]
) -> AsyncIterator[bytes]:
    yield b'{"messages":['
    separator = b""
    async with aclosing(_pages(past, stretch)) as pages:
        async for messages, _ in pages:
            if messages:
                yield separator + b",".join(await past.written(messages, _elements))
                separator = b","
    reported = [{"kind": gap.kind, "first": gap.first, "last": gap.last} for gap in gaps]
    yield b'],"gaps":%b,"after":%b}\n' % (
        msgspec.json.encode(reported),
        msgspec.json.encode(after or None),
    )


def _elements(messages: Iterable[Message]) -> bytes:
    return b",".join([payload_of(message) for message in messages])


_BODIES: dict[str, Callable[[InTurn, Stretch, str, list[PastGap]], AsyncIterator[bytes]]] = dict(
    zip(FORMS.values(), (_lines, _object, _table), strict=True)
)
