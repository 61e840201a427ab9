"""The nearest right name."""

import pytest

from hedgehogd.domain.nearest import nearest


@pytest.mark.parametrize(
    ("name", "expected"),
    [("pair", "pairs"), ("channelx", "channels"), ("pairs", "pairs"), ("zzz", None), ("", None)],
)
def test_the_most_similar_name_is_offered(name, expected):
    """An unrelated name would send a person the wrong way."""
    assert nearest(name, ["channels", "pairs", "since"]) == expected
