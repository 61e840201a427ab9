"""The past of the pipe: read in one thread, kept for the next reader, unavailable at worst."""

import pytest
import trio

from hedgehogd.domain import limits
from hedgehogd.domain.lru import Lru
from hedgehogd.history.reader import Reader
from hedgehogd.history.schema import FILE_NAME
from hedgehogd.history.stored import StoredPast
from hedgehogd.recovery.history_port import CALLER, PastUnavailable
from tests.history.conftest import MATCHES, NOW, TICKER, match


@pytest.fixture
async def past(tmp_path):
    past = StoredPast(tmp_path, frozenset({MATCHES}))
    yield past
    await past.close()


@pytest.fixture
def asked(monkeypatch):
    """After which places pages were read from the disk."""
    asked = []
    page = Reader.page

    def counted(reader, topics, after):
        asked.append(after)
        return page(reader, topics, after)

    monkeypatch.setattr(Reader, "page", counted)
    return asked


async def test_it_answers_what_the_reader_does(past, store):
    """The port is the reader, in a thread."""
    store.writer.write([match(1), match(2)], NOW + 9)

    assert [past.keeps(MATCHES), past.keeps(TICKER)] == [True, False]
    assert await past.find(MATCHES, 15) == (NOW + 1, 10)
    assert await past.first_place(MATCHES) == NOW + 1
    assert [m.trade_id for m in (await past.page([MATCHES], NOW + 1)).messages] == [2]


async def test_a_page_that_ends_with_blocks_is_read_once(past, store, asked, monkeypatch):
    """A thousand who come back at once want the same pages."""
    monkeypatch.setattr(limits, "BLOCK_BYTES", 1)
    store.writer.write([match(1), match(2)], NOW)
    pages = []

    async def read():
        pages.append(await past.page([TICKER, MATCHES], -1))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(read)

    assert asked == [-1]
    assert len(set(map(id, pages))) == 1
    assert [m.trade_id for m in pages[0].messages] == [1]
    await past.page([MATCHES], -1)  # not the same topics
    assert asked == [-1, -1]


async def test_a_page_that_is_still_growing_is_read_each_time(past, store, asked):
    """What has come since must not be missing for the next."""
    store.writer.write([match(1)], NOW)
    assert len((await past.page([MATCHES], -1)).messages) == 1
    store.writer.write([match(2)], NOW)
    assert len((await past.page([MATCHES], -1)).messages) == 2
    assert len(asked) == 2


async def test_pages_that_nobody_wants_make_room(past, store, asked, monkeypatch):
    """The one that was asked for longest ago goes first."""
    monkeypatch.setattr(limits, "BLOCK_BYTES", 1)
    monkeypatch.setattr(past, "_pages", Lru(2))
    store.writer.write([match(n) for n in range(1, 9)], NOW)
    for after in (1, 2, 1, 3, 1, 3, 2):
        await past.page([MATCHES], NOW + after)

    assert asked == [NOW + after for after in (1, 2, 3, 2)]
    assert len(past._pages) == 2


async def test_who_gives_up_disturbs_nobody(past, store):
    """A subscriber leaves while its page is read; the next one gets its own."""
    store.writer.write([match(1)], NOW)
    with trio.CancelScope() as scope:
        scope.cancel()
        await past.page([MATCHES], -1)

    with trio.fail_after(5):
        assert len((await past.page([MATCHES], -1)).messages) == 1


async def test_what_cannot_be_read_is_unavailable_until_it_can(past, store):
    """A store that is not there yet, and one that is broken and put right by people."""
    ask = (
        lambda: past.find(MATCHES, 1),
        lambda: past.first_place(MATCHES),
        lambda: past.page([MATCHES], 0),
    )
    for each in ask:
        with pytest.raises(PastUnavailable, match="unable to open"):
            await each()
    store.writer.write([match(1)], NOW)
    assert await past.first_place(MATCHES) == NOW + 1
    await past.close()
    store.close()
    whole = store.file.read_bytes()
    (store.directory / FILE_NAME).write_bytes(b"spoiled" * 999)
    for each in ask:
        with pytest.raises(PastUnavailable, match="not a database"):
            await each()
    (store.directory / FILE_NAME).write_bytes(whole)

    assert await past.first_place(MATCHES) == NOW + 1


async def test_a_reader_that_failed_is_opened_anew(past, store):
    """Whatever was wrong with its connection is not wrong with the next."""
    store.writer.write([match(1)], NOW)
    await past.first_place(MATCHES)
    past._reader._connection.close()
    with pytest.raises(PastUnavailable, match="closed"):
        await past.first_place(MATCHES)

    assert await past.first_place(MATCHES) == NOW + 1


async def test_places_are_times(past, store):
    """The store has no ids: a message has its place as its receive time."""
    store.writer.write([match(1), match(2)], NOW)
    page = await past.page([MATCHES], await past.find_time(NOW + 2))
    [message] = page.messages

    assert (message.id, message.received_us) == (NOW + 2, NOW + 2)
    assert await past.stretches(NOW + 1, NOW + 2) == [(NOW, NOW + 1)]


async def test_closing_is_no_end(past, store):
    """It is opened when it is read."""
    await past.close()
    store.writer.write([match(1)], NOW)
    assert await past.first_place(MATCHES) == NOW + 1
    await past.close()
    await past.close()
    assert past._reader is None


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**40])
async def test_a_value_that_no_store_holds_ends_its_query_alone(past, store, value):
    """The reader is shared: the next query finds it open, and its unpacked blocks with it."""
    store.writer.write([match(1)], NOW + 9)
    await past.page([MATCHES], -1)
    reader = past._reader
    for query in (
        past.page([MATCHES], value),
        past.find(MATCHES, value),
        past.snapshot_before(MATCHES, value),
        past.trades("BTC-USD", value, value),
    ):
        with pytest.raises(PastUnavailable, match="out of range"):
            await query

    assert past._reader is reader
    assert [m.trade_id for m in (await past.page([MATCHES], -1)).messages] == [1]


@pytest.mark.parametrize(
    "ask",
    [
        lambda past, number: past.page([MATCHES], NOW + number),
        lambda past, number: past.find(MATCHES, 10 * number),
        lambda past, number: past.first_place(MATCHES),
        lambda past, number: past.find_time(NOW + number),
        lambda past, number: past.stretches(NOW, NOW + number),
        lambda past, number: past.snapshot_before(MATCHES, NOW + number),
        lambda past, number: past.trades("BTC-USD", number, number),
    ],
)
async def test_many_reads_of_one_address_do_not_delay_one_of_another(past, store, ask):
    """Resumes and replays read for their addresses in turn; each address reads one at a time."""
    store.writer.write([match(number) for number in range(1, 50)], NOW + 99)
    done = []

    async def read(share, number):
        CALLER.set(share)
        await ask(past, number)
        done.append(share)

    await past._turn.acquire_on_behalf_of(past)  # the reader is busy until all have asked
    async with trio.open_nursery() as nursery:
        for number in range(1, 41):
            nursery.start_soon(read, "many", number)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(read, "one", 41)
        await trio.testing.wait_all_tasks_blocked()
        past._turn.release_on_behalf_of(past)

    assert done.count("many") == 40
    assert done.index("one") <= 2
