"""The table of keys: every way to say a value, and what is no value."""

from dataclasses import fields

import pytest

from hedgehogd.settings.keys import BY_NAME, BY_VARIABLE, KEYS, number, whole_number
from hedgehogd.settings.load import Settings, shown

DEFAULTS = {field.name: field.default for field in fields(Settings)}


def test_a_key_has_one_name_of_each_kind() -> None:
    """Two keys with one flag or variable would silently set each other."""
    assert len(KEYS) == len(BY_NAME) == len(BY_VARIABLE) == len({key.flag for key in KEYS})
    assert all(key.variable == f"HEDGEHOGD_{key.field.upper()}" for key in KEYS)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_a_default_written_out_is_the_default(key) -> None:
    """What `config` shows can be put into a file or a variable as it stands."""
    default = DEFAULTS[key.field]
    if key.name == "serve.port":
        return  # 0 stands for "8000 + instance" and cannot be asked for
    if key.name in {"feed.credentials", "serve.runtime_dir"}:
        assert default == ""  # none: nobody can ask for that
        return
    if default == "":
        pytest.fail("no other key has an empty text for its default")

    assert default == key.read(default)
    assert default == key.read(shown(default))


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
def test_what_is_a_value_and_what_is_not(read, right, wrong) -> None:
    """From the command line everything is text; from TOML it has a type."""
    for value in right:
        read(value)
    for value in wrong:
        with pytest.raises(ValueError, match=r"\w"):
            read(value)


def test_pairs_may_be_typed_small_and_twice() -> None:
    """Users say pair, and say it in small letters."""
    assert ("A-B", "C-D") == BY_NAME["feed.pairs"].read(" a-b, C-D,a-b,")
