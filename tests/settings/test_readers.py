"""Readers: valid and invalid values, as text and with a type."""

import pytest

from hedgehogd.settings.keys import BY_NAME
from hedgehogd.settings.readers import number, whole_number


@pytest.mark.parametrize(
    ("read", "right", "wrong"),
    [
        (whole_number(1, 9), [1, 9, "5"], [0, 10, 1.0, True, "", "x", "1.5", None, [1]]),
        (number(0.5, 2), [0.5, 2, "1e0", 1.5], [0.4, 2.1, "", "x", "nan", True, None, "inf"]),
        (BY_NAME["feed.only_pairs"].read, [True, "yes", "0", "FALSE"], ["", "maybe", 1, None]),
        (BY_NAME["feed.pairs"].read, ["a-b", ["A-B", "C-D"], ""], ["btc", "A-B,x", [1], 7]),
        (BY_NAME["feed.channels"].read, ["ticker,level2_50", []], ["tick", [None], {}]),
        (BY_NAME["feed.lines"].read, [1, "2"], [0, 3, "", None, True, 1.0]),
        (BY_NAME["feed.gap_patience_s"].read, [0, "0.05", 5], [-1, 5.5, "soon", None]),
        (BY_NAME["feed.credentials"].read, ["keys"], ["", 1, None]),
        (BY_NAME["log.level"].read, ["info"], ["INFO", "", 1, None]),
        (BY_NAME["serve.bind"].read, ["::1"], ["", 1, None]),
        (BY_NAME["serve.hosts"].read, ["", "*", "a,b", ["[::1]", "::1"]], ["a:1", "é", [1], 7]),
        (BY_NAME["serve.cors_origins"].read, ["", "*", ["https://a"]], ["a", "https://a/b", 7]),
        (
            BY_NAME["serve.operator_bind"].read,
            ["auto", "none", "127.0.0.1:1", "[::1]:65535", "localhost:9001"],
            [
                "",
                9001,
                None,
                "h",
                "h:",
                ":1",
                "h:x",
                "h:65536",
                "h:-1",
                "::1",
                "::1:1",
                "[::1]",
                "[h]:1",
                "[]:1",
                "]:1",
                "h:\u0661",
            ],
        ),
    ],
)
def test_a_reader_accepts_and_refuses(read, right, wrong) -> None:
    """On the command line every value is text; in TOML it has a type."""
    for value in right:
        read(value)
    for value in wrong:
        with pytest.raises(ValueError, match=r"\w"):
            read(value)


def test_pairs_may_be_in_small_letters_and_repeated() -> None:
    """Users write pairs in small letters."""
    assert ("A-B", "C-D") == BY_NAME["feed.pairs"].read(" a-b, C-D,a-b,A-B,")
