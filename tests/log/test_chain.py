"""The chain of terms: a log goes back as far as each page has the seal of the one before."""

import os

import pytest

from hedgehogd.log.chain import Sealed, terms_before
from hedgehogd.log.header import Fixed, Place, Seal, pack_page


def fixed(term, deployment="k3f9qa"):
    """Return a page's fixed part; the term before it ends in as many segments as its number."""
    return Fixed(deployment, term, 1, 1, Seal(Place(term, 64), 10 * term), 1)


@pytest.fixture
def directory(machine):
    """A directory with the pages of terms 1 to 6."""
    directory = machine.directory
    for term in range(1, 7):
        with directory.new_page() as (descriptor, name):
            os.pwrite(descriptor, pack_page(fixed(term), 0), 0)
            directory.publish(name, term)
        os.close(descriptor)
    return directory


def test_each_term_ends_at_the_seal_in_the_next_page(directory):
    """The newest first, and nothing before the oldest that is wanted."""
    found = terms_before(directory, fixed(6), 3)

    assert {5: (fixed(5), fixed(6).seal), 4: (fixed(4), fixed(5).seal), 3: (fixed(3),
            fixed(4).seal)} == found  # fmt: skip
    assert [5, 4, 3] == list(found)
    assert isinstance(found[3], Sealed)
    assert [5, 4, 3, 2, 1] == list(terms_before(directory, fixed(6), 0))
    assert {} == terms_before(directory, fixed(6), 6) == terms_before(directory, fixed(1), 1)


def test_a_missing_or_damaged_page_ends_the_chain(machine, directory):
    """Nothing before it can be read in order."""
    directory.remove_page(3)
    assert [5, 4] == list(terms_before(directory, fixed(6), 1))
    (machine.path / "term-5").write_bytes(bytes(4096))

    assert [] == list(terms_before(directory, fixed(6), 1))


def test_a_page_of_another_deployment_ends_the_chain(directory):
    """The log began again after it."""
    assert {} == terms_before(directory, fixed(6, "aaaaaa"), 1)
