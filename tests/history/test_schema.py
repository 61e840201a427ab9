"""The file: made whole or not at all, and never changed when it is not what we wrote."""

import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgehogd.domain import limits
from hedgehogd.history.reader import Reader
from hedgehogd.history.schema import (
    APPLICATION_ID,
    FILE_NAME,
    VERSION,
    CorruptStore,
    StoreError,
    connect_reader,
    connect_writer,
    opened,
)
from hedgehogd.history.writer import Writer
from tests.history.conftest import (
    BTC,
    FULL,
    LEVEL2,
    MATCHES,
    NAMES,
    NOW,
    TICKER,
    Store,
    bare,
    match,
    numbered,
    read_all,
)


def make(directory, *statements):
    with closing(sqlite3.connect(directory / FILE_NAME)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_store_is_made_once(tmp_path):
    """With what cannot be changed later: its pages can be given back, its readers do not wait."""
    for _ in range(2):
        connection = connect_writer(tmp_path)
        ask = lambda name: connection.execute(f"PRAGMA {name}").fetchone()[0]  # noqa: B023, E731
        assert ask("application_id") == APPLICATION_ID
        assert (ask("user_version"), ask("auto_vacuum"), ask("journal_mode")) == (VERSION, 2, "wal")
        assert ask("synchronous") == 1
        connection.close()
    assert files(tmp_path).keys() == {FILE_NAME}


NOT_OURS = {
    "text": (lambda d: (d / FILE_NAME).write_text("pairs = BTC-USD\n" * 99), "not a database"),
    "zeros": (lambda d: (d / FILE_NAME).write_bytes(bytes(8192)), "not a database"),
    "another program's, without a name": (
        lambda d: make(d, "CREATE TABLE mail (text)"),
        "database of something else",
    ),
    "another program's, with a name": (
        lambda d: make(d, "CREATE TABLE mail (text)", "PRAGMA application_id = 7"),
        "not a history",
    ),
    "of our version, not of our name": (
        lambda d: make(d, "CREATE TABLE topic (x)", f"PRAGMA user_version = {VERSION}"),
        "database of something else",
    ),
}


@pytest.mark.parametrize("case", NOT_OURS)
def test_a_file_that_is_not_ours_is_left_as_it_is(tmp_path, case):
    """Whoever named the wrong directory must not lose what is in it."""
    spoil, reason = NOT_OURS[case]
    spoil(tmp_path)
    before = files(tmp_path)
    with pytest.raises(CorruptStore, match=reason):
        Writer(tmp_path, NAMES)
    with pytest.raises(CorruptStore):
        Reader(tmp_path)

    assert before == files(tmp_path)


@pytest.mark.parametrize("version", [0, 2])
def test_another_version_is_left_as_it_is(tmp_path, version):
    """An older hedgehogd beside a newer one; nothing is broken, it is only not for us."""
    make(
        tmp_path,
        "CREATE TABLE topic (x)",
        f"PRAGMA application_id = {APPLICATION_ID}",
        f"PRAGMA user_version = {version}",
    )
    before = files(tmp_path)
    for begin in (lambda: Writer(tmp_path, NAMES), lambda: Reader(tmp_path)):
        with pytest.raises(
            StoreError, match=f"of version {version}, this hedgehogd's is"
        ) as caught:
            begin()
        assert not isinstance(caught.value, CorruptStore)

    assert before == files(tmp_path)


def test_a_store_that_is_being_made_is_not_a_broken_one(tmp_path):
    """Readers look while the first writer begins."""
    (tmp_path / FILE_NAME).touch()
    with pytest.raises(StoreError, match="being made") as caught:
        connect_reader(tmp_path)
    assert not isinstance(caught.value, CorruptStore)
    connect_writer(tmp_path).close()
    connect_reader(tmp_path).close()


@pytest.mark.parametrize("name", ["a#b", "a?mode=rw", "a%41", "a b", "é"])
def test_a_directory_may_have_any_name(tmp_path, name):
    """It is a path, whatever it would mean in an address."""
    directory = tmp_path / name
    directory.mkdir()
    connect_writer(directory).close()
    connect_reader(directory).close()

    assert {FILE_NAME} <= files(directory).keys()
    assert list(tmp_path.iterdir()) == [directory]


def test_a_directory_where_the_file_should_be_cannot_be_opened(tmp_path):
    """Nor is one that is not there."""
    (tmp_path / FILE_NAME).mkdir()
    for directory in (tmp_path, tmp_path / "none"):
        for connect in (connect_writer, connect_reader):
            with pytest.raises(StoreError, match=r"unable to open|I/O error") as caught:
                connect(directory)
            assert not isinstance(caught.value, CorruptStore)


AS_NOBODY = """
import os, sys
from pathlib import Path
from hedgehogd.history.lock import WriterLock
from hedgehogd.history.reader import Reader
from hedgehogd.history.schema import CorruptStore, StoreError
from hedgehogd.history.writer import Writer
os.setuid(65534)
for begin in (lambda p: Writer(p, {"pairs": ""}), lambda p: WriterLock(p).try_take(), Reader):
    try:
        begin(Path(sys.argv[1]))
        print("fine")
    except CorruptStore as error:
        print("corrupt", error)
    except StoreError as error:
        print(error)
"""


def test_a_directory_that_may_not_be_written_is_an_error_of_the_store():
    """Wrong rights are put right by people, while streaming goes on."""
    if os.geteuid() != 0:
        pytest.skip("only root may become somebody else")
    with tempfile.TemporaryDirectory() as name:  # pytest's own are for nobody else to see
        directory = Path(name)
        directory.chmod(0o755)
        store = Store(directory)
        store.writer.write([match(1)], NOW)
        said = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, directory], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        store.close()

    assert said[0].startswith(("attempt to write a readonly database", "unable to open"))
    assert said[1].endswith("history.lock: Permission denied")
    assert len(said) == 3
    assert "corrupt" not in said[2]


def test_errors_of_sqlite_are_told_apart():
    """What people have to look at, from what passes; also where SQLite says it in detail."""

    def error(code):
        made = sqlite3.DatabaseError("it")
        made.sqlite_errorcode = code
        return type(opened(made))

    assert [error(sqlite3.SQLITE_CORRUPT), error(sqlite3.SQLITE_NOTADB)] == [CorruptStore] * 2
    assert error(sqlite3.SQLITE_CORRUPT_INDEX) is CorruptStore
    assert [error(c) for c in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_READ)] == [StoreError] * 2
    assert type(opened(sqlite3.ProgrammingError("closed"))) is StoreError  # Python's own


def a_week(directory, blocks=True):
    """Write some of everything, and close."""
    store = Store(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "BLOCK_BYTES", 300 if blocks else 10**6)
        for n in range(1, 120, 2):
            rows = [match(n), numbered(TICKER, n, NOW + n), numbered(FULL, n, NOW + n)]
            store.writer.write([*rows, bare(LEVEL2, n, NOW + n, "snapshot")], NOW + n)
        store.writer.keep_trades(BTC, [{"trade_id": n, "time": ""} for n in range(2, 40, 2)])
    store.close()
    return store


def read_everything(directory):
    reader = Reader(directory)
    try:
        topics = [MATCHES, TICKER, FULL, LEVEL2]
        reader.settings(), reader.written_to(), reader.extents()
        for topic in topics:
            reader.first_place(topic), reader.find(topic, 500)
            reader.snapshot_before(topic, NOW + 60), reader.trades(topic.product_id, 0, 99)
        after, pages = -1, 0
        while not (page := reader.page(topics, after)).is_last and (pages := pages + 1) < 1000:
            after = page.end
    finally:
        reader.close()


def test_a_spoiled_block_is_told_and_never_repaired(tmp_path):
    """People decide what becomes of a broken record; the rest of it can be read."""
    store = a_week(tmp_path)
    with closing(sqlite3.connect(store.file)) as connection:
        connection.execute("UPDATE block SET data = CAST(x'ff' || data AS BLOB) WHERE id = 2")
        connection.commit()
    before = store.file.read_bytes()
    ((topic,),) = store.rows("SELECT channel FROM topic WHERE id = (SELECT topic FROM block"
        " WHERE id = 2)")  # fmt: skip
    spoiled, others = [], []
    reader = Reader(tmp_path)
    for each in (MATCHES, TICKER, FULL, LEVEL2):
        (spoiled if each.channel == topic else others).append(each)
    for _ in range(2):
        with pytest.raises(CorruptStore, match=rf"block 2 of {topic}:BTC-USD: "):
            read_all(reader, spoiled)
    assert len(read_all(reader, others)[0]) == 180
    reader.close()

    assert before == store.file.read_bytes()


def test_a_spoiled_page_is_told_and_never_repaired(tmp_path):
    """The first page of a table is noise: neither reading nor writing makes it worse."""
    store = a_week(tmp_path)
    size, roots = 4096, store.rows("SELECT rootpage FROM sqlite_schema WHERE rootpage")
    data = bytearray(store.file.read_bytes())
    for (page,) in roots:
        if page > 1:
            data[(page - 1) * size : page * size] = Random(1).randbytes(size)
    store.file.write_bytes(data)
    for use in (read_everything, lambda directory: Writer(directory, NAMES)):
        with pytest.raises(CorruptStore, match="malformed"):
            use(tmp_path)

    assert bytes(data) == store.file.read_bytes()


def test_a_store_that_was_cut_is_told(tmp_path):
    """A disk was full, or a copy was not finished."""
    store = a_week(tmp_path)
    data = store.file.read_bytes()
    for length in (100, 4096, len(data) // 2):
        store.file.write_bytes(data[:length])
        with pytest.raises(CorruptStore):
            read_everything(tmp_path)
        assert data[:length] == store.file.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store that is whole, and a place for what is made of it."""
    return a_week(tmp_path_factory.mktemp("whole")), tmp_path_factory.mktemp("spoiled")


@settings(max_examples=150)
@given(st.integers(0, 2**32))
def test_whatever_was_spoiled_only_the_errors_of_the_store_come_of_it(whole, seed):
    """A flipped bit must not end the process that streams."""
    store, directory = whole
    chance, spoiled = Random(seed), bytearray(store.file.read_bytes())
    for _ in range(chance.choice([1, 3, 30])):
        at = chance.randrange(len(spoiled))
        spoiled[at : at + chance.choice([1, 1, 8])] = chance.randbytes(1)
    for use in (read_everything, write_something):
        for path in directory.iterdir():
            path.unlink()
        (directory / FILE_NAME).write_bytes(spoiled)
        with suppress(StoreError):
            use(directory)


def write_something(directory):
    writer = Writer(directory, NAMES)
    try:
        writer.write([match(500), numbered(FULL, 500, NOW + 99), bare(LEVEL2, 1, NOW)], NOW + 10**9)
        writer.retain(NOW, 10)
    finally:
        writer.close()
