"""Header pages: the fixed part, and the words that change."""

import os

import pytest

from hedgehogd.log.errors import UnusableWindow
from hedgehogd.log.header import PAGE_BYTES, Fixed, Page, Place, Seal, pack_page, unpack_page
from tests.log.conftest import descriptors

FIXED = Fixed("k3f9qa", 7, 3, 2**64 - 1, Seal(Place(2, 2**32 - 1), 41), 42)


@pytest.fixture
def path(tmp_path):
    """A file with a page."""
    path = tmp_path / "page"
    path.write_bytes(pack_page(FIXED, 5))
    return path


@pytest.fixture
def pages(path):
    """Two mappings of one page, as two processes have them."""
    pages = [Page(os.open(path, os.O_RDWR), FIXED) for _ in range(2)]
    yield pages
    for page in pages:
        page.close()


def test_a_page_is_read_as_it_was_written():
    """Its size is a page of memory, so it is allocated at once."""
    data = pack_page(FIXED, 5)

    assert PAGE_BYTES == len(data)
    assert FIXED == unpack_page(data, "term-7")


@pytest.mark.parametrize("place", [0, 7, 8, 11, *range(16, 72)])
def test_a_damaged_page_is_none(place):
    """After a loss of power a page may have other bytes, which must not be believed."""
    data = bytearray(pack_page(FIXED, 5))
    data[place] ^= 1

    assert unpack_page(bytes(data), "term-7") is None


@pytest.mark.parametrize(("last_id", "is_damaged"), [(2**62 - 1, False), (2**62, True)])
def test_an_id_that_no_clock_reaches_is_damage(pages, path, last_id, is_damaged):
    """The next term could not have a larger one: its candidates would all fail."""
    pages[0].publish(1, 64, last_id)

    assert is_damaged == (unpack_page(path.read_bytes(), "term-7") is None)


@pytest.mark.parametrize("data", [b"", bytes(PAGE_BYTES), pack_page(FIXED, 5)[:-1]])
def test_an_incomplete_page_is_none(data):
    """A file system may keep a name without the bytes."""
    assert unpack_page(data, "term-7") is None


def test_another_format_is_refused():
    """An older instance beside a newer one must not write."""
    data = bytearray(pack_page(FIXED, 5))
    data[12] = 9
    with pytest.raises(UnusableWindow, match="term-7 has format 9; this version reads format 1"):
        unpack_page(bytes(data), "term-7")


def test_words_are_shared(pages):
    """Each fact is one word that another process sees."""
    one, other = pages
    assert (5, Place(0, 0), 41, False, 0) == (
        one.heartbeat_ns, one.end, one.last_id, one.is_fenced, one.joined,
    )  # fmt: skip
    one.renew(2**63)
    one.publish(3, 2**32 - 1, 2**53)
    one.join(2**64 - 1)
    other.fence()

    assert (2**63, Place(3, 2**32 - 1), 2**53) == (other.heartbeat_ns, other.end, other.last_id)
    assert (3 << 32) + 2**32 - 1 == other.end_word
    assert (True, 2**64 - 1) == (one.is_fenced, other.joined)


def test_the_words_do_not_change_the_fixed_part(pages, path):
    """A candidate reads the fixed part at any time."""
    one, _ = pages
    for change in (lambda: one.renew(1), lambda: one.publish(1, 1, 1), one.fence):
        change()

    assert FIXED == unpack_page(path.read_bytes(), "term-7")


@pytest.mark.parametrize(
    ("precedes", "deployment", "place", "last_id", "boot"),
    [
        (True, "k3f9qa", Place(3, 500), 60, FIXED.boot),
        (True, "k3f9qa", Place(3, 501), 60, FIXED.boot),
        (False, "k3f9qa", Place(3, 499), 60, FIXED.boot),
        (True, "k3f9qa", Place(3, 499), 41, 5),
        (False, "k3f9qa", Place(3, 500), 40, 5),
        (False, "aaaaaa", Place(3, 500), 60, FIXED.boot),
        (False, "k3f9qa", Place(0, 0), 0, FIXED.boot),
    ],
)
def test_a_page_precedes_one_that_continues_its_log(
    pages, precedes, deployment, place, last_id, boot
):
    """The seal is not before the published end, except after a loss of power."""
    page, _ = pages
    page.publish(3, 500, 60)
    later = Fixed(deployment, 8, 3, boot, Seal(place, last_id), 61)

    assert precedes == page.precedes(later)


def test_a_closed_page_has_no_descriptor(path):
    """A mapping holds a copy of the descriptor, and with it a lock."""
    before = descriptors()
    page = Page(os.open(path, os.O_RDWR), FIXED)
    page.close()

    assert before == descriptors()
