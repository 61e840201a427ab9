"""The writer's segment files, apart from the writer: slices, bounds, inheritance."""

import os

import pytest

from hedgehogd.domain.limits import ALLOCATION_SLICE_BYTES, TERMS_KEPT_MAX
from hedgehogd.log import allocation as allocation_module
from hedgehogd.log.allocation import Allocation, Bounds
from hedgehogd.log.directory import Directory
from hedgehogd.log.errors import LogError
from hedgehogd.log.header import Fixed, Place, Seal, pack_page
from hedgehogd.log.segment import HEAD_BYTES, SegmentHead, pack_head
from tests.log.conftest import descriptors

BOOT = 77
NS = 1_000_000_000


def fixed(term, segment=0, offset=0, boot=BOOT):
    """Return a page's fixed part: ``segment`` and ``offset`` are the seal of the term before."""
    return Fixed("k3f9qa", term, 1, boot, Seal(Place(segment, offset), 0), 1)


def put_page(directory, page):
    with directory.new_page() as (descriptor, name):
        os.pwrite(descriptor, pack_page(page, 0), 0)
        directory.publish(name, page.term)
    os.close(descriptor)


def put_segment(machine, term, number, size=1000, opened_ns=0):
    head = pack_head(SegmentHead("k3f9qa", term, number, 0, opened_ns))
    (machine.path / f"segment-{term}-{number}").write_bytes(head.ljust(size, b"x"))


def page_of(machine, page):
    """Publish the page of the writer's term, if it is not there; open it."""
    if not machine.directory.has_page(page.term):
        put_page(machine.directory, page)
    return machine.keep(machine.directory.page(page.term))


def allocation(machine, page, bounds=Bounds(), now_ns=0):  # noqa: B008  # a tuple
    opened = page_of(machine, page)
    return machine.keep(Allocation(machine.directory, opened, bounds, now_ns))


def test_one_slice_is_allocated_at_a_time(machine):
    """A whole segment at once would delay an append by milliseconds."""
    found = allocation(machine, fixed(1))
    sizes = []
    for _ in range(20):
        found.allocate_ahead(0)
        sizes.append(found.window_bytes)

    slices = [b - a for a, b in zip([0, *sizes], sizes, strict=False)]
    assert {ALLOCATION_SLICE_BYTES, 0} == set(slices)
    assert 4 * 1024 * 1024 == sizes[-1]


def test_the_next_segment_follows_when_the_current_one_is_complete(machine):
    """So it is there when the append that needs it comes."""
    found = allocation(machine, fixed(1), Bounds(segment_bytes=ALLOCATION_SLICE_BYTES))
    found.allocate_ahead(0)
    found.open_next(100, 0, 0, 0)
    assert (1, ALLOCATION_SLICE_BYTES - 64) == (found.number, found.room(64))
    assert [(1, 1)] == machine.directory.segments()
    found.allocate_ahead(5_000)
    assert [(1, 1), (1, 2)] == machine.directory.segments()
    found.open_next(100, 5_000, 9, 0)

    assert (2, ALLOCATION_SLICE_BYTES) == (found.number, found.room(0))
    assert 9 == machine.directory.head(1, 2).previous_id


def test_a_closed_allocation_leaves_no_unopened_segment(machine):
    """It would hold space until the next writer."""
    directory = machine.directory
    page = page_of(machine, fixed(1))
    before = descriptors()
    found = Allocation(directory, page, Bounds(segment_bytes=ALLOCATION_SLICE_BYTES), 0)
    found.allocate_ahead(0)
    found.open_next(100, 0, 0, 0)
    found.allocate_ahead(50_000)
    assert 2 == len(directory.segments())
    found.close()

    assert ([(1, 1)], before) == (directory.segments(), descriptors())


def test_a_segment_that_cannot_be_created_is_reported_when_it_is_needed(machine, monkeypatch):
    """Until then the writer has room."""
    found = allocation(machine, fixed(1))

    def refuse(*arguments):
        raise LogError("too many files")

    monkeypatch.setattr(allocation_module.Directory, "new_segment", refuse)
    found.allocate_ahead(0)
    assert found.is_short
    with pytest.raises(LogError, match="too many files"):
        found.open_next(100, 0, 0, 0)


def test_each_inherited_term_ends_at_its_seal(machine):
    """Bytes after a seal, and older files of the own term, are not part of the log."""
    directory = machine.directory
    for page in (fixed(1), fixed(2, 2, 500), fixed(3, 1, 700)):
        put_page(directory, page)
    for each in ((1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (4, 1), (5, 1)):
        put_segment(machine, *each)
    allocation(machine, fixed(4, 0, 0))

    assert [(1, 1), (1, 2), (2, 1), (5, 1)] == directory.segments()
    assert [1000, 500, 700] == [directory.segment_bytes(*each) for each in directory.segments()[:3]]


def test_nothing_is_inherited_from_before_a_missing_page(machine):
    """A reader could neither pass it nor read the segments of its term."""
    directory = machine.directory
    for page in (fixed(1), fixed(2, 1, 500), fixed(4, 1, 700)):
        put_page(directory, page)
    for term in (1, 2, 3, 4):
        put_segment(machine, term, 1)
    found = allocation(machine, fixed(5, 1, 900))

    assert [(4, 1)] == directory.segments()
    assert 900 == found.window_bytes


def test_nothing_is_inherited_from_another_log(machine):
    """It has no seal in this log, even where a term without segments lies between both."""
    directory = machine.directory
    for page in (fixed(1), fixed(2, 1, 500), fixed(3)._replace(deployment="aaaaaa")):
        put_page(directory, page)
    put_segment(machine, 1, 1)
    allocation(machine, fixed(4, 0, 0)._replace(deployment="aaaaaa"))

    assert [] == directory.segments()


def test_the_page_of_each_inherited_term_is_opened_once(machine, monkeypatch):
    """A window has hundreds of segments, and a takeover waits for this."""
    directory = machine.directory
    for page in (fixed(1), fixed(2, 9, 900), fixed(3, 9, 900), fixed(4, 9, 900)):
        put_page(directory, page)
    for term in (2, 3):
        for number in range(1, 10):
            put_segment(machine, term, number)
    opened = []
    page_of_term = Directory.page

    def counted(directory, term):
        opened.append(term)
        return page_of_term(directory, term)

    own = page_of(machine, fixed(4))
    with monkeypatch.context() as patch:
        patch.setattr(Directory, "page", counted)
        machine.keep(Allocation(directory, own, Bounds(), 0))

    assert [3, 2] == opened


def test_segments_of_another_boot_age_from_the_takeover(machine):
    """Their times are on another clock."""
    directory = machine.directory
    put_page(directory, fixed(1, boot=5))
    put_page(directory, fixed(2, 2, 900))
    put_segment(machine, 1, 1)
    put_segment(machine, 1, 2, opened_ns=10**15)
    put_segment(machine, 2, 1, opened_ns=5 * NS)
    found = allocation(machine, fixed(3, 1, 900), Bounds(window_s=100.0), 50 * NS)
    found.expire(149 * NS)
    assert 3 == len(directory.segments())
    found.expire(151 * NS)
    assert [] == directory.segments()


def test_a_segment_that_cannot_be_removed_is_tried_again(machine, monkeypatch):
    """Its bytes are in use until then."""
    put_page(machine.directory, fixed(1))
    put_segment(machine, 1, 1)
    found = allocation(machine, fixed(2, 1, 1000), Bounds(window_s=100.0))

    def refuse(name, **options):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        with pytest.raises(LogError, match=rf"{machine.path}/segment-1-1: Input/output error"):
            found.expire(101 * NS)
    assert 1000 == found.window_bytes
    found.expire(101 * NS)

    assert (0, []) == (found.window_bytes, machine.directory.segments())


def test_pages_of_old_terms_are_removed(machine):
    """Each takeover leaves one; readers need those of the segments that are left."""
    directory = machine.directory
    last = TERMS_KEPT_MAX + 10
    for term in range(1, last):
        put_page(directory, fixed(term, int(term == 4), HEAD_BYTES))
    put_segment(machine, 3, 1)
    allocation(machine, fixed(last, 0, 0))
    assert [*range(3, last + 1)] == directory.terms()
    directory.remove("segment-3-1")
    allocation(machine, fixed(last, 0, 0))

    assert [*range(10, last + 1)] == directory.terms()
