"""The past in an archive, as resumes, replays and queries read it."""

import json
import shutil
from contextlib import closing

import pytest
import trio
from structlog.testing import capture_logs

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.position import Start
from hedgehogd.engine.delivery import Delivery
from hedgehogd.log.archive.writer import Writer
from hedgehogd.log.past import ArchivePast, aligned
from hedgehogd.protocol.commands import Pace
from hedgehogd.recovery.history_port import CALLER, PastGap, PastPage, PastUnavailable
from tests.log.archive.records import DEPLOYMENT, SMALL
from tests.log.past import BTC, NOW, S, backfilled, book, match, usual, write
from tests.recovery.returning import Returner


@pytest.fixture
async def past(tmp_path):
    past = ArchivePast(tmp_path / "archive", frozenset({BTC}))
    yield past
    await past.close()


@pytest.fixture
def kept(tmp_path):
    return write(tmp_path / "archive", usual())


async def test_each_method_reads_the_archive(past, kept):
    """``test_past_reader`` has their results."""
    page = await past.page([BTC], 0)
    back = await past.page_before([BTC], 2**60)

    assert [m.trade_id for m in page.messages] == [*range(1, 9), *range(10, 21)]
    assert back.messages == page.messages[::-1]
    assert await past.find(BTC, 55) == (500, 50)
    assert await past.first_place(BTC) == 100
    assert await past.find_time(NOW + 5 * S) == 499
    assert (await past.stretches(0, 2**62)).stretches[0].after == 99
    assert await past.snapshot_before(BTC, 900) is None
    assert sorted(await past.trades("BTC-USD", 7, 8)) == [7, 8]


def test_recorded_topics_are_kept_or_all_that_are_demanded(tmp_path):
    other = BTC._replace(product_id="ETH-USD")
    past = ArchivePast(tmp_path, frozenset({BTC}))

    assert (past.keeps(BTC), past.keeps(other)) == (True, False)
    assert ArchivePast(tmp_path, None).keeps(other)


async def test_a_page_that_cannot_change_is_read_once(past, tmp_path, monkeypatch):
    """A gap of trades may be filled, and the newest page may grow."""
    monkeypatch.setattr(limits, "HISTORY_PAGE_MESSAGES_MAX", 4)
    write(tmp_path / "archive", usual())
    first = await past.page([BTC], 0)

    assert first.is_sealed
    assert await past.page([BTC], 0) is first
    with_gap = await past.page([BTC], 800)
    assert with_gap.gaps
    assert await past.page([BTC], 800) is not with_gap
    last = await past.page([BTC], 1700)
    assert last.is_last
    assert await past.page([BTC], 1700) is not last


async def test_a_reader_that_is_cancelled_disturbs_no_other(past, kept):
    """A subscriber leaves while its page is read; the next one gets its own."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await past.page([BTC], 0)

    with trio.fail_after(5):
        assert 19 == len((await past.page([BTC], 0)).messages)


@pytest.mark.parametrize("value", [-1, 2**63, -(2**63) - 1, 10**40])
async def test_a_value_that_no_archive_has_is_answered(past, kept, value):
    """It is before or after all records; the reader is shared, and stays open."""
    await past.page([BTC], 0)
    reader = past._reader
    is_before = value < 0

    assert len((await past.page([BTC], value)).messages) == (19 if is_before else 0)
    assert len((await past.page_before([BTC], value)).messages) == (0 if is_before else 19)
    assert (await past.find(BTC, value) is None) == is_before
    assert await past.snapshot_before(BTC, value) is None
    assert await past.trades("BTC-USD", value, value) == {}
    assert (await past.stretches(value, value)).stretches == []
    assert past._reader is reader


async def test_kept_pages_are_bounded_in_bytes(tmp_path, monkeypatch):
    """64 pages of snapshots would fill the memory."""
    monkeypatch.setattr(limits, "HISTORY_PAGE_MESSAGES_MAX", 4)
    monkeypatch.setattr(limits, "HISTORY_PAGES_BYTES_MAX", 2_500)
    past = ArchivePast(write(tmp_path / "archive", [match(n) for n in range(1, 40)]))
    first = await past.page([BTC], 0)
    assert await past.page([BTC], 0) is first
    for after in range(100, 1000, 100):
        await past.page([BTC], after)

    assert past._pages.weight <= 2_500
    assert await past.page([BTC], 0) is not first
    await past.close()


async def test_a_short_page_is_read_for_its_query_alone(past, kept):
    """A query of few messages neither reads a whole page nor leaves its own to other readers."""
    short = await past.page([BTC], 0, limit=3)
    assert [m.trade_id for m in short.messages] == [1, 2, 3]
    whole = await past.page([BTC], 0)
    assert len(whole.messages) == 19
    assert [m.trade_id for m in (await past.page([BTC], 0, limit=4)).messages] == [1, 2, 3, 4]
    back = await past.page_before([BTC], 2**60, limit=2)
    assert [m.trade_id for m in back.messages] == [20, 19]


async def test_a_page_without_a_gap_is_that_of_a_later_query(past, tmp_path, monkeypatch):
    """Not of one that began before its trades were known."""
    monkeypatch.setattr(limits, "HISTORY_PAGE_MESSAGES_MAX", 12)
    write(tmp_path / "archive", [*usual(), backfilled(9, 999, 2001)])
    known_to = (await past.stretches(0, 2**62)).known_to
    page = await past.page([BTC], 0, known_to)

    assert (known_to, page.known_to, page.is_sealed) == (2001, 2001, True)
    assert 9 in [m.trade_id for m in page.messages]
    for later in (known_to, known_to + 1, None):
        assert await past.page([BTC], 0, later) is page
    before = await past.page([BTC], 0, 2000)
    assert (before.known_to, [gap.first for gap in before.gaps]) == (2000, [9])
    assert await past.page([BTC], 0) is page


async def test_readers_that_began_elsewhere_soon_share_pages(past, tmp_path, monkeypatch):
    """A thousand subscribers resume from a thousand positions."""
    monkeypatch.setattr(limits, "HISTORY_PAGE_MESSAGES_MAX", 40)
    write(tmp_path / "archive", [match(n) for n in range(1, 1000)], each=100)
    ends = []
    for after in range(0, 3200, 100):
        for _ in range(6):
            after = (await past.page([BTC], after)).end
        ends.append(after)

    assert len(ends) == 32
    assert len(set(ends)) <= 4


def test_a_page_ends_at_a_round_place():
    """The rest is read with the next page; so a page between two such places is always the same."""
    messages = [match(n) for n in range(1, 51)]

    def page(end, *, is_last=False):
        gaps = [PastGap(BTC, place, "missing", 1, 2, NOW) for place in (3050, 4550)]
        return PastPage(list(messages), gaps, end, is_last, not is_last)

    cut = aligned(page(5000), 2100)
    assert (cut.end, cut.messages[-1].trade_id, len(cut.gaps)) == (4096, 40, 1)
    assert aligned(page(5000), 4096).end == 4864
    assert aligned(page(5000), 4998).end == 5000
    assert aligned(page(5000, is_last=True), 0).end == 5000
    assert aligned(page(5000), 5000).end == 5000


async def test_a_page_that_retention_overtakes_is_read_at_once(past, tmp_path, monkeypatch):
    """Places are as large as times: the removed ones may be far more than those that are kept."""
    monkeypatch.setattr(limits, "HISTORY_PAGE_MESSAGES_MAX", 10)
    records = [match(n, id_=10**15 + n) for n in range(1, 200)]
    kept = write(tmp_path / "archive", [match(0, id_=1), *records])
    with closing(Writer(kept, DEPLOYMENT, sizes=SMALL)) as writer:
        assert writer.retain(NOW + 200 * S, 160.0, 2**60)
    page = await past.page([BTC], 5)

    assert page.gaps == [PastGap(BTC, 10**15 + 29, "removed", None, None, NOW + 30 * S)]
    assert len(page.messages) > 5


async def test_the_oldest_places_of_a_streams_topics_are_read_once(past, kept, autojump_clock):
    """A stream of all products has thousands of topics; a moment later they are read again."""
    reads = []
    read = past.read

    async def counting(ask):
        reads.append(ask)
        return await read(ask)

    past.read = counting
    other = BTC._replace(product_id="ETH-USD")
    assert [await past.first_place(topic) for topic in (BTC, other, BTC)] == [100, None, 100]
    assert len(reads) == 1
    await trio.sleep(limits.HISTORY_FLUSH_S)
    assert await past.first_place(BTC) == 100
    assert len(reads) == 2


async def test_an_archive_that_cannot_be_read_is_unavailable_until_it_can(past, tmp_path):
    """It is not there yet, or its catalogue is damaged until its writer starts."""
    with pytest.raises(PastUnavailable):
        await past.page([BTC], 0)
    write(tmp_path / "archive", usual())
    assert await past.first_place(BTC) == 100
    whole = (tmp_path / "archive" / "catalogue.sqlite").read_bytes()
    (tmp_path / "archive" / "catalogue.sqlite").write_bytes(b"spoiled" * 999)
    with pytest.raises(PastUnavailable, match="catalogue"):
        await past.page([BTC], 0)
    with pytest.raises(PastUnavailable, match="catalogue"):
        await past.first_place(BTC)
    (tmp_path / "archive" / "catalogue.sqlite").write_bytes(whole)

    assert await past.first_place(BTC) == 100


async def test_an_archive_that_was_replaced_is_read_at_once(past, kept, tmp_path, monkeypatch):
    """Pages and places of the archive before are forgotten: its ids mean other records."""
    monkeypatch.setattr(limits, "HISTORY_PAGE_MESSAGES_MAX", 4)
    old = await past.page([BTC], 0)
    assert await past.find(BTC, 50) == (500, 50)
    shutil.rmtree(kept)
    with closing(Writer(kept, "zzzzzz", sizes=SMALL)) as writer:
        writer.append([match(n, id_=7 * n) for n in range(1, 9)])
    assert await past.first_place(BTC) == 7
    new = await past.page([BTC], 0)

    assert (old.messages[0].id, new.messages[0].id) == (100, 7)
    assert await past.find(BTC, 50) == (35, 50)


async def test_closing_is_no_end(past, kept):
    """It is opened again when it is read."""
    await past.close()
    assert await past.first_place(BTC) == 100
    await past.close()
    await past.close()
    assert past._reader is None


@pytest.mark.parametrize(
    "ask",
    [
        lambda past, number: past.page([BTC], number),
        lambda past, number: past.page_before([BTC], number),
        lambda past, number: past.find(BTC, 10 * number),
        lambda past, number: past.find_time(NOW + number),
        lambda past, number: past.stretches(NOW, NOW + number),
        lambda past, number: past.snapshot_before(BTC, number),
        lambda past, number: past.trades("BTC-USD", number, number),
    ],
)
async def test_many_reads_of_one_address_do_not_delay_one_of_another(past, kept, ask):
    """Resumes and replays read for their addresses in turn; each address reads one at a time."""
    done = []

    async def read(share, number):
        CALLER.set(share)
        await ask(past, number)
        done.append(share)

    await past._turn.acquire_on_behalf_of(past)  # the reader is busy until all have asked
    async with trio.open_nursery() as nursery:
        for number in range(1, 20):
            nursery.start_soon(read, "many", number)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(read, "one", 30)
        await trio.testing.wait_all_tasks_blocked()
        past._turn.release_on_behalf_of(past)

    assert done.index("one") < 4


async def test_readers_that_wait_find_the_page_that_was_read(past, tmp_path, monkeypatch):
    """Of another address: those of one address wait for each other anyway."""
    monkeypatch.setattr(limits, "HISTORY_PAGE_MESSAGES_MAX", 4)
    write(tmp_path / "archive", [*usual(), backfilled(99, 0, 5000)])
    pages = []

    async def read(share, ask):
        CALLER.set(share)
        pages.append(await ask())

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(read, f"page {number}", lambda: past.page([BTC], 0))
            nursery.start_soon(read, f"find {number}", lambda: past.find(BTC, 50))

    assert len({id(page) for page in pages if isinstance(page, PastPage)}) == 1


# Streams that read it


@pytest.fixture
async def stage(past, kept, nursery, monkeypatch):
    """A pipe of an instance with the archive; it is second 60 of the archive's clock."""

    async def run_sync(call, *arguments, **_):  # the mock clock would jump while a thread works
        await trio.lowlevel.checkpoint()
        return call(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    returner = Returner(past)
    nursery.start_soon(returner.pipe.resumes.run)
    nursery.start_soon(returner.pipe.snapshots.run)
    await trio.sleep(60)
    return returner


def numbers_of(member):
    """Return trade ids, and the first missing number of each gap notice."""
    found = []
    for message in member.messages:
        if message.type == "notice":
            notice = json.loads(message.payload)
            found.append({"gap": notice.get("first_trade_id")}.get(notice["type"], notice["type"]))
        else:
            found.append(message.trade_id)
    return found


@pytest.mark.parametrize("speed", [0.0, 10.0])
async def test_a_stream_replays_the_archive(stage, autojump_clock, speed):
    """With backfilled trades at their gap, the gap that remains, and its end."""
    start = Start(after_us=NOW + int(4.5 * S))
    pace = Pace(speed=speed, until_us=NOW + 12 * S)
    began = trio.current_time()
    member, session = stage.come({BTC: start}, pace=pace)
    with trio.fail_after(60):
        while not session.is_closed:
            await trio.sleep(0.01)

    # A notice has no time in a pace; it is delivered with the message that follows.
    assert numbers_of(member) == [5, 6, 7, 8, 9, 10, 11]
    assert [m.type for m in member.messages].count("notice") == 1
    assert member.ends == [(1000, "replay_ended")]
    expected_s = 0 if not speed else 6.5 / speed
    assert trio.current_time() - began == pytest.approx(expected_s, abs=0.1)


@pytest.mark.parametrize("start", [Start(50), Start(after_us=NOW + int(5.5 * S))])
async def test_a_stream_resumes_from_the_archive(stage, autojump_clock, start):
    """The tape has the newest trade only; the archive has those before it."""
    message = match(20)
    message.received_us = 0
    await stage.broker.publish([Delivery([message])])
    member, session = stage.come({BTC: start})
    with trio.fail_after(60):
        while session._catching_up:
            await trio.sleep(0.1)

    assert numbers_of(member) == [6, 7, 8, 9, *range(10, 21), "resumed"]


@pytest.mark.parametrize("second", [0, 4])
@pytest.mark.parametrize("channels", [("level2_batch",), ("level2", "level2_batch")])
async def test_a_replay_of_the_second_book_channel_has_its_updates(
    stage, kept, autojump_clock, channels, second
):
    """The archive has a snapshot of both channels once, as one of the first channel."""
    level2, batch = Topic("level2", "BTC-USD"), Topic("level2_batch", "BTC-USD")
    snapshot = book(21, "snapshot", topic=level2)
    snapshot.also = batch
    shutil.rmtree(kept)
    write(kept, [snapshot, *[book(n, topic=(level2, batch)[n % 2]) for n in range(22, 30)]])
    topics = [Topic(name, "BTC-USD") for name in channels]
    start = Start(after_us=NOW + (20 + second) * S + 1)
    stage.past._recorded = frozenset({level2, batch})
    member, session = stage.come(
        dict.fromkeys(topics, start), pace=Pace(speed=0, until_us=NOW + 30 * S)
    )
    with trio.fail_after(60):
        while not session.is_closed:
            await trio.sleep(0.01)

    for topic, ids in ((level2, [2200, 2400, 2600, 2800]), (batch, [2300, 2500, 2700, 2900])):
        updates = [m.id for m in member.messages if (m.type, m.topic) == ("l2update", topic)]
        assert updates == (ids if topic in topics else [])
    snapshots = sorted(m.topic for m in member.messages if m.type == "snapshot")
    assert member.messages[0].type == "snapshot"
    assert snapshots == (topics if second else topics[:1])


async def test_a_disk_that_hangs_delays_neither_a_stop_nor_many_readers(
    past, kept, autojump_clock, monkeypatch
):
    """One read waits for it; those that wait are refused with it, until it answers."""
    assert await past.first_place(BTC) == 100  # the reader is open
    in_thread, hanging, refused = trio.to_thread.run_sync, [], []

    async def hang(call, limiter, abandon_on_cancel=False):
        assert abandon_on_cancel
        await limiter.acquire_on_behalf_of(call)
        hanging.append(call)
        await trio.sleep_forever()

    async def ask():
        with pytest.raises(PastUnavailable, match="does not answer"):
            await past.find_time(2**62)
        refused.append(trio.current_time())

    monkeypatch.setattr(trio.to_thread, "run_sync", hang)
    with trio.move_on_after(1):  # a reader that leaves; the thread stays
        await past.find_time(2**62)
    began = trio.current_time()
    with capture_logs() as lines:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                CALLER.set(f"10.0.0.{number}")
                nursery.start_soon(ask)
    with trio.move_on_after(limits.FAREWELL_S) as closing:
        await past.close()
    assert [began + limits.HISTORY_READ_MAX_S] * 20 == pytest.approx(refused)
    assert ["the disk of the history hangs; queries are refused"] == [x["event"] for x in lines]
    assert (closing.cancelled_caught, len(hanging)) == (True, 1)

    monkeypatch.setattr(trio.to_thread, "run_sync", in_thread)
    past._turn.release_on_behalf_of(*hanging)
    with capture_logs() as lines:
        assert await past.find_time(2**62) > 0
        assert await past.find_time(2**62) > 0
    assert ["the disk of the history answers again"] == [line["event"] for line in lines]


async def test_pages_are_of_the_archive_that_an_abandoned_read_opened(
    past, kept, autojump_clock, monkeypatch
):
    """A read that was abandoned may find another archive in place of the one before."""
    page = await past.page([BTC], 0)
    past._close()
    past._ask(lambda reader: reader.known_to())  # by the thread of that read
    assert await past.find_time(2**62) > 0

    assert page is not await past.page([BTC], 0)
