"""Settings for all tests, and fixtures for tests of the command line."""

import os
import shlex
import shutil
import sys

import hypothesis
import pytest

from hedgehogd.cli import run
from hedgehogd.logs import setup
from hedgehogd.settings import load as config

# No deadlines: the duration of an example depends on the machine more than on the code.
hypothesis.settings.register_profile(
    "hedgehogd",
    deadline=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("hedgehogd")


def pytest_addoption(parser):
    """``scripts/test tests/test_command.py --command dist/hedgehogd`` tests a build."""
    parser.addoption(
        "--command", help="what tests of the command line run; default this Python's hedgehogd"
    )


@pytest.fixture(scope="session")
def command(request):
    """Return the command line of the program under test."""
    option = request.config.getoption("--command")
    if not option:
        return [sys.executable, "-m", "hedgehogd"]
    program, *arguments = shlex.split(option)
    return [str(shutil.which(program) or program), *arguments]


@pytest.fixture
def clean(monkeypatch, tmp_path):
    """Remove all configuration except the test's own; set up no logs."""
    for name in list(os.environ):
        if name.startswith("HEDGEHOGD_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(config, "DEFAULT_FILE", tmp_path / "none.toml")
    monkeypatch.setattr(setup, "configure_logs", lambda *arguments: None)


@pytest.fixture
def said(capsys):
    """Run the command line, and return the status, stdout and stderr."""

    def said(*argv):
        try:
            status = run(argv)
        except SystemExit as end:
            status = end.code
        out, err = capsys.readouterr()
        return status, out, err

    return said
