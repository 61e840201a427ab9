"""The pairs and channels of the present writer."""

import stat

import pytest

from hedgehogd.domain.errors import EXIT_CONFIG, OperatorError
from hedgehogd.log.agreement import FILE, agree, read_names, write_names

NAMES = {"pairs": "BTC-USD", "channels": "matches,ticker"}


def test_the_writers_names_are_read(tmp_path):
    """By any instance that may read the window."""
    window, archive = tmp_path / "window", tmp_path / "archive"
    window.mkdir()
    assert not agree(window, archive, NAMES)
    write_names(window, archive, {"pairs": "x"})
    write_names(window, archive, NAMES)

    assert NAMES.items() <= read_names(window).items()
    assert agree(window, archive, NAMES)
    assert [window / FILE] == list(window.iterdir())
    assert 0o640 == stat.S_IMODE((window / FILE).stat().st_mode)


def test_one_archive_has_many_paths(tmp_path):
    """A container may have mounted it elsewhere; another directory at the path is the same."""
    archive, other, link = tmp_path / "archive", tmp_path / "other", tmp_path / "link"
    archive.mkdir()
    write_names(tmp_path, archive, NAMES)
    link.symlink_to(archive)
    assert agree(tmp_path, link, NAMES)
    with pytest.raises(OperatorError, match=f"{archive}; this one has {other}"):
        agree(tmp_path, other, NAMES)
    archive.rename(other)
    assert agree(tmp_path, other, NAMES)
    archive.mkdir()
    assert agree(tmp_path, archive, NAMES)


@pytest.mark.parametrize("name", ["pairs", "channels"])
def test_other_names_are_an_error_of_the_operator(name, tmp_path):
    """Only one of the instances writes, so the topics of the other one would not be recorded."""
    write_names(tmp_path, tmp_path, NAMES | {name: "other"})
    with pytest.raises(OperatorError, match=f"{name} other") as raised:
        agree(tmp_path, tmp_path, NAMES)

    assert EXIT_CONFIG == raised.value.exit_status


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff"])
def test_unreadable_names_are_none(content, tmp_path):
    """The next writer writes them again."""
    (tmp_path / FILE).write_bytes(content)

    assert {} == read_names(tmp_path)
    assert not agree(tmp_path, tmp_path, NAMES)


def test_a_fault_of_the_disk_is_no_error(tmp_path):
    """The archiver reports it."""
    (tmp_path / "file").touch()
    write_names(tmp_path / "file", tmp_path, NAMES)

    assert {} == read_names(tmp_path / "file")
