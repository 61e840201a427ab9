"""The estimated memory of a message, a bound of the true one."""

from hedgehogd.engine.memory import weight
from hedgehogd.protocol.deflate import DEFLATE_BYTES_MIN
from tests.fakes import make_message


def test_a_message_that_is_kept_compressed_weighs_more():
    """Large messages have one form more."""
    small, large = (make_message("level2", filling="x" * n) for n in (1, DEFLATE_BYTES_MIN))

    assert weight(small) < 5 * len(small.payload) + 380
    assert weight(large) == 5 * len(large.payload) + 380
