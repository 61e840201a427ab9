"""The reader of a directory: of the archive, or of the store where there is none."""

from contextlib import closing

import pytest

from hedgehogd.app.past_files import PAST_ERRORS, open_past
from hedgehogd.history.reader import Reader
from hedgehogd.history.writer import Writer
from hedgehogd.log.past_reader import PastReader
from tests.log.past import usual, write


def test_a_directory_has_a_store_or_an_archive(tmp_path):
    """A migrated store has another name, and its directory has an archive."""
    with pytest.raises(PAST_ERRORS):
        open_past(tmp_path)
    Writer(tmp_path, {}).close()
    with closing(open_past(tmp_path)) as reader:
        assert isinstance(reader, Reader)
    (tmp_path / "history.sqlite").rename(tmp_path / "history.sqlite.migrated")
    write(tmp_path, usual())
    with closing(open_past(tmp_path)) as reader:
        assert isinstance(reader, PastReader)
    (tmp_path / "catalogue.sqlite").write_bytes(b"spoiled" * 999)
    with pytest.raises(PAST_ERRORS):
        open_past(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [("export", "--pair", "BTC-USD", "-"), ("replay", "--since", "-1h", "--port", "0")],
)
def test_a_store_beside_an_archive_is_refused(tmp_path, run_command, arguments):
    """The archive of an interrupted migration is a part of the store, and looks complete."""
    Writer(tmp_path, {}).close()
    write(tmp_path, usual())
    status, out, err = run_command(*arguments, "--history", str(tmp_path))

    assert (status, out) == (78, "")
    assert f"({tmp_path}/history.sqlite)" in err
    assert f"({tmp_path}/catalogue.sqlite)" in err
