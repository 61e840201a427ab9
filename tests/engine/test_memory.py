"""What messages weigh: a bound of the memory that they take."""

from hedgehogd.engine.memory import weight
from hedgehogd.protocol.deflate import DEFLATE_BYTES_MIN
from tests.fakes import make_message


def test_what_is_held_compressed_weighs_more():
    """Large messages have one form more."""
    small, large = (make_message("level2", filling="x" * n) for n in (1, DEFLATE_BYTES_MIN))

    assert weight(small) < 5 * len(small.payload) + 380
    assert weight(large) == 5 * len(large.payload) + 380
