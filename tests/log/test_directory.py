"""The directory of a window: names, publication, and the check that the files are in place."""

import errno
import os
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from hedgehogd.log import directory as directory_module
from hedgehogd.log.directory import Directory
from hedgehogd.log.errors import LogError, ReplacedWindow, UnusableWindow
from hedgehogd.log.header import NO_SEAL, Fixed, pack_page
from hedgehogd.log.segment import SegmentHead, pack_head
from tests.log.conftest import descriptors


def data_of(term):
    return pack_page(Fixed("k3f9qa", term, 1, 1, NO_SEAL, 1), 0)


def publish(directory, term):
    with directory.new_page() as (descriptor, name):
        os.pwrite(descriptor, data_of(term), 0)
        published = directory.publish(name, term)
    os.close(descriptor)
    return published


def test_a_term_has_one_page(machine):
    """Of all candidates for a term one succeeds, and its page is whole from the first instant."""
    one, other = machine.directory, machine.directory

    assert [True, False, True] == [publish(one, 1), publish(other, 1), publish(other, 2)]
    assert [1, 2] == one.terms()
    assert (True, False) == (one.has_page(2), one.has_page(3))
    assert 2 == machine.keep(one.page(2)).fixed.term
    assert ["term-1", "term-2"] == sorted(one.names())


def test_a_page_that_was_removed_is_not_published(machine):
    """The next writer removes the pages of candidates that sleep."""
    directory = machine.directory
    with directory.new_page() as (descriptor, name):
        machine.directory.remove_new_pages()
        published = directory.publish(name, 1)
    os.close(descriptor)

    assert not published
    assert [] == directory.names()


def test_an_error_closes_the_unpublished_page(machine):
    """A candidate tries for months."""
    directory = machine.directory
    before = descriptors()
    with pytest.raises(ZeroDivisionError), directory.new_page():
        raise ZeroDivisionError

    assert before == descriptors()
    assert [] == directory.names()


def short(descriptor, data, offset):
    return len(data) - 1


def full(descriptor, data, offset):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("write", [short, full])
def test_a_page_that_cannot_be_allocated_is_an_error_of_the_log(machine, monkeypatch, write):
    """The disk may be full; the current term is not fenced then."""
    monkeypatch.setattr(os, "pwrite", write)
    with pytest.raises(LogError, match=r"(?i)no space left"), machine.directory.new_page():
        pass


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, data_of(2)])
def test_a_damaged_page_and_one_of_another_term_are_none(machine, content):
    """After a loss of power a name may have any bytes."""
    directory = machine.directory
    (machine.path / "term-1").write_bytes(content)

    assert directory.page(1) is None
    assert [1] == directory.terms()


def test_other_names_are_left_alone(machine):
    """An operator may put a file there."""
    directory = machine.directory
    for name in ("term-0", "term-x", "term-1.old", "segment-1", "segment-1-0", "notes"):
        (machine.path / name).touch()

    assert ([], [], []) == (directory.terms(), directory.segments(), directory.followers())


def test_segments_are_listed_in_order(machine):
    """Terms and numbers are compared as numbers."""
    directory = machine.directory
    for each in ((10, 1), (9, 2), (9, 10)):
        (machine.path / "segment-{}-{}".format(*each)).touch()

    assert [(9, 2), (9, 10), (10, 1)] == directory.segments()
    assert directory.segment(1, 1) is None
    assert (0, 0) == (directory.segment_bytes(1, 1), directory.segment_bytes(9, 2))


def test_the_head_of_a_segment_names_it(machine):
    """A copied segment has another name than its head."""
    directory = machine.directory
    for number in (1, 2, 3):
        head = SegmentHead("k3f9qa", 1, min(number, 2), 0, 0)
        (machine.path / f"segment-1-{number}").write_bytes(pack_head(head))
    (machine.path / "segment-1-4").write_bytes(bytes(100))

    assert [True, True, False, False, False] == [
        directory.head(1, number) is not None for number in range(1, 6)
    ]


def test_a_segment_is_shortened_and_removed(machine):
    """A missing one is no fault: another writer may have done it."""
    directory = machine.directory
    publish(directory, 1)
    page = machine.keep(directory.page(1))
    (machine.path / "segment-1-1").write_bytes(bytes(100))
    directory.shorten_segment(1, 1, 200, page)
    assert 100 == directory.segment_bytes(1, 1)
    directory.shorten_segment(1, 1, 30, page)
    assert 30 == directory.segment_bytes(1, 1)
    for _ in range(2):
        directory.remove_segment(1, 1, page)
        directory.shorten_segment(1, 1, 30, page)

    assert ["term-1"] == directory.names()


@pytest.mark.parametrize("umask", [0, 0o77])
def test_files_are_for_user_and_group_with_any_umask(machine, umask):
    """Messages are not for every user of the machine."""
    old = os.umask(umask)
    try:
        directory = machine.directory
        publish(directory, 1)
        os.close(directory.new_segment(1, machine.keep(directory.page(1))))
    finally:
        os.umask(old)

    assert 0o640 == stat.S_IMODE((machine.path / "segment-1-1").stat().st_mode)
    assert 0 == stat.S_IMODE(machine.path.stat().st_mode) & 0o027


def test_a_link_is_not_followed(machine):
    """A user of the group cannot make the writer write elsewhere."""
    directory = machine.directory
    (machine.path / "segment-1-1").symlink_to("/dev/null")
    with pytest.raises(LogError, match="segment-1-1"):
        directory.segment(1, 1)


def test_a_directory_that_cannot_be_is_the_operators_error(tmp_path):
    """The message names the path."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "window"):
        with pytest.raises(UnusableWindow, match=str(path)):
            Directory(path)


def test_a_remote_file_system_is_the_operators_error(tmp_path, monkeypatch):
    """Two machines would each believe that they write alone."""
    monkeypatch.setattr(directory_module, "remote_file_system", lambda device: "nfs4")
    before = descriptors()
    with pytest.raises(UnusableWindow, match="nfs4; the log needs a local file system"):
        Directory(tmp_path)
    assert before == descriptors()


def empty(path):
    for each in path.iterdir():
        each.unlink()


def remove(path):
    shutil.rmtree(path)


def replace(path):
    path.rename(path.with_name("moved"))
    shutil.copytree(path.with_name("moved"), path)


def copy_page(path):
    content = (path / "term-1").read_bytes()
    (path / "term-1").unlink()
    (path / "term-1").write_bytes(content)


@pytest.mark.parametrize("change", [empty, remove, replace, copy_page])
def test_replaced_files_are_noticed(machine, change):
    """Otherwise a writer appends for hours to files that no follower can open."""
    directory = machine.directory
    publish(directory, 1)
    page = machine.keep(directory.page(1))
    directory.check(page)
    change(machine.path)
    with pytest.raises(ReplacedWindow, match=str(machine.path)):
        directory.check(page)


def test_a_long_path_has_short_addresses(tmp_path):
    """The address of a unix socket has 108 bytes."""
    path = tmp_path / ("x" * 120)
    directory = Directory(path)
    assert len(directory.socket_path(directory.new_follower())) < 108
    directory.close()


def test_threads_list_all_files_at_the_same_time(tmp_path):
    """A reader in a thread misses no term while the loop looks for new ones."""
    directory = Directory(tmp_path)
    for number in range(200):
        (tmp_path / f"term-{number + 1}").touch()
    with ThreadPoolExecutor(2) as threads:
        lists = list(threads.map(lambda _: len(directory.terms()), range(2_000)))
    directory.close()

    assert {200} == set(lists)


@pytest.mark.parametrize(
    ("number", "is_permanent"), [(errno.EACCES, True), (errno.EMFILE, False), (errno.EIO, False)]
)
def test_only_a_lasting_fault_of_the_directory_ends_a_start(
    tmp_path, monkeypatch, number, is_permanent
):
    """No fault that may pass is the operator's error."""

    def fail(*_args, **_more):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(directory_module.os, "open", fail)
    with pytest.raises((LogError, UnusableWindow)) as raised:
        Directory(tmp_path)

    assert is_permanent is isinstance(raised.value, UnusableWindow)
