"""The example of a configuration file: complete, valid, and true to the defaults."""

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
    """Report whether the default of ``key`` is no value that a file could set."""
    try:
        key.read(getattr(Settings(), key.field))
    except ValueError:
        return True
    return False


def words():
    """Return the example's text on one line, however it was wrapped."""
    return " ".join(example_file().replace("\n#", "\n").split())


def uncommented(*without):
    """Return the example with every value in force, except those of the keys ``without``."""
    lines, section = [], ""
    for line in example_file().splitlines():
        section = line.strip("[]") if line.startswith("[") else section
        value = re.match(r"#(\w+) = ", line)
        if value and (f"{section}." if section else "") + value[1] not in without:
            line = line.removeprefix("#")
        lines.append(line)
    return "\n".join(lines)


def test_the_example_as_installed_sets_nothing(tmp_path):
    """The installation of a package must not change a value."""
    file = tmp_path / "x.toml"
    file.write_text(example_file())

    assert not any(tomllib.loads(example_file()).values())
    assert set(load({}, {}, file).origins.values()) == {"default"}


def test_every_key_is_there_with_its_help():
    """An operator finds every key in the file where it is set."""
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


def test_without_comment_signs_the_example_sets_the_defaults(tmp_path):
    """Otherwise the example would show values that are not in force."""
    file = tmp_path / "x.toml"
    file.write_text(uncommented(*(key.name for key in KEYS if refuses_its_default(key))))

    assert load({}, {}, file).settings == Settings()


def test_a_key_without_a_default_has_a_valid_value(tmp_path):
    """An example with a refused value would be useless."""
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
def test_the_remarks_about_the_unit_are_true(directive, sentence):
    """The two files are read together, and edited apart."""
    assert directive in UNIT.read_text().splitlines()
    assert sentence in words()
