"""Chunks: bytes of messages, shared by all subscribers that receive them."""

from hedgehogd.engine.chunk import Chunk
from hedgehogd.protocol.wire import SSE
from tests.fakes import make_message

FORM = SSE[False]


def make_chunk(*sequences, size=1):
    messages = [make_message("matches", sequence=n, filling="x" * size) for n in sequences]
    return Chunk([FORM.data(message, "") for message in messages], messages, list(sequences))


def test_a_chunk_joins_its_pieces_once():
    """A cohort of a thousand shares one chunk; a single piece is not even copied."""
    pieces = [b"one", b"three"]
    messages = [make_message("ticker"), make_message("heartbeat")]
    many = Chunk(pieces, messages, [7, 8])
    one = Chunk(pieces[:1], messages[:1], [7])

    assert (many.data, many.size, many.count) == (b"onethree", 8, 2)
    assert (many.pieces, many.messages, many.offsets) == (pieces, messages, [7, 8])
    assert one.data is pieces[0]


def test_a_placed_chunk_has_the_same_bytes_and_other_offsets():
    """Resuming subscribers share the bytes, but each has its own offset."""
    chunk = make_chunk(1, 2)
    placed = chunk.placed(9)

    assert placed.data is chunk.data
    assert (placed.offsets, chunk.offsets) == ([9, 9], [1, 2])
    assert (placed.messages, placed.count) == (chunk.messages, 2)


def test_the_bytes_of_pieces_are_dropped_when_a_chunk_has_to_wait():
    """A placed copy, made before or after, has the same ends."""
    chunk = make_chunk(1, 2)
    before, size = chunk.placed(9), len(chunk.pieces[0])
    ends = chunk.ends
    after = chunk.placed(9)

    assert list(ends) == [size, chunk.size]
    assert after.ends is ends
    assert list(before.ends) == [size, chunk.size]
    assert chunk.pieces == ()


def test_a_chunk_weighs_its_bytes_and_the_messages_that_it_keeps():
    """Small messages cost more than their bytes."""
    live, past = make_chunk(1, 2), make_chunk(1, 2)
    past.kept_bytes = 5000

    assert live.size < live.weight() < live.size + 1000
    assert past.placed(9).weight() == live.weight() + 5000
