"""Settings for all tests, and fixtures for those of the command line."""

import os
import shlex
import shutil
import sys

import hypothesis
import pytest

from hedgehogd import cli
from hedgehogd.cli import run
from hedgehogd.settings import load as config

# No timed asserts: how long an example takes says more about the machine than about us.
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
    """The program under test, as the beginning of a command line."""
    given = request.config.getoption("--command")
    if not given:
        return [sys.executable, "-m", "hedgehogd"]
    program, *arguments = shlex.split(given)
    return [str(shutil.which(program) or program), *arguments]


@pytest.fixture
def clean(monkeypatch, tmp_path):
    """No configuration but the test's own; no logs set up, no daemon started."""
    for name in list(os.environ):
        if name.startswith("HEDGEHOGD_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(config, "DEFAULT_FILE", tmp_path / "none.toml")
    monkeypatch.setattr(cli, "configure_logs", lambda *arguments: None)


@pytest.fixture
def said(capsys):
    """Run, and return the status, stdout and stderr."""

    def said(*argv):
        try:
            status = run(argv)
        except SystemExit as leaving:
            status = leaving.code
        out, err = capsys.readouterr()
        return status, out, err

    return said
