"""Segments: whole entries are found, and nothing else is one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.log.segment import (
    FRAME_BYTES,
    HEAD_BYTES,
    SegmentHead,
    end_mark,
    frame,
    pack_head,
    scan,
    skip,
    unpack_head,
)

HEAD = SegmentHead("k3f9qa", 7, 2, 1_700_000_000_000_000, 123)
entries = st.lists(st.binary(min_size=1, max_size=80), max_size=8)


def framed(parts, first_id=1):
    """Return entries of one record each, in a row."""
    return b"".join(
        frame(part, number, number) + part for number, part in enumerate(parts, first_id)
    )


def rest_of(found):
    return found.end, found.is_ended, found.needed


def test_a_damaged_length_does_not_make_a_reader_allocate_it():
    """A flipped high bit would ask for up to 4 GiB, before the CRC can be checked."""
    data = bytearray(framed([b"first", b"second"]))
    second = FRAME_BYTES + len(b"first")
    data[second + 7] ^= 0x80  # the highest byte of the length

    assert rest_of(scan(bytes(data))) == (second, False, 0)


def test_a_head_is_read_as_it_was_written():
    """A reader learns from it which ids the segment has."""
    data = pack_head(HEAD)

    assert HEAD_BYTES == len(data)
    assert HEAD == unpack_head(data + b"more")


@pytest.mark.parametrize("place", range(HEAD_BYTES))
def test_a_damaged_head_is_none(place):
    """So is each byte of it checked, the format included."""
    data = bytearray(pack_head(HEAD))
    data[place] ^= 1

    assert unpack_head(bytes(data)) is None


@pytest.mark.parametrize("data", [b"", bytes(HEAD_BYTES), pack_head(HEAD)[:-1]])
def test_a_segment_that_is_not_opened_has_no_head(data):
    """A preallocated file has zero bytes until the writer needs it."""
    assert unpack_head(data) is None


@given(entries, st.binary(max_size=5).map(lambda noise: b"\0" * 30 + noise))
def test_whole_entries_are_found(parts, rest):
    """A preallocated file continues with zero bytes."""
    data = framed(parts)
    found = scan(data + rest)

    assert parts == [data[start:end] for start, end, _, _ in found.entries]
    assert [(n, n) for n in range(1, len(parts) + 1)] == [e[2:] for e in found.entries]
    assert (len(data), False, 0) == rest_of(found)


@given(entries, st.binary(min_size=1, max_size=80), st.data())
def test_a_torn_entry_ends_the_segment(parts, torn, data):
    """Wherever the kill interrupted the write; ``needed`` says how much to read."""
    whole = framed(parts)
    piece = framed([torn], 99)
    kept = data.draw(st.integers(0, len(piece) - 1))
    found = scan(whole + piece[:kept])

    assert (len(parts), len(whole), False) == (len(found.entries), *rest_of(found)[:2])
    expected = 0 if not kept else FRAME_BYTES if kept < FRAME_BYTES else len(piece)
    assert expected == found.needed
    zeros = scan(whole + piece[:kept] + bytes(len(piece) + FRAME_BYTES))
    assert len(parts) + (piece[kept:].count(0) == len(piece) - kept) == len(zeros.entries)


@given(entries, st.data())
def test_a_changed_byte_ends_the_segment_before_its_entry(parts, data):
    """CRC-32 finds any change of one byte, in a frame or in an entry."""
    whole = bytearray(framed([*parts, b"last"]))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    found = scan(bytes(whole))

    assert found.end <= place
    assert found.entries == scan(framed([*parts, b"last"])).entries[: len(found.entries)]


@given(entries, st.binary(max_size=40))
def test_an_end_mark_ends_the_segment(parts, rest):
    """A reader goes on to the next segment there, and nowhere else."""
    data = framed(parts)
    found = scan(data + end_mark(len(parts)) + rest)

    assert (len(parts), len(data), True, 0) == (len(found.entries), *rest_of(found))


@given(entries, st.integers(0, 9), st.integers(0, 200))
def test_entries_up_to_an_id_are_passed(parts, after_id, kept):
    """Only their frames are needed: the piece may end within the last one's bytes."""
    data = framed(parts)
    places = [0, *(end for _, end, _, _ in scan(data).entries)]
    piece = data[:kept]
    passed = [n for n in range(min(after_id, len(parts))) if places[n] + FRAME_BYTES <= len(piece)]
    end = places[len(passed)]
    last_size = end - places[len(passed) - 1] if passed else 0
    is_found = len(passed) < len(parts) and end + FRAME_BYTES <= len(piece)

    assert (end, last_size, is_found) == skip(piece, after_id)


@pytest.mark.parametrize("rest", [end_mark(2), bytes(30), b"\xff" * 30])
def test_no_end_mark_and_no_damaged_length_is_passed(rest):
    """A reader must see the end of the segment, and the damage."""
    data = framed([b"first", b"second"])
    first = FRAME_BYTES + 5

    assert (len(data), FRAME_BYTES + 6, True) == skip(data + rest, 10**9)
    assert [(0, 0, True), (first, first, True)] == [skip(data + rest, after) for after in (0, 1)]


@given(st.binary(max_size=200), st.integers(0, 20))
def test_noise_is_no_entry(noise, start):
    """Nothing is raised for any bytes."""
    assert [] == scan(noise, start).entries
