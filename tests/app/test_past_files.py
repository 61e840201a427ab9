"""The reader of a directory: of the archive, or of the store where there is none."""

from contextlib import closing

import pytest

from hedgehogd.app.past_files import PAST_ERRORS, open_past
from hedgehogd.history.reader import Reader
from hedgehogd.history.writer import Writer
from hedgehogd.log.past_reader import PastReader
from tests.log.past import usual, write


def test_an_archive_is_read_rather_than_a_store(tmp_path):
    """A directory has both after a migration."""
    with pytest.raises(PAST_ERRORS):
        open_past(tmp_path)
    Writer(tmp_path, {}).close()
    with closing(open_past(tmp_path)) as reader:
        assert isinstance(reader, Reader)
    write(tmp_path, usual())
    with closing(open_past(tmp_path)) as reader:
        assert isinstance(reader, PastReader)
    (tmp_path / "catalogue.sqlite").write_bytes(b"spoiled" * 999)
    with pytest.raises(PAST_ERRORS):
        open_past(tmp_path)
