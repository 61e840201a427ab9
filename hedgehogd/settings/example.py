"""The configuration file as an example: every key with its meaning and its default.

``hedgehogd config --example`` prints it, and the Debian package installs it. Each value is
commented out: the file sets nothing until an operator edits it, and operators that did not
set a key get the new default when a later version changes it.
"""

import json
import textwrap
from itertools import groupby
from typing import Any

from hedgehogd.settings.keys import KEYS, Key, Settings

_WIDTH = 100
_HEAD = """\
# The configuration of hedgehogd: every key with its default.
#
# All instances of a machine read this file. Values for instance 3 alone are set in
# /etc/hedgehogd/3.env, as HEDGEHOGD_ + key in capitals, dots as underscores; such variables
# win over this file, flags over both.
#
# `hedgehogd --check` checks the file, `hedgehogd config` shows the values in force.
"""


def example_file() -> str:
    """Return the file; without the comment signs before its values it sets the defaults.

    The exception: a key without a default that a file can express has an example as its value.
    """
    parts = [_HEAD]
    by_section = sorted(KEYS, key=lambda key: ("." in key.name, _section_rank(key)))
    for section, keys in groupby(by_section, _section):
        parts.append(f"[{section}]\n" if section else "")
        parts.extend(_entry(key) for key in keys)
    return "\n".join(part for part in parts if part)


def _section(key: Key) -> str:
    return key.name.rpartition(".")[0]


def _section_rank(key: Key) -> int:
    """Return the sort rank of the section: sections have the order of their first keys."""
    return next(rank for rank, each in enumerate(KEYS) if _section(each) == _section(key))


def _entry(key: Key) -> str:
    value, without = _value(key)
    sentences = [key.help + without, key.note]
    text = "\n".join(line for each in sentences for line in textwrap.wrap(each, _WIDTH - 2))
    return f"{textwrap.indent(text, '# ')}\n#{key.name.rpartition('.')[2]} = {value}\n"


def _value(key: Key) -> tuple[str, str]:
    """Return the default in TOML, and an empty remark.

    If no value in a file can express the default: an example, and a remark about that.
    """
    try:
        key.read(key.default)
    except ValueError:
        stand_in = Settings().port if key.name == "serve.port" else key.metavar
        return _toml(stand_in), "; not set by default"
    return _toml(key.default), ""


def _toml(value: Any) -> str:
    """Return ``value`` in TOML; for texts, numbers and truth values that is the same as JSON."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)
