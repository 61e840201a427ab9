"""Short commands import few modules, so that each starts in a tenth of a second.

The test counts and names modules instead of measuring time: a count is the same on every
machine. An import of trio, Quart or structlog alone costs more than all of ``hedgehogd config``.
"""

import os
import subprocess
import sys

import pytest

from hedgehogd.commands.arguments import COMMANDS
from tests.log import past

# Third-party modules that a short command may import, with the reason.
ALLOWED = {
    "msgspec": "they decode records",
    "typing_extensions": "msgspec imports it",
}
WITH_MSGSPEC = ("export --pair", "store check")  # how such a command line begins
# Measured with Python 3.11: config 97, status 123 (no daemon), store --help 91; store check 147,
# export 163. Other versions of Python differ by some modules of their own; the daemon imports 900.
MODULES_MAX = 130
MODULES_WITH_MSGSPEC_MAX = 170

_PROGRAM = """\
import atexit, sys
before = set(sys.modules)
def report():
    with open(sys.argv[0], "w") as file:
        file.write("\\n".join(set(sys.modules) - before))
sys.argv = sys.argv[1:]
atexit.register(report)
from hedgehogd.cli import main
main(sys.argv[1:])
"""


@pytest.fixture
def imported(tmp_path):
    """Run a command line; return its exit status and the modules that it has imported."""
    environment = {"PATH": os.environ["PATH"]}

    def imported(*argv):
        report = tmp_path / "modules"
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(report), *argv],
            env=environment,
            capture_output=True,
            check=False,
        )
        return done.returncode, set(report.read_text().split())

    return imported


@pytest.fixture
def archive(tmp_path):
    """Return a directory with an archive of one message."""
    return str(past.write(tmp_path / "archive", [past.match(1)]))


def third_party(modules):
    """Return the top-level names of modules that neither Python nor hedgehogd has."""
    names = {module.split(".")[0] for module in modules}
    return names - sys.stdlib_module_names - {"hedgehogd"}


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("--version", 0),
        ("--help", 0),
        ("--feed demo --check", 0),
        ("config", 0),
        ("config --example", 0),
        ("haproxy-config", 0),
        ("status --port 1", 1),
        ("export --pair BTC-USD --history ARCHIVE -", 0),
        ("store check ARCHIVE", 0),
        *((f"{command} --help", 0) for command in COMMANDS),
        ("sevre", 64),
    ],
)
def test_a_short_command_imports_few_modules(imported, archive, words, status):
    """An operator waits for it; a health check runs ``status`` every few seconds."""
    found, modules = imported(*words.replace("ARCHIVE", archive).split())
    allowed, most = set(), MODULES_MAX
    if words.startswith(WITH_MSGSPEC):
        allowed, most = set(ALLOWED), MODULES_WITH_MSGSPEC_MAX

    assert found == status
    assert third_party(modules) <= allowed
    assert len(modules) <= most


def test_the_check_finds_a_heavy_import(imported):
    """``simulate`` needs trio and Quart."""
    _, modules = imported("simulate", "--fault", "help")

    assert {"trio", "quart", "structlog"} <= third_party(modules)
    assert len(modules) > MODULES_WITH_MSGSPEC_MAX
