"""The names and headers of files."""

import pytest

from hedgehogd.log.archive import files
from hedgehogd.log.archive.errors import (
    ArchiveError,
    DamagedArchive,
    ForeignArchive,
    NewerFormat,
)
from hedgehogd.log.archive.files import FileHeader, FileName, read_name

HEADER = FileHeader("abcdef", 7)


@pytest.mark.parametrize("suffix", [files.SEGMENT, files.OPEN, files.TAIL])
def test_a_name_is_read_as_written(suffix):
    """In the order of ids, as a directory lists them."""
    name = FileName(1795985932461002, suffix)

    assert f"00001795985932461002{suffix}" == str(name)
    assert name == read_name(str(name))


@pytest.mark.parametrize("name", ["1.tail", "0" * 20 + ".tail.part", "catalogue.sqlite", ""])
def test_other_names_are_of_other_files(name):
    """They are left alone."""
    assert read_name(name) is None


def test_a_header_is_read_as_written():
    """With the deployment that it belongs to."""
    data = files.pack_header(HEADER)

    assert files.HEADER_BYTES == len(data)
    assert HEADER == files.unpack_header(data + b"more", "x", "abcdef")


def test_a_header_of_another_kind_is_refused():
    """Each by its own error."""
    data = files.pack_header(HEADER)
    for at in range(len(data)):
        damaged = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises((DamagedArchive, NewerFormat)):
            files.unpack_header(damaged, "x")
    with pytest.raises(DamagedArchive):
        files.unpack_header(data[:-1], "x")
    with pytest.raises(ForeignArchive):
        files.unpack_header(data, "x", "bbbbbb")


def test_an_error_of_the_file_system_is_one_of_the_archive(tmp_path):
    """With the path in its text."""
    with pytest.raises(ArchiveError, match="absent"):
        files.create(tmp_path / "absent" / "file", HEADER)
    with pytest.raises(ArchiveError, match="absent"):
        files.sync_directory(tmp_path / "absent")
