"""``GET /api/v1/history/<pair>``: recorded messages in three forms, page by page."""

import csv
import io
import json
import shutil
import threading
import weakref
from contextlib import aclosing, closing
from datetime import datetime, timedelta, timezone

import pytest
import trio

from hedgehogd.domain import limits
from hedgehogd.domain.channel import MATCHES, Topic
from hedgehogd.domain.instant import to_text
from hedgehogd.domain.message import Message
from hedgehogd.domain.record import GapKind, TradeRecord
from hedgehogd.fanout.turns import CALLER, Readings
from hedgehogd.log.archive.writer import Sizes
from hedgehogd.log.past import ArchivePast
from hedgehogd.log.past_reader import PastReader
from hedgehogd.recovery.history_port import (
    BackfilledTrade,
    PastPage,
    PastStretch,
    PastStretches,
    PastUnavailable,
)
from hedgehogd.web.app import make_app
from hedgehogd.web.history import _BODIES, PAUSES_PER_WORK, Answer, Cursor, InTurn, Query
from tests.fakes import make_message
from tests.log import past as archive

NOW = 1_790_000_000_000_000
S = 1_000_000
TOPIC = MATCHES.topic("BTC-USD")


def trade(number):
    return archive.match(number).payload if number != 8 else archive.backfilled(8, 0, 0).payload


@pytest.fixture(autouse=True)
def every_answer_is_read_twice(monkeypatch):
    """As if none was short."""
    monkeypatch.setattr(limits, "HISTORY_HELD_BYTES_MAX", -1)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """An archive of many segments: trades 1 to 20 without 9, one per second; 8 was backfilled."""
    sizes = Sizes(300, 1e9, 300, 1e9)
    return archive.write(tmp_path_factory.mktemp("archive"), archive.usual(), sizes=sizes)


@pytest.fixture
async def client(instance, tmp_path, written):
    """A client of an instance with a copy of this archive, which the test may change."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    past = instance.pipe.resumes.past = ArchivePast(tmp_path, frozenset({TOPIC}))
    yield make_app(instance).test_client()
    await past.close()


async def ask(client, query="", accept="application/x-ndjson"):
    path = f"/api/v1/history/btc-usd{query}"
    answer = await client.get(path, headers={"Accept": accept})
    return answer, await answer.get_data()


def numbers(body):
    return [json.loads(line)["trade_id"] for line in body.splitlines()]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", [*range(1, 9), *range(10, 21)]),
        (f"?start={to_text(NOW + 5 * S)}", [5, 6, 7, 8, *range(10, 21)]),
        (f"?end={to_text(NOW + 5 * S)}", [1, 2, 3, 4]),
        (f"?start={to_text(NOW + 5 * S)}&end={to_text(NOW + 6 * S)}", [5]),
        (f"?start={to_text(NOW + 8 * S)}&end={to_text(NOW + 9 * S)}", []),
        ("?start=-1ms", []),
        ("?limit=3", [1, 2, 3]),
    ],
)
async def test_start_is_included_and_end_is_excluded(client, query, expected):
    """Two adjacent queries repeat no message and omit none."""
    answer, body = await ask(client, query)

    assert answer.status_code == 200
    assert answer.content_type == "application/x-ndjson"
    assert numbers(body) == expected
    assert b"".join(trade(n) + b"\n" for n in expected) == body


async def test_json_has_the_gaps_and_the_cursor_in_it(client):
    """A client may want one JSON value without headers."""
    _, body = await ask(client, "?limit=8", "application/json")
    _, rest = await ask(client, f"?after={json.loads(body)['after']}", "application/json")
    one, two = json.loads(body), json.loads(rest)

    assert [m["trade_id"] for m in one["messages"] + two["messages"]] == [
        *range(1, 9), *range(10, 21),
    ]  # fmt: skip
    assert one["gaps"] == [{"kind": "missing", "first": 9, "last": 9}]
    assert (two["gaps"], two["after"]) == ([], "2000")


async def test_csv_has_a_header_and_a_row_for_each(client):
    """The prices are the exchange's text."""
    answer, body = await ask(client, "?limit=8", "text/csv")
    found = list(csv.DictReader(io.StringIO(body.decode(), newline="")))

    assert answer.content_type.startswith("text/csv")
    assert [row["trade_id"] for row in found] == ["1", "2", "3", "4", "5", "6", "7", "8"]
    assert {row["price"] for row in found} == {"1.10"}


@pytest.mark.parametrize(
    ("path", "accept", "status", "code"),
    [
        ("btc-usd?channel=nonsense", "*/*", 400, "unknown_channel"),
        ("btc-usd?start=yesterday", "*/*", 400, "bad_request"),
        ("btc-usd?end=7", "*/*", 400, "bad_request"),
        ("btc-usd?limit=-1", "*/*", 400, "bad_request"),
        ("btc-usd?limit=0", "*/*", 400, "bad_request"),
        ("btc-usd?limit=1000000000000000000", "*/*", 400, "bad_request"),
        ("btc-usd?after=1000000000000000000", "*/*", 400, "bad_request"),
        ("btc-usd?after=-1", "*/*", 400, "bad_request"),
        ("btc-usd?start=-999999999d", "*/*", 400, "bad_request"),
        ("btc-usd?end=-999999999d", "*/*", 400, "bad_request"),
        ("btc-usd?start=0001-01-01T00:00:00Z", "*/*", 400, "bad_request"),
        ("btc-usd?start=1000000000000000000", "*/*", 400, "bad_request"),
        ("btc-usd?start=-1m&end=-2m", "*/*", 400, "bad_request"),
        ("btc-usd?format=parquet", "*/*", 400, "bad_request"),
        ("btc-usd?format=csv&format=csv", "*/*", 400, "bad_request"),
        ("btc-usd?after=5.", "*/*", 400, "bad_request"),
        ("btc-usd?after=5.x", "*/*", 400, "bad_request"),
        ("btc-usd?order=up", "*/*", 400, "bad_request"),
        ("btc-usd?times=2", "*/*", 400, "bad_request"),
        ("btc-usd?since=-5m", "*/*", 400, "unknown_parameter"),
        ("btc-usd?after=x", "*/*", 400, "bad_request"),
        ("btc-usd?channel=ticker", "*/*", 404, "not_kept"),
        ("eth-usd", "*/*", 404, "not_kept"),
        ("btc-usd", "image/png", 406, "not_acceptable"),
    ],
)
async def test_an_invalid_query_is_refused(client, path, accept, status, code):
    """The message states the fault and the expected value."""
    answer = await client.get(f"/api/v1/history/{path}", headers={"Accept": accept})

    assert (answer.status_code, (await answer.get_json())["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("headers", "query", "expected"),
    [
        ({}, "", "application/x-ndjson"),
        ({"Accept": "application/json; charset=utf-8"}, "", "application/json"),
        ({"Accept": "text/html, application/json;q=0.9, */*;q=0.8"}, "", "application/json"),
        ({"Accept": "text/*"}, "", "text/csv"),
        ({"Accept": "text/html"}, "?format=csv", "text/csv"),
        ({}, "?format=json", "application/json"),
        ({"Accept": "text/csv"}, "?format=ndjson", "application/x-ndjson"),
    ],
)
async def test_the_form_is_negotiated(client, headers, query, expected):
    """Go, pandas, polars and urllib send no ``Accept``; a link cannot set one."""
    answer = await client.get(f"/api/v1/history/btc-usd{query}", headers=headers)

    assert (answer.status_code, answer.mimetype) == (200, expected)


@pytest.mark.parametrize("offset", ["+00:00", " 00:00", "%2B00:00", "-00:00", " 01:00", "-05:00"])
async def test_the_offset_of_a_time_may_be_unquoted(client, offset):
    """A raw plus arrives as a blank."""
    zone = timezone(timedelta(hours=int(offset[-5:-3]) * (-1 if offset[0] == "-" else 1)))
    local = datetime.fromtimestamp(NOW // S + 18, zone).replace(tzinfo=None).isoformat()
    _, body = await ask(client, f"?start={local}{offset}")

    assert numbers(body) == [18, 19, 20]


async def test_an_instance_without_history_answers_404(instance):
    """An instance without history differs from an empty history."""
    answer = await make_app(instance).test_client().get("/api/v1/history/BTC-USD")

    assert (answer.status_code, (await answer.get_json())["error"]["code"]) == (404, "no_history")


async def test_a_store_that_cannot_be_read_is_a_503(client, instance, monkeypatch):
    """A truncated answer would look complete."""

    async def broken(topics, after, known_to, limit):
        raise PastUnavailable("disk I/O error")

    monkeypatch.setattr(instance.pipe.resumes.past, "page", broken)
    answer, body = await ask(client)

    assert answer.status_code == 503
    assert b"disk I/O error" in body


async def trades(client, query):
    answer = await client.get(f"/products/BTC-USD/trades{query}")
    return answer.status_code, await answer.get_json(), answer.headers


async def test_trades_come_from_history_when_the_page_is_complete(client):
    """A backfilled trade counts as recorded, and the exchange gets no request."""
    status, body, headers = await trades(client, "?after=9&limit=4")

    assert (status, [each["trade_id"] for each in body]) == (200, [8, 7, 6, 5])
    assert body[1] == {
        "trade_id": 7, "side": "buy", "size": "2", "price": "1.10", "time": to_text(NOW + 7 * S),
    }  # fmt: skip
    assert (headers["CB-BEFORE"], headers["CB-AFTER"]) == ("8", "5")


@pytest.mark.parametrize(
    "query",
    ["", "?limit=5", "?after=10&limit=4", "?after=12&limit=5", "?after=40&limit=3", "?after=5",
        "?after=9&before=3", "?after=1"],
)  # fmt: skip
async def test_the_exchange_answers_a_page_with_a_missing_trade(client, query):
    """The exchange answers the newest page too; this instance has no exchange."""
    assert (await trades(client, query))[0] == 503


async def test_the_exchange_answers_unrecorded_or_unreadable_trades(client, instance):
    """A failing history must not break a read that works without history."""
    past = instance.pipe.resumes.past
    past._recorded = frozenset({Topic("matches", "ETH-USD")})
    assert (await trades(client, "?after=5&limit=2"))[0] == 503
    past._recorded = frozenset({TOPIC})

    async def broken(product_id, first, last):
        raise PastUnavailable("disk I/O error")

    past.trades = broken
    assert (await trades(client, "?after=5&limit=2"))[0] == 503


async def test_trades_of_one_address_wait_for_each_other_and_too_many_are_refused(
    client, instance, monkeypatch
):
    """They are read from the store in the same turns as pages of history queries."""
    monkeypatch.setattr(limits, "HISTORY_WAITING_MAX", 1)
    inside = []
    real = instance.pipe.resumes.past.trades

    async def watched(*asked):
        inside.append(instance.readings.waiting("192.0.2.2"))
        return await real(*asked)

    monkeypatch.setattr(instance.pipe.resumes.past, "trades", watched)
    CALLER.set("192.0.2.1")
    async with instance.readings.turn("192.0.2.1"):
        status, body, headers = await trades(client, "?after=9&limit=4")
        assert (status, list(body), headers["Retry-After"]) == (429, ["message"], "1")
        CALLER.set("192.0.2.2")
        assert (await trades(client, "?after=9&limit=4"))[0] == 200

    assert inside == [1]
    assert instance.readings.waiting("192.0.2.2") == 0


async def test_all_queries_together_write_for_a_quarter_of_the_time(autojump_clock, nursery):
    """A control request takes some forty turns of the loop and waits for the work in each."""
    readings, turns = Readings(), []
    began = trio.current_time()

    messages = [make_message("ticker", "BTC-USD", number) for number in range(95)]

    def write(part):
        autojump_clock.jump(limits.HISTORY_WRITING_TURN_S / 2)
        return bytes(message.sequence for message in part)

    async def query(share, results):
        results[share] = await InTurn(None, readings, share).written(messages, write)

    async def other():
        while True:
            before = trio.current_time()
            await trio.sleep(limits.HISTORY_WRITING_TURN_S / 10)
            turns.append(trio.current_time() - before)

    results = {}
    async with trio.open_nursery() as queries:
        nursery.start_soon(other)
        for share in ("a", "b"):
            queries.start_soon(query, share, results)

    assert {b"".join(parts) for parts in results.values()} == {bytes(range(95))}
    assert max(turns) <= 1.2 * limits.HISTORY_WRITING_TURN_S
    calls = 2 * len(range(0, 95, limits.HISTORY_WRITTEN_MESSAGES_MAX))
    worked_s = calls * limits.HISTORY_WRITING_TURN_S / 2
    last_s = limits.HISTORY_WRITING_TURN_S  # of each query, without a pause
    assert trio.current_time() - began == pytest.approx(
        worked_s + PAUSES_PER_WORK * (worked_s - 2 * last_s)
    )


async def test_a_large_message_is_encoded_by_a_thread_and_keeps_its_place():
    """Encoding a book snapshot as CSV takes half a second; the loop runs meanwhile."""
    small, large = make_message("ticker", "BTC-USD"), make_message("level2", filling="x" * 40_000)
    loop, threads = threading.get_ident(), []

    def write(part):
        threads.append((len(part), threading.get_ident() == loop))
        return b"".join(message.payload for message in part)

    messages = [small, small, large, large, small]
    parts = await InTurn(None, Readings(), "a").written(messages, write)

    assert b"".join(parts) == b"".join(message.payload for message in messages)
    assert threads == [(2, True), (1, False), (1, False), (1, True)]


async def test_a_short_answer_does_not_wait_for_large_messages_of_others(autojump_clock, nursery):
    """A thread encodes a book in half a second, and its address pauses three times as long."""
    readings, ends = Readings(), []
    large = [make_message("level2", filling="x" * 40_000) for _ in range(3)]
    small = [make_message("ticker", "BTC-USD", number) for number in range(95)]

    async def in_thread(write, part):
        await trio.sleep(0.5)
        return write(part)

    async def others(share):
        await InTurn(None, readings, share).written(large, lambda part: part[0].payload)
        ends.append(trio.current_time())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trio.to_thread, "run_sync", in_thread)
        began = trio.current_time()
        async with trio.open_nursery() as queries:
            for share in ("a", "b"):
                queries.start_soon(others, share)
            await trio.sleep(0.1)
            await InTurn(None, readings, "c").written(small, lambda part: b"".join([b"x"]))
            took_s = trio.current_time() - began - 0.1
    assert took_s == pytest.approx(0)
    # One at a time; the other address is served in the pause of the first one.
    assert [at - began for at in ends] == pytest.approx([6.0, 6.5])


async def test_an_address_pauses_after_its_page_was_read(autojump_clock):
    """The reading thread competes with the loop for the processor; a fast page needs no pause.

    Neither does one that waited for other pages to be read, or that the cache had.
    """

    class Past:
        async def page(self, topics, after, known_to, limit):
            await trio.sleep(after / 1000)
            return PastPage([], [], 0, True, False, read_s=limit / 1000)

    past, times = InTurn(Past(), Readings(), "a"), []
    for took_ms, work_ms in ((30, 30), (1, 1), (30, 1), (0, 30)):
        began = trio.current_time()
        await past.page((), took_ms, limit=work_ms)
        times.append(trio.current_time() - began)

    whole_s = 0.030 * (1 + PAUSES_PER_WORK)
    assert times == pytest.approx([whole_s, 0.001, 0.030, 0])


async def test_queries_of_one_address_wait_for_each_other_and_too_many_are_refused(
    client, instance, monkeypatch
):
    """Another address is answered meanwhile; the refusal has ``Retry-After``."""
    monkeypatch.setattr(limits, "HISTORY_WAITING_MAX", 1)
    CALLER.set("192.0.2.1")
    async with instance.readings.turn("192.0.2.1"):
        answer, _ = await ask(client)
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
        assert instance.counts.refusals == {"too_many_queries": 1}
        CALLER.set("192.0.2.2")
        answer, _ = await ask(client, "?limit=3")
        assert answer.status_code == 200
    CALLER.set("192.0.2.1")
    answer, _ = await ask(client)

    assert answer.status_code == 200
    assert instance.readings.waiting("192.0.2.1") == 0


def retain(directory):
    """Remove the segments of the first seconds; return the number of the oldest trade kept."""
    with closing(archive.Writer(directory, archive.DEPLOYMENT, sizes=archive.SMALL)) as writer:
        while writer.retain(NOW + 20 * S, 14.0, 2**60):
            pass
    with closing(PastReader(directory)) as reader:
        return reader.extents()[TOPIC].first_place // 100


@pytest.mark.parametrize("limit", [7, 16, 50])
@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_retention_between_the_passes_repeats_no_message(
    client, instance, tmp_path, monkeypatch, order, limit
):
    """The head has stated where the next answer begins; no message of that one is in this one."""
    measure, kept_from = Answer.measure, []

    async def then_retain(answer):
        await measure(answer)
        kept_from.append(retain(tmp_path))
        instance.pipe.resumes.past._pages.clear()  # as other queries do

    monkeypatch.setattr(Answer, "measure", then_retain)
    answer, body = await ask(client, f"?order={order}&limit={limit}")
    monkeypatch.undo()
    after = answer.headers["Hedgehog-After"]
    _, other = await ask(client, f"?order={order}&after={after}")
    every = [*range(1, 9), *range(10, 21)][:: 1 if order == "asc" else -1]
    expected = [[n for n in part if n >= kept_from[0]] for part in (every[:limit], every[limit:])]

    assert 1 < kept_from[0] < 7
    assert [numbers(body), numbers(other)] == expected


@pytest.mark.parametrize("query", ["", f"&end={to_text(NOW + 2 * S)}", "&limit=3"])
async def test_a_cursor_that_retention_has_overtaken_is_a_gap(client, tmp_path, query):
    """The messages between it and the oldest kept one were never sent; one answer says so."""
    answer, _ = await ask(client, "?limit=1")
    after = answer.headers["Hedgehog-After"]
    kept_from = retain(tmp_path)
    found = []
    for _ in range(2):
        answer, body = await ask(client, f"?after={after}{query}", "application/json")
        got = json.loads(body)
        found.append(got)
        assert int(answer.headers["Hedgehog-Gaps"]) == len(got["gaps"])
        after = got["after"]

    assert kept_from > 2
    assert found[0]["gaps"][0] == {"kind": "removed", "first": None, "last": None}
    assert "removed" not in {gap["kind"] for gap in found[1]["gaps"]}
    if "end" not in query:
        assert found[0]["messages"][0]["trade_id"] == kept_from
    backwards, body = await ask(client, "?order=desc&after=100", "application/json")
    assert (backwards.headers["Hedgehog-Gaps"], json.loads(body)["messages"]) == ("0", [])


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", [*range(1, 9), *range(10, 21)]),
        (f"?start={to_text(NOW + 5 * S)}&end={to_text(NOW + 6 * S)}", [5]),
        (f"?start={to_text(NOW + 8 * S)}&end={to_text(NOW + 10 * S)}", [8]),
        (f"?start={to_text(NOW + 8 * S)}&end={to_text(NOW + 9 * S)}", []),
        (f"?start={to_text(NOW + 16 * S)}&order=desc", [20, 19, 18, 17, 16]),
        (f"?end={to_text(NOW + 5 * S)}&order=desc&limit=2", [4, 3]),
        ("?after=700&limit=1", [8]),
    ],
)
async def test_backfilled_trades_are_at_the_place_of_their_gap(client, query, expected):
    """In time, too: a query of the minute with the gap has them, one of the next hour has not."""
    answer, body = await ask(client, query)

    assert (answer.status_code, numbers(body)) == (200, expected)


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 19, 50])
async def test_each_number_is_returned_once_or_counted_as_missing(client, order, limit):
    """For any size of a page, also where it divides the trades of one gap."""
    found, after, gaps = [], "", []
    for _ in range(30):
        query = f"?order={order}&limit={limit}&after={after}"
        answer, body = await ask(client, query, "application/json")
        got = json.loads(body)
        found += [m["trade_id"] for m in got["messages"]]
        gaps += got["gaps"]
        assert len(got["messages"]) <= limit
        assert int(answer.headers["Hedgehog-Gaps"]) == len(got["gaps"])
        after = got["after"]
        assert after == answer.headers["Hedgehog-After"]
        if not got["messages"]:
            break

    expected = [*range(1, 9), *range(10, 21)]
    assert found == (expected if order == "asc" else expected[::-1])
    assert gaps == [{"kind": "missing", "first": 9, "last": 9}]


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 2, 3, 4])
async def test_the_trades_of_one_gap_are_divided_between_answers(instance, tmp_path, order, limit):
    """They have one place; the cursor names the trade id, too."""
    filled = [archive.backfilled(n, 150, 800 + n) for n in (3, 4, 6, 7)]
    records = [archive.match(1), archive.gap(2, 7, 150, NOW + 8 * S), archive.match(8)]
    archive.write(tmp_path, [*records[:2], *sorted([*records[2:], *filled], key=lambda r: r.id)])
    past = instance.pipe.resumes.past = ArchivePast(tmp_path, frozenset({TOPIC}))
    client, found, after, gaps = make_app(instance).test_client(), [], "", []
    for _ in range(9):
        query = f"?order={order}&limit={limit}&after={after}"
        _, body = await ask(client, query, "application/json")
        got = json.loads(body)
        found += [m["trade_id"] for m in got["messages"]]
        gaps += [each["first"] for each in got["gaps"]]
        after = got["after"]
    await past.close()

    step = 1 if order == "asc" else -1
    assert (found, gaps) == ([1, 3, 4, 6, 7, 8][::step], [2, 5][::step])


class Recorded:
    """A past with backfilled trades 1 to 4 at place 5 and trades 6, 7 and 8 at theirs."""

    def __init__(self):
        self.removed_to = 0
        self.reads = 0

    async def stretches(self, since_us, until_us):
        return PastStretches([PastStretch(4, 8)], 0)

    async def page(self, topics, after, known_to, limit):
        self.reads += 1
        page = self.all()
        found = [m for m in page if m.id > after][:4]
        end = found[-1].id if found else 8
        return PastPage([m for m in page if after < m.id <= end], [], end, end >= 8, False)

    async def page_before(self, topics, before, known_to, limit):
        self.reads += 1
        page = self.all()[::-1]
        found = [m for m in page if m.id < before][:2]
        end = found[-1].id if found else 0
        return PastPage([m for m in page if end <= m.id < before], [], end, not found, False)

    def all(self):
        places = {n: max(n, 5) for n in (1, 2, 3, 4, 6, 7, 8)}
        return [
            BackfilledTrade(TOPIC, "match", b"", b"", None, n, id=place, received_us=place)
            for n, place in places.items()
            if n > self.removed_to
        ]


@pytest.mark.parametrize(
    ("order", "limit", "kept", "rest"),
    [("asc", 3, [2, 3], [4, 6, 7, 8]), ("desc", 5, [8, 7, 6, 4, 3], [2]), ("asc", 4, [2, 3, 4],
      [6, 7, 8])],
)  # fmt: skip
async def test_retention_repeats_no_trade_of_a_divided_gap(order, limit, kept, rest):
    """The cursor names the last trade; one later than that is in the next answer."""
    past = Recorded()
    query = Query(TOPIC, 0, 2**60, None, limit, order == "desc", False)
    answer = Answer(InTurn(past, Readings(), "a"), query)
    await answer.measure()
    past.removed_to = 1
    found = [m.trade_id async for part in answer.messages() for m in part]
    after = Answer(answer.past, query._replace(after=answer.end, limit=50))
    await after.measure()

    assert found == kept
    assert [m.trade_id async for part in after.messages() for m in part] == rest


class Weak(Message, weakref=True, gc=True):
    """A message that a test may refer to weakly."""


@pytest.mark.parametrize("body", _BODIES.values(), ids=_BODIES)
@pytest.mark.parametrize("held_max", [-1, 0])
@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_a_slow_reader_holds_no_message(body, held_max, order, monkeypatch):
    """While its bytes wait to be sent: 256 slow readers would hold 500 MB of pages."""
    monkeypatch.setattr(limits, "HISTORY_HELD_BYTES_MAX", held_max)
    monkeypatch.setattr(limits, "HISTORY_PAGE_MESSAGES_MAX", 50)  # whole pages, then a part of one
    past, read = Exact(), []

    def page(numbers):
        past.sizes.append(len(numbers))
        messages = [Weak(TOPIC, "match", b"", b"{}", id=n, received_us=n) for n in numbers]
        read.extend(map(weakref.ref, messages))
        return PastPage(messages, [], numbers[-1], False, False)

    monkeypatch.setattr(past, "_page", page)
    query = Query(TOPIC, 0, 2000, None, 170, order == "desc", False)
    answer = Answer(InTurn(past, Readings(), "a"), query)
    await answer.measure()
    waited = 0
    async with aclosing(body(answer)) as parts:
        async for part in parts:
            waited += part.count(b"{}")
            assert [ref() for ref in read if ref() is not None] == []
    assert waited == (0 if body is _BODIES["text/csv"] else 170)
    assert len(past.sizes) > 2


@pytest.mark.parametrize(("held_max", "reads"), [(-1, 2), (0, 1)])
async def test_a_short_answer_is_read_once(held_max, reads, monkeypatch):
    """Its messages are held until they are sent; they have no bytes here."""
    monkeypatch.setattr(limits, "HISTORY_HELD_BYTES_MAX", held_max)
    past = Recorded()
    answer = Answer(InTurn(past, Readings(), "a"), Query(TOPIC, 0, 2**60, None, 3, False, False))
    await answer.measure()

    assert [m.trade_id async for part in answer.messages() for m in part] == [1, 2, 3]
    assert past.reads == reads


class Exact:
    """A past of messages 1 to 999, each received at its number; a page is as long as requested.

    Attributes:
        sizes: the lengths of the pages.
    """

    def __init__(self):
        self.sizes = []

    async def stretches(self, since_us, until_us):
        return PastStretches([PastStretch(0, 999)], 999)

    async def page(self, topics, after, known_to, limit):
        return self._page(range(after + 1, min(after + limit, 999) + 1))

    async def page_before(self, topics, before, known_to, limit):
        return self._page(range(before - 1, max(0, before - 1 - limit), -1))

    def _page(self, numbers):
        self.sizes.append(len(numbers))
        messages = [Message(TOPIC, "match", b"", b"", id=n, received_us=n) for n in numbers]
        return PastPage(messages, [], numbers[-1], numbers[-1] in {1, 999}, False)


@pytest.mark.parametrize(
    ("order", "limit", "since", "until", "sizes"),
    [
        ("asc", 3, 0, 2000, [20]),
        ("desc", 3, 0, 2000, [20]),
        ("asc", 50, 0, 2000, [51]),
        ("asc", 3, 500, 2000, [20, 40, 80, 160, 320]),
        ("desc", 3, 0, 500, [20, 40, 80, 160, 320]),
    ],
)
async def test_a_page_grows_until_it_has_the_answer(order, limit, since, until, sizes):
    """A short answer is a short read; one whose times begin inside a block is a few."""
    past = Exact()
    query = Query(TOPIC, since, until, None, limit, order == "desc", False)
    answer = Answer(InTurn(past, Readings(), "a"), query)
    await answer.measure()
    begin = max(since, 1) if order == "asc" else min(until, 1000) - 1
    step = 1 if order == "asc" else -1

    assert past.sizes == sizes
    assert [m.id async for part in answer.messages() for m in part] == [
        begin + step * n for n in range(limit)
    ]


async def test_the_second_pass_reads_no_further_than_the_answer():
    """A query of few messages is as short as its answer."""
    past = Recorded()
    answer = Answer(InTurn(past, Readings(), "a"), Query(TOPIC, 0, 2**60, None, 4, False, False))
    await answer.measure()
    past.reads = 0
    assert [m.trade_id async for part in answer.messages() for m in part] == [1, 2, 3, 4]
    assert past.reads == 1


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_a_page_of_two_stretches_gives_each_message_once(order):
    """Only blocks of other topics, of other times, may be between the stretches."""
    past = Exact()

    async def stretches(since_us, until_us):
        return PastStretches([PastStretch(0, 10), PastStretch(12, 999)], 999)

    past.stretches = stretches
    query = Query(TOPIC, 0, 2000, None, 100, order == "desc", False)
    answer = Answer(InTurn(past, Readings(), "a"), query)
    await answer.measure()
    found = [m.id async for part in answer.messages() for m in part]

    expected = [n for n in range(1, 1000) if n not in {11, 12}]
    assert found == (expected if order == "asc" else expected[::-1])[:100]


@pytest.mark.parametrize(
    ("order", "after", "expected"), [("asc", Cursor(8, 7), [8]), ("desc", Cursor(5, 3), [2, 1])]
)
async def test_an_answer_with_the_rest_of_a_divided_gap_ends_after_it(order, after, expected):
    """Also at the end of the record: a client that polls gets these trades once."""
    query = Query(TOPIC, 0, 2**60, after, 50, order == "desc", False)
    answer = Answer(InTurn(Recorded(), Readings(), "a"), query)
    await answer.measure()

    assert [m.trade_id async for part in answer.messages() for m in part] == expected
    assert answer.end == Cursor(after.place)


async def test_a_client_may_poll_with_the_cursor(client, tmp_path):
    """New messages are after it; backfilled trades of a gap that was sent are not."""
    answer, _ = await ask(client, "")
    after = answer.headers["Hedgehog-After"]
    assert after == "2000"
    later = [archive.backfilled(9, 999, 2001), archive.match(21)]
    archive.write(tmp_path, later)
    answer, body = await ask(client, f"?after={after}")

    assert (numbers(body), answer.headers["Hedgehog-After"]) == ([21], "2100")
    answer, body = await ask(client, "?start=2100-01-01T00:00:00Z&after=5")
    assert (body, answer.headers["Hedgehog-After"]) == (b"", "5")


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [2, 50])
async def test_the_cursor_of_a_query_with_an_end_leads_on(instance, tmp_path, order, limit):
    """A later query with the cursor and another end has the messages that the first one excluded.

    A block has messages of both times.
    """
    records = archive.usual()
    [trade] = [record for record in records if isinstance(record, TradeRecord)]
    trade.received_us = NOW + 15 * S
    archive.write(tmp_path, records)
    past = instance.pipe.resumes.past = ArchivePast(tmp_path, frozenset({TOPIC}))
    client = make_app(instance).test_client()
    found, after, gaps = [], "", 0
    for seconds in range(0, 30, 4):
        at = seconds if order == "asc" else 22 - seconds
        time = f"{'end' if order == 'asc' else 'start'}={to_text(NOW + at * S)}"
        body = b"-"
        while body:
            query = f"?order={order}&limit={limit}&after={after}&{time}"
            answer, body = await ask(client, query)
            found += numbers(body)
            gaps += int(answer.headers["Hedgehog-Gaps"])
            after = answer.headers["Hedgehog-After"]
    await past.close()

    expected = [*range(1, 9), *range(10, 21)]
    assert found == (expected if order == "asc" else expected[::-1])
    assert gaps == 1


async def test_the_cursor_is_after_the_last_message_where_times_step_back(instance, tmp_path):
    """Else each following query with the same end would repeat that message."""
    records = [archive.match(n, received_us=NOW + us) for n, us in ((1, 1), (2, 9), (3, 4), (4, 9))]
    archive.write(tmp_path, records, each=9)
    past = instance.pipe.resumes.past = ArchivePast(tmp_path, frozenset({TOPIC}))
    client = make_app(instance).test_client()
    found = {}
    for query in ("end", "start"):
        time = f"{query}={to_text(NOW + 5)}&order={'desc' if query == 'start' else 'asc'}"
        answer, body = await ask(client, f"?{time}")
        after = answer.headers["Hedgehog-After"]
        found[query] = numbers(body), after
        assert (await ask(client, f"?{time}&after={after}"))[1] == b""
    await past.close()

    assert found == {"end": ([1, 3], "300"), "start": ([4, 2], "200")}


async def test_a_trade_that_is_backfilled_meanwhile_changes_no_answer(
    client, instance, tmp_path, monkeypatch
):
    """The head has counted its gap."""
    past = instance.pipe.resumes.past
    measure = Answer.measure

    async def then_backfill(answer):
        await measure(answer)
        archive.write(tmp_path, [archive.backfilled(9, 999, 2001)])
        await past.close()

    monkeypatch.setattr(Answer, "measure", then_backfill)
    answer, body = await ask(client, "?limit=19")

    assert answer.headers["Hedgehog-Gaps"] == "1"
    assert numbers(body) == [*range(1, 9), *range(10, 21)]


async def test_a_gap_that_is_filled_between_two_queries_is_none(client, tmp_path, monkeypatch):
    """Also if the second query gets a page that was read for the first one."""
    monkeypatch.setattr(limits, "HISTORY_PAGE_MESSAGES_MAX", 4)
    answer, _ = await ask(client, "")
    assert answer.headers["Hedgehog-Gaps"] == "1"
    archive.write(tmp_path, [archive.backfilled(9, 999, 2001)])
    answer, body = await ask(client, "")

    assert (numbers(body), answer.headers["Hedgehog-Gaps"]) == ([*range(1, 21)], "0")


@pytest.mark.parametrize("accept", ["application/x-ndjson", "application/json"])
async def test_messages_have_their_receive_times_on_request(client, accept):
    """The other bytes are the exchange's."""
    _, body = await ask(client, "?limit=2&times=1", accept)
    _, bare = await ask(client, "?limit=2&times=0", accept)
    messages = body.splitlines() if accept.endswith("ndjson") else [body]

    for number, text in enumerate(messages, 1):
        assert b'"received":"%b"}' % to_text(NOW + number * S).encode() in text
    shorter = body
    for number in (1, 2):
        shorter = shorter.replace(b',"received":"%b"' % to_text(NOW + number * S).encode(), b"")
    assert shorter == bare
    _, table = await ask(client, "?limit=2&times=1", "text/csv")
    assert table == (await ask(client, "?limit=2", "text/csv"))[1]


async def test_records_that_are_lost_are_gaps_at_any_time(instance, tmp_path):
    """The times of damaged records are not known, so every query that may concern them says so."""
    lost = archive.gap(None, None, 300, NOW + 9 * S, kind=GapKind.UNREADABLE)
    archive.write(tmp_path, [archive.match(1), archive.match(2), lost, archive.match(4)], each=9)
    past = instance.pipe.resumes.past = ArchivePast(tmp_path, frozenset({TOPIC}))
    query = f"?start={to_text(NOW + 2 * S)}&end={to_text(NOW + 3 * S)}"
    answer, body = await ask(make_app(instance).test_client(), query)
    await past.close()

    assert (numbers(body), answer.headers["Hedgehog-Gaps"]) == ([2], "1")


async def test_after_a_clock_that_was_ahead_both_eras_are_found(instance, tmp_path):
    """A query ends at the newest record, not at the wall clock; each era keeps its times."""
    years_us = 3 * 365 * 86_400 * S
    records = [
        archive.match(n, received_us=NOW + n * S + (years_us if n < 4 else 0)) for n in range(1, 6)
    ]
    archive.write(tmp_path, records, each=1)
    past = instance.pipe.resumes.past = ArchivePast(tmp_path, frozenset({TOPIC}))
    instance.pipe = instance.pipe._replace(wall_us=lambda: NOW + 10 * S)
    client = make_app(instance).test_client()
    found = {}
    for query in ("", "?start=-2m", "?start=-2m&end=-5s", "?start=2028-01-01T00:00:00Z"):
        found[query] = numbers((await ask(client, query))[1])
        backwards = query + ("&" if query else "?") + "order=desc"
        assert numbers((await ask(client, backwards))[1]) == found[query][::-1]
    await past.close()

    assert list(found.values()) == [[1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [4], [1, 2, 3]]
