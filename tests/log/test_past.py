"""The past in an archive, as resumes, replays and queries read it."""

import shutil
from contextlib import closing

import pytest
import trio

from hedgehogd.domain import limits
from hedgehogd.log.archive.writer import Writer
from hedgehogd.log.past import ArchivePast, aligned
from hedgehogd.recovery.history_port import CALLER, PastGap, PastPage, PastUnavailable
from tests.log.archive.records import SMALL
from tests.log.past import BTC, NOW, S, backfilled, match, usual, write


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
    assert (await past.stretches(0, 2**62))[0].after == 99
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


async def test_readers_that_began_elsewhere_soon_share_pages(past, tmp_path, monkeypatch):
    """A thousand subscribers resume from a thousand positions."""
    monkeypatch.setattr(limits, "HISTORY_PAGE_MESSAGES_MAX", 40)
    write(tmp_path / "archive", [match(n) for n in range(1, 1000)], each=100)
    ends = []
    for start in range(0, 5000, 700):
        after, mine = start, set()
        for _ in range(6):
            after = (await past.page([BTC], after)).end
            mine.add(after)
        ends.append(mine | {after})
    all_ends = sorted(set().union(*ends))

    assert len(all_ends) < 16  # of 48
    assert all(len(mine) == 6 for mine in ends)


def test_a_page_ends_at_a_round_place():
    """The rest is read with the next page; so a page between two such places is always the same."""
    messages = [match(n) for n in range(1, 51)]

    def page(end, *, is_last=False):
        gaps = [PastGap(BTC, place, "missing", 1, 2, NOW) for place in (3050, 4550)]
        return PastPage(list(messages), gaps, end, is_last, not is_last)

    cut = aligned(page(5000), 2100)
    assert (cut.end, cut.messages[-1].trade_id, len(cut.gaps)) == (4096, 40, 1)
    assert aligned(page(5000), 4096).end == 4608
    assert aligned(page(5000, is_last=True), 0).end == 5000
    assert aligned(page(5000), 5000).end == 5000


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
        lambda past, number: past.first_place(BTC),
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
