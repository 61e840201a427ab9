"""``hedgehogd store``."""

from random import Random

import pytest

from hedgehogd.cli import run
from tests.log.archive.records import records
from tests.log.archive.test_reader import write


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


@pytest.mark.parametrize(("words", "status"), [("check absent", 78), ("check", 64), ("list x", 64)])
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
