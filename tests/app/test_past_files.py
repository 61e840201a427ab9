"""The reader of a directory: of its archive, and of nothing where an older store is."""

from contextlib import closing

import pytest

from hedgehogd.app.past_files import open_past
from hedgehogd.domain.errors import EXIT_CONFIG, OperatorError
from hedgehogd.log.archive.errors import ArchiveError
from tests.log.past import usual, write


def test_a_directory_has_an_archive(tmp_path):
    """The old file of a migrated store has another name."""
    with pytest.raises(ArchiveError):
        open_past(tmp_path)
    (tmp_path / "history.sqlite.migrated").write_bytes(b"")
    write(tmp_path, usual())
    with closing(open_past(tmp_path)) as reader:
        assert len(reader.extents()) == 1
    (tmp_path / "catalogue.sqlite").write_bytes(b"spoiled" * 999)
    with pytest.raises(ArchiveError):
        open_past(tmp_path)


@pytest.mark.parametrize("has_archive", [False, True])
@pytest.mark.parametrize(
    "arguments",
    [("export", "--pair", "BTC-USD", "-"), ("replay", "--since", "-1h", "--port", "0")],
)
def test_an_older_store_is_refused(tmp_path, run_command, arguments, has_archive):
    """The archive of an interrupted migration is a part of the store, and looks complete."""
    (tmp_path / "history.sqlite").write_bytes(b"")
    if has_archive:
        write(tmp_path, usual())
    with pytest.raises(OperatorError) as caught:
        open_past(tmp_path)
    assert caught.value.exit_status == EXIT_CONFIG
    status, out, err = run_command(*arguments, "--history", str(tmp_path))

    assert (status, out) == (78, "")
    assert f"{tmp_path}/history.sqlite is a store of an older version" in err
    assert f"run: hedgehogd store migrate {tmp_path}\n" in err
