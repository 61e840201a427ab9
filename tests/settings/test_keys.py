"""The keys: their names, their defaults, and which of them reload."""

from pathlib import Path

import pytest

from hedgehogd.settings.keys import BY_NAME, BY_VARIABLE, KEYS, Settings, reloaded
from hedgehogd.settings.load import shown


def test_a_key_has_one_name_of_each_kind() -> None:
    """Two keys with one flag or variable would silently set each other."""
    assert len(KEYS) == len(BY_NAME) == len(BY_VARIABLE) == len({key.flag for key in KEYS})
    assert all(key.variable == f"HEDGEHOGD_{key.field.upper()}" for key in KEYS)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_a_default_written_out_is_the_default(key) -> None:
    """An operator can copy the output of `config` into a file or a variable unchanged."""
    default = key.default
    if key.name == "serve.port":
        return  # 0 means "8000 + instance" and cannot be set
    if key.name in {"feed.credentials", "serve.runtime_dir"}:
        assert default == ""  # no value, which cannot be set
        return
    if default == "":
        pytest.fail("no other key has an empty text for its default")

    assert default == key.read(default)
    assert default == key.read(shown(default))


def test_a_reload_takes_the_keys_that_reload_and_names_the_rest() -> None:
    """The declaration of a key alone decides to which of the two it belongs."""
    old, new = Settings(), Settings(feed_lines=2, serve_bind="::1", log_level="debug")

    assert reloaded(old, new) == (
        Settings(log_level="debug"), ["log.level"], ["feed.lines", "serve.bind"]
    )  # fmt: skip
    assert reloaded(old, old) == (old, [], [])


@pytest.mark.parametrize(
    ("settings", "port"),
    [
        (Settings(), 8001),
        (Settings(instance=3), 8003),
        (Settings(instance=0), 8000),
        (Settings(instance=3, serve_port=9), 9),
    ],
)
def test_the_instance_number_means_a_port_unless_one_is_set(settings, port):
    """``hedgehogd@3`` needs no file to know its port."""
    assert settings.port == port


@pytest.mark.parametrize(
    ("where", "state", "expected"),
    [
        ("none", "/var/lib/hedgehogd", None),
        ("/mnt/h", "/var/lib/hedgehogd", Path("/mnt/h")),
        ("auto", "/var/lib/hedgehogd", Path("/var/lib/hedgehogd")),
        ("auto", "/var/lib/a:/var/lib/b", Path("/var/lib/a")),
        ("auto", None, None),
    ],
)
def test_a_set_history_directory_wins_then_systemds(where, state, expected):
    """Under systemd history is kept by default, without systemd only when it is set."""
    environment = {} if state is None else {"STATE_DIRECTORY": state}

    assert expected == Settings(history_where=where).history_directory(environment)
