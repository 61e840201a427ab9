"""``hedgehogd store``."""

import fcntl
import io
import sqlite3
from random import Random

import pytest

from hedgehogd.cli import run
from hedgehogd.commands.store import Progress
from hedgehogd.log.migration.old_store import LOCK_NAME
from tests.log.archive.records import records
from tests.log.archive.test_reader import write
from tests.log.migration.stores import make_store


def test_a_sound_archive_exits_with_0(tmp_path, capsys):
    """Its gaps are listed."""
    write(tmp_path, records(Random(1), 300), Random(2)).close()
    status = run(["store", "check", str(tmp_path)])
    out, err = capsys.readouterr()

    assert (0, "") == (status, err)
    assert "gap: " in out
    assert ": 0 damaged, " in out.splitlines()[-1]


def test_a_damaged_archive_exits_with_1(tmp_path, capsys):
    """Damage goes to stderr."""
    write(tmp_path, records(Random(1), 300), Random(2)).close()
    path = min(tmp_path.glob("0*"))
    data = path.read_bytes()
    path.write_bytes(data[:-40] + b"damaged" + data[-33:])
    status = run(["store", "check", str(tmp_path)])
    out, err = capsys.readouterr()

    assert 1 == status
    assert path.name in err
    assert ": 0 damaged" not in out


class Terminal(io.StringIO):
    """A terminal, or a file."""

    def __init__(self, *, is_terminal):
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self):
        return self._is_terminal


def test_a_migration_keeps_the_old_file_and_says_where(tmp_path, capsys):
    """A second one has nothing to do; a check of the result is sound."""
    make_store(tmp_path, 3, 20)
    assert run(["store", "migrate", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert (err, len(out.splitlines())) == ("", 2)
    assert f"kept as {tmp_path / 'history.sqlite.migrated'}" in out
    assert "0 parts were damaged" in out

    assert run(["store", "migrate", str(tmp_path)]) == 0
    assert "is migrated already" in capsys.readouterr().out
    assert run(["store", "check", str(tmp_path)]) == 0


def test_a_check_of_an_old_store_names_the_migration(tmp_path, capsys):
    """It is no archive yet."""
    make_store(tmp_path, 3, 5)

    assert run(["store", "check", str(tmp_path)]) == 78
    assert f"hedgehogd store migrate {tmp_path}" in capsys.readouterr().err


def test_a_migration_is_refused_while_a_daemon_writes(tmp_path, capsys):
    """Its newest messages would be missing."""
    make_store(tmp_path, 3, 5)
    with (tmp_path / LOCK_NAME).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert run(["store", "migrate", str(tmp_path)]) == 78
    assert "stop all instances first" in capsys.readouterr().err


def test_a_damaged_part_of_a_store_exits_with_1(tmp_path, capsys):
    """The other parts are migrated."""
    make_store(tmp_path, 3, 20)
    connection = sqlite3.connect(tmp_path / "history.sqlite")
    connection.execute("UPDATE block SET data = x'00' WHERE id = 1")
    connection.commit()
    connection.close()

    assert run(["store", "migrate", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert "block 1 of " in err
    assert "1 parts were damaged" in out


def test_a_file_that_is_no_store_exits_with_1_and_is_kept(tmp_path, capsys):
    """Its bytes are damaged."""
    (tmp_path / "history.sqlite").write_bytes(b"other bytes" * 1000)

    assert run(["store", "migrate", str(tmp_path)]) == 1
    assert "is kept as it is" in capsys.readouterr().err
    assert (tmp_path / "history.sqlite").exists()


def test_progress_is_one_line_of_a_terminal():
    """It changes twice a second at most; a problem has a line of its own."""
    times = iter([10.0, 10.0, 10.2, 12.0])
    out = Terminal(is_terminal=True)
    progress = Progress(out, lambda: next(times))
    progress.show(0.0, 0)
    progress.show(0.3, 5)
    progress.show(0.5, 120_000)
    progress.warn("a problem")
    progress.end()

    assert out.getvalue() == (
        "\r  0%, 0 records, 0 a second \r 50%, 120,000 records, 60,000 a second \na problem\n"
    )


def test_progress_is_not_written_to_a_file():
    """Problems are."""
    out = Terminal(is_terminal=False)
    progress = Progress(out, lambda: 1.0)
    progress.show(0.5, 5)
    progress.warn("a problem")

    assert out.getvalue() == "a problem\n"


@pytest.mark.parametrize(
    ("words", "status"),
    [("check absent", 78), ("migrate absent", 78), ("check", 64), ("migrate", 64), ("list x", 64)],
)
def test_a_wrong_command_line_is_an_error(words, status, tmp_path, capsys):
    """Without a traceback."""
    arguments = words.replace("absent", str(tmp_path / "absent")).split()
    try:
        found = run(["store", *arguments])
    except SystemExit as error:
        found = error.code

    assert status == found
    assert "Traceback" not in capsys.readouterr().err


def test_a_file_of_another_program_exits_with_78(tmp_path, capsys):
    """The error names it."""
    (tmp_path / "catalogue.sqlite").write_bytes(b"name,price\n" * 100)

    assert 78 == run(["store", "check", str(tmp_path)])
    assert str(tmp_path / "catalogue.sqlite") in capsys.readouterr().err
