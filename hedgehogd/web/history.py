"""``GET /api/v1/history/<pair>``: stream the recorded messages of one channel of a pair.

The archive is read twice for an answer that is too long to be held. The first pass finds the last
message of the answer, because the response head states the cursor and the number of gaps. The
second pass sends page after page up to that cursor, and holds one page at a time. Neither has
records that were written, or trades that were backfilled, after the first one began. Messages that
retention removes between the two are not sent, and no gap of the answer counts them.
"""

from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
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
from hedgehogd.domain.instant import NEVER_US
from hedgehogd.domain.message import Message
from hedgehogd.domain.position import BadPosition, read_moment, read_number
from hedgehogd.fanout.instance import Instance
from hedgehogd.fanout.turns import CALLER, Readings
from hedgehogd.protocol.csv import (
    header,
    lines,
    payload_of,
    rows,
    timed_lines,
    timed_payload_of,
)
from hedgehogd.protocol.negotiation import choose_form
from hedgehogd.recovery.history_port import (
    Past,
    PastGap,
    PastPage,
    PastStretch,
    PastStretches,
    PastUnavailable,
)
from hedgehogd.web.parameters import query

_Write = Callable[[Sequence[Message]], bytes]
AFTER_HEADER = "Hedgehog-After"
GAPS_HEADER = "Hedgehog-Gaps"
FORMS = {"ndjson": "application/x-ndjson", "json": "application/json", "csv": "text/csv"}
"""Values of the parameter ``format``, and the media types of ``Accept``."""
PAUSES_PER_WORK = 3
"""The pauses of a query, in times of its work before each.

The thread that reads takes the interpreter from the loop. So one address has it for a quarter of
the time, and all long answers together are encoded in a quarter of the loop's time.
"""


class Cursor(NamedTuple):
    """Where an answer ends and the next one begins.

    Attributes:
        place: the place of the last message (``recovery.history_port``), or where nothing follows.
        trade_id: of backfilled trades at that place the last one; None if there are no more.
    """

    place: int
    trade_id: int | None = None

    def __str__(self) -> str:
        return f"{self.place}" if self.trade_id is None else f"{self.place}.{self.trade_id}"


class Query(NamedTuple):
    """The requested part of the history.

    Attributes:
        topic: channel and product.
        since_us: earliest receive time, in µs since the epoch; included.
        until_us: receive time of the end, in µs since the epoch; excluded.
        after: where the answer begins; None for everywhere.
        limit: largest number of messages.
        is_newest_first: True for the newest message first.
        has_times: True for the receive time in each message.
    """

    topic: Topic
    since_us: int
    until_us: int
    after: Cursor | None
    limit: int
    is_newest_first: bool
    has_times: bool

    def is_beyond(self, cursor: Cursor, place: int, number: int) -> bool:
        """Say whether a message or gap is after ``cursor`` in the order of the answer.

        ``number`` is the trade id of a backfilled trade, or the first number of a gap.
        """
        if place == cursor.place and cursor.trade_id is not None:
            return number < cursor.trade_id if self.is_newest_first else number > cursor.trade_id
        return place < cursor.place if self.is_newest_first else place > cursor.place

    def has(self, place: int, number: int, received_us: int) -> bool:
        """Say whether a message or gap is in this part of the history."""
        is_then = self.since_us <= received_us < self.until_us
        return is_then and (self.after is None or self.is_beyond(self.after, place, number))


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
        answer = Answer(InTurn(past, instance.readings, CALLER.get()), requested)
        try:
            await answer.measure()
        except PastUnavailable as error:
            raise SubscriberError("history_unavailable", str(error), 503) from None
        response = Response(_BODIES[form](answer), content_type=form)
        response.timeout = None  # a slow client is no error
        response.headers["Cache-Control"] = "no-store"
        response.headers[GAPS_HEADER] = str(len(answer.gaps))
        response.headers[AFTER_HEADER] = str(answer.end)
        return response


class InTurn:
    """The history port for one query; it waits for its turn to read and to encode.

    Only queries of the same address wait for each other to read; all queries do to encode. A turn
    includes a pause of ``PAUSES_PER_WORK`` times its work, except after a short read or the
    last small message of a page.
    """

    def __init__(self, past: Past, readings: Readings, share: str) -> None:
        self._past = past
        self._readings = readings
        self._share = share

    async def page(
        self,
        topics: Iterable[Topic],
        after: int,
        known_to: int | None = None,
        limit: int | None = None,
    ) -> PastPage:
        """Read a page (``recovery.history_port.Past``), then pause after long work on it.

        The turn includes the pause, so reads of ``HISTORY_PAUSE_MIN_S`` of the processor or more
        use at most a quarter of its time for each address; shorter ones, and waits for the disk,
        are not counted.

        Raises:
            PastUnavailable: the archive cannot be read now.
        """
        return await self._read(lambda: self._past.page(topics, after, known_to, limit))

    async def page_before(
        self,
        topics: Iterable[Topic],
        before: int,
        known_to: int | None = None,
        limit: int | None = None,
    ) -> PastPage:
        """Read a page backwards; otherwise as ``page``."""
        return await self._read(lambda: self._past.page_before(topics, before, known_to, limit))

    async def stretches(self, since_us: int, until_us: int) -> PastStretches:
        """Find times; there is no pause afterwards. Otherwise as ``page``."""
        async with self._readings.turn(self._share):
            return await self._past.stretches(since_us, until_us)

    async def _read(self, read: Callable[[], Awaitable[PastPage]]) -> PastPage:
        async with self._readings.turn(self._share):
            began = trio.current_time()
            page = await read()
            # A page that the cache had took no time; one that was read late took longer than this.
            worked_s = min(page.read_s, trio.current_time() - began)
            page.read_s = 0.0  # further readers of the page that waited for it have not read it
            if worked_s >= limits.HISTORY_PAUSE_MIN_S:
                await trio.sleep(PAUSES_PER_WORK * worked_s)
        return page

    async def written(self, messages: Sequence[Message], write: _Write) -> list[bytes]:
        """Encode ``messages`` by ``write``, a part in each writing turn; return all parts.

        A turn ends with a pause, so that all long answers together use at most a quarter of the
        loop's time. A thread encodes large messages, such as a book's snapshot.
        """
        parts: list[bytes] = []
        groups = deque(_groups(messages))
        while groups:
            if _is_large(groups[0]):
                parts.append(await self._write_in_thread(write, groups.popleft()))
            else:
                parts += await self._write_in_loop(write, groups)
        return parts

    async def _write_in_loop(self, write: _Write, groups: deque[Sequence[Message]]) -> list[bytes]:
        """Encode the next ``groups`` in one writing turn; return their parts, and remove them."""
        parts: list[bytes] = []
        async with self._readings.writing_turn(self._share):
            began = trio.current_time()
            worked_s = 0.0
            while groups and worked_s < limits.HISTORY_WRITING_TURN_S and not _is_large(groups[0]):
                parts.append(write(groups.popleft()))
                worked_s = trio.current_time() - began
            # The loop has a turn after the last part, too, before another query works.
            await trio.sleep(PAUSES_PER_WORK * worked_s if groups else 0)
        return parts

    async def _write_in_thread(self, write: _Write, group: Sequence[Message]) -> bytes:
        """Encode one large message; only other large messages wait meanwhile.

        The pause afterwards is for this address alone.
        """
        async with self._readings.threads.turn(self._share):
            async with self._readings.encoding:
                began = trio.current_time()
                part = await trio.to_thread.run_sync(write, group)
                worked_s = trio.current_time() - began
            await trio.sleep(PAUSES_PER_WORK * worked_s)
        return part


def _is_large(group: Sequence[Message]) -> bool:
    return sum(len(each.payload) for each in group) >= limits.HISTORY_LARGE_BYTES


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


class Answer:
    """The answer to one query, read twice unless it is short.

    Attributes:
        past: where it is read.
        query: the query.
        gaps: the gaps among its messages, in its order, as ``measure`` found them.
        end: where the answer ends and the next one begins.
    """

    def __init__(self, past: InTurn, requested: Query) -> None:
        self.past = past
        self.query = requested
        self.gaps: list[PastGap] = []
        first = limits.SEQUENCE_MAX if requested.is_newest_first else 0  # in its order
        self.end = requested.after or Cursor(first)
        self._stretches: list[PastStretch] = []
        self._known_to = 0  # a trade that is backfilled later is not counted
        # The first place of another time in the order of the answer: a stretch begins and ends with
        # a block of the archive.
        self._excluded: int | None = None
        self._held: list[Message] | None = []  # all messages of the answer; None for too many bytes
        self._held_bytes = 0

    async def measure(self) -> None:
        """Read the answer once, to find its gaps and its end.

        Raises:
            PastUnavailable: the archive cannot be read now.
        """
        asked = self.query
        self._stretches, self._known_to = await self.past.stretches(asked.since_us, asked.until_us)
        self.gaps = await self._removed()
        last: Message | None = None
        count, is_full = 0, False
        async with aclosing(self._pages()) as pages:
            async for messages, gaps in pages:
                part = messages[: asked.limit - count]
                count += len(part)
                self._hold(part)
                self.gaps += gaps
                last = part[-1] if part else last
                is_full = len(part) < len(messages)
                if is_full and last is not None:
                    is_divided = messages[len(part)].id == last.id
                    self.end = Cursor(last.id, last.trade_id if is_divided else None)
                    break
        if is_full:
            self.gaps = [
                gap for gap in self.gaps if not asked.is_beyond(self.end, gap.place, gap.first or 0)
            ]
        elif self._stretches or self.gaps:
            end = Cursor(self._last_place(last) if self._stretches else self.gaps[-1].place)
            if asked.after is None or not asked.is_beyond(end, asked.after.place, 0):
                self.end = end
        self._stretches = self._up_to_end()

    async def _removed(self) -> list[PastGap]:
        """Return the gap of a cursor whose next records retention has removed.

        Their times are not known. An answer with the newest message first ends where retention has
        removed the rest, with or without a cursor.
        """
        after = self.query.after
        if after is None or self.query.is_newest_first:
            return []
        at = self._place_before(after)
        if self._stretches and self._stretches[0].after <= at:
            return []
        page = await self.past.page((self.query.topic,), at, self._known_to, 1)
        return [gap for gap in page.gaps if gap.kind == "removed"]

    async def messages(self) -> AsyncGenerator[list[Message]]:
        """Yield the messages of the measured answer that are still recorded, page by page.

        None of them is after ``end`` in the order of the answer, so the next answer repeats none.
        While the caller sends a page, no generator refers to it, so that a slow reader holds bytes
        alone.

        A short answer is the one that was measured, in one piece.

        Raises:
            PastUnavailable: the archive cannot be read now.
        """
        if self._held is not None:
            held, self._held = [self._held], []
            yield held.pop()
            return
        async with aclosing(self._pages()) as pages:
            async for messages, _ in pages:
                found = [self._up_to(messages)]
                del messages
                yield found.pop()

    def _up_to(self, messages: list[Message]) -> list[Message]:
        """Return those of the next messages that are not after the end of the answer."""
        is_beyond, end = self.query.is_beyond, self.end
        # Messages are in the order of the answer, so its end is in the last page alone.
        if not messages or not is_beyond(end, messages[-1].id, messages[-1].trade_id or 0):
            return messages
        return [m for m in messages if not is_beyond(end, m.id, m.trade_id or 0)]

    def _hold(self, messages: list[Message]) -> None:
        """Hold the next messages of the answer, unless it has too many bytes."""
        if self._held is None:
            return
        self._held_bytes += sum(len(message.payload) for message in messages)
        if self._held_bytes > limits.HISTORY_HELD_BYTES_MAX:
            self._held = None
        else:
            self._held += messages

    def _up_to_end(self) -> list[PastStretch]:
        """Return the stretches as far as the answer goes."""
        end = self.end.place
        if self.query.is_newest_first:
            found = [PastStretch(max(after, end - 1), last) for after, last in self._stretches]
        else:
            found = [PastStretch(after, min(last, end)) for after, last in self._stretches]
        return [each for each in found if each.after < each.last]

    async def _pages(self) -> AsyncGenerator[tuple[list[Message], list[PastGap]]]:
        """Yield messages and gaps, page by page; the limit of the query is not applied."""
        asked, topics = self.query, (self.query.topic,)
        is_back = asked.is_newest_first
        read = self.past.page_before if is_back else self.past.page
        # One message more shows that the answer is full. Each further page is twice as large: most
        # of the first one may be of other times.
        size = max(asked.limit + 1, limits.HISTORY_PAGE_MESSAGES_MIN)
        for first, last in reversed(self._stretches) if is_back else self._stretches:
            at = self._begin(first, last)
            while first + 1 < at if is_back else at < last:
                size = min(size, limits.HISTORY_PAGE_MESSAGES_MAX)
                page = await read(topics, at, self._known_to, size)
                size *= 2
                found = [self._part(page, first, last)]
                at, is_last = page.end, page.is_last
                del page
                yield found.pop()
                if is_last:
                    break

    def _has_all(self, page: PastPage, first: int, last: int) -> bool:
        """Say whether all of ``page`` is in the answer; False for one with gaps.

        Most pages of a long answer are, and this costs the loop a tenth of a look at each message.
        """
        asked = self.query
        if page.gaps or not page.messages:
            return False
        begin, end = page.messages[0], page.messages[-1]
        times = [message.received_us for message in page.messages]
        return (
            first < min(begin.id, end.id)
            and max(begin.id, end.id) <= last
            and asked.since_us <= min(times)
            and max(times) < asked.until_us
            and (asked.after is None or asked.is_beyond(asked.after, begin.id, begin.trade_id or 0))
        )

    def _part(self, page: PastPage, first: int, last: int) -> tuple[list[Message], list[PastGap]]:
        """Return the messages and gaps of ``page`` that are in the answer."""
        if self._has_all(page, first, last):
            return page.messages, []
        self._note_excluded(page, first, last)
        has = self.query.has
        return (
            [
                m
                for m in page.messages
                if first < m.id <= last and has(m.id, m.trade_id or 0, m.received_us)
            ],
            [gap for gap in page.gaps if first < gap.place <= last and self._has_gap(gap)],
        )

    def _note_excluded(self, page: PastPage, first: int, last: int) -> None:
        """Note the first message or gap of ``page`` that is after the times of the query."""
        if self._excluded is not None:
            return
        asked, is_back = self.query, self.query.is_newest_first
        found = [(m.id, m.trade_id or 0, m.received_us) for m in page.messages]
        found += [(g.place, g.first or 0, g.received_us) for g in page.gaps if not g.is_undated]
        places = [
            place
            for place, number, us in found
            if (us < asked.since_us if is_back else us >= asked.until_us)
            and first < place <= last
            and (asked.after is None or asked.is_beyond(asked.after, place, number))
        ]
        if places:
            self._excluded = max(places) if is_back else min(places)

    def _last_place(self, last: Message | None) -> int:
        """Return the place at which an answer that is not full ends; ``last`` is its last message.

        Where receive times step back, a message of the answer may be after one of a later time.
        """
        at = self._excluded
        if self.query.is_newest_first:
            end = self._stretches[0].after + 1 if at is None else at + 1
            return end if last is None else min(end, last.id)
        end = self._stretches[-1].last if at is None else at - 1
        return end if last is None else max(end, last.id)

    def _begin(self, first: int, last: int) -> int:
        """Return the place from which a stretch is read."""
        after, is_back = self.query.after, self.query.is_newest_first
        if after is None:
            return last + 1 if is_back else first
        at = self._place_before(after)
        return min(last + 1, at) if is_back else max(first, at)

    def _place_before(self, after: Cursor) -> int:
        """Return the place from which messages after the cursor are read."""
        is_divided = after.trade_id is not None
        return after.place + is_divided if self.query.is_newest_first else after.place - is_divided

    def _has_gap(self, gap: PastGap) -> bool:
        """Say whether a gap is in the answer; of lost records the times are not known."""
        received_us = self.query.since_us if gap.is_undated else gap.received_us
        return self.query.has(gap.place, gap.first or 0, received_us)


def _read(pair: str, args: Mapping[str, str], now_us: int) -> Query:
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
    limit = _number("limit", args.get("limit", str(limits.HISTORY_QUERY_MESSAGES_DEFAULT_MAX)), 1)
    return Query(
        channel.topic(pair),
        start or 0,
        NEVER_US if end is None else end,
        _cursor(args.get("after", "")),
        min(limit, limits.HISTORY_QUERY_MESSAGES_MAX),
        _choice(args, "order", ("asc", "desc")) == "desc",
        _choice(args, "times", ("0", "1")) == "1",
    )


def _choice(args: Mapping[str, str], name: str, values: tuple[str, str]) -> str:
    value = args.get(name, "") or values[0]
    if value not in values:
        raise SubscriberError("bad_request", f"{name} is {' or '.join(values)}, not {value!r}")
    return value


def _cursor(text: str) -> Cursor | None:
    if not text:
        return None
    place, point, trade_id = text.partition(".")
    return Cursor(_number("after", place, 0), _number("after", trade_id, 0) if point else None)


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


async def _lines(answer: Answer) -> AsyncIterator[bytes]:
    write = timed_lines if answer.query.has_times else lines
    async with aclosing(answer.messages()) as pages:
        async for messages in pages:
            body = b"".join(await answer.past.written(messages, write))
            del messages
            yield body


async def _table(answer: Answer) -> AsyncIterator[bytes]:
    yield header(answer.query.topic.channel)
    async with aclosing(answer.messages()) as pages:
        async for messages in pages:
            body = b"".join(await answer.past.written(messages, rows))
            del messages
            yield body


async def _object(answer: Answer) -> AsyncIterator[bytes]:
    yield b'{"messages":['
    separator = b""
    write = _timed_elements if answer.query.has_times else _elements
    async with aclosing(answer.messages()) as pages:
        async for messages in pages:
            if messages:
                body = separator + b",".join(await answer.past.written(messages, write))
                del messages
                yield body
                separator = b","
    reported = [{"kind": gap.kind, "first": gap.first, "last": gap.last} for gap in answer.gaps]
    yield b'],"gaps":%b,"after":%b}\n' % (
        msgspec.json.encode(reported),
        msgspec.json.encode(str(answer.end)),
    )


def _elements(messages: Iterable[Message]) -> bytes:
    return b",".join([payload_of(message) for message in messages])


def _timed_elements(messages: Iterable[Message]) -> bytes:
    return b",".join([timed_payload_of(message) for message in messages])


_BODIES: dict[str, Callable[[Answer], AsyncIterator[bytes]]] = dict(
    zip(FORMS.values(), (_lines, _object, _table), strict=True)
)
