"""The table of keys: every way to say a value, and what is no value."""

from dataclasses import fields

import pytest

from hedgehogd.settings.keys import BY_NAME, BY_VARIABLE, KEYS
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
