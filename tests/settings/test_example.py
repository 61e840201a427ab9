"""The example of a configuration file: complete, sound, and true to the defaults."""

import re
import tomllib
from pathlib import Path

import pytest

from hedgehogd.settings.example import example_file
from hedgehogd.settings.keys import BY_NAME, KEYS, Settings
from hedgehogd.settings.load import load

pytestmark = pytest.mark.usefixtures("clean")

UNIT = Path(__file__).resolve().parents[2] / "systemd/hedgehogd@.service"


def refuses_its_default(key):
    """True for a key that can be set but not be set to what it is without: no value says so."""
    try:
        key.read(getattr(Settings(), key.field))
    except ValueError:
        return True
    return False


def words():
    """Return the example's text on one line, whatever way it was wrapped."""
    return " ".join(example_file().replace("\n#", "\n").split())


def uncommented(*without):
    """Return the example with every value in force but those of the keys ``without``."""
    lines, section = [], ""
    for line in example_file().splitlines():
        section = line.strip("[]") if line.startswith("[") else section
        value = re.match(r"#(\w+) = ", line)
        if value and (f"{section}." if section else "") + value[1] not in without:
            line = line.removeprefix("#")
        lines.append(line)
    return "\n".join(lines)


def test_as_it_is_it_sets_nothing(tmp_path):
    """Installing a package must not decide anything."""
    file = tmp_path / "x.toml"
    file.write_text(example_file())

    assert not any(tomllib.loads(example_file()).values())
    assert set(load({}, {}, file).origins.values()) == {"default"}


def test_every_key_is_there_with_its_help():
    """What can be set is found where it is set."""
    tables = tomllib.loads(uncommented())
    found = {
        name
        for section, value in tables.items()
        for name in (
            [f"{section}.{key}" for key in value] if isinstance(value, dict) else [section]
        )
    }

    assert found == set(BY_NAME)
    for key in KEYS:
        assert " ".join(key.help.split()) in words()
    assert max(map(len, example_file().splitlines())) <= 100


def test_with_every_comment_sign_taken_away_it_says_the_defaults(tmp_path):
    """Else it would lie about what is in force."""
    file = tmp_path / "x.toml"
    file.write_text(uncommented(*(key.name for key in KEYS if refuses_its_default(key))))

    assert load({}, {}, file).settings == Settings()


def test_a_key_without_a_default_has_a_value_it_would_take(tmp_path):
    """An example that is refused when used is none."""
    file = tmp_path / "x.toml"
    file.write_text(uncommented())
    settings = load({}, {}, file).settings

    assert settings.port == Settings().port
    assert settings.feed_credentials == "DIR"
    assert words().count("; not set by default") == sum(map(refuses_its_default, KEYS))


@pytest.mark.parametrize(
    ("directive", "sentence"),
    [
        (
            "Environment=HEDGEHOGD_DRAIN_NOTICE_S=3",
            "hedgehogd@.service sets HEDGEHOGD_DRAIN_NOTICE_S=3",
        ),
        ("TimeoutStopSec=30", "below TimeoutStopSec= of hedgehogd@.service, which is 30 s"),
    ],
)
def test_what_it_says_of_the_unit_is_true(directive, sentence):
    """The two are read together, and changed apart."""
    assert directive in UNIT.read_text().splitlines()
    assert sentence in words()
