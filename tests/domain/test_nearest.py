"""The valid name most similar to a misspelled one."""

import pytest

from hedgehogd.domain.nearest import nearest


@pytest.mark.parametrize(
    ("name", "expected"),
    [("pair", "pairs"), ("channelx", "channels"), ("pairs", "pairs"), ("zzz", None), ("", None)],
)
def test_the_most_similar_name_is_suggested(name, expected):
    """An unrelated name would mislead a person."""
    assert nearest(name, ["channels", "pairs", "since"]) == expected
