"""Settings for all tests, and fixtures for tests of the command line."""

import os
import shlex
import shutil
import sys
from pathlib import Path

import coverage
import hypothesis
import pytest
import structlog
from _pytest.nodeid import coerce_node_id

from hedgehogd.cli import run
from hedgehogd.logs import setup
from hedgehogd.settings import load as config

# No deadlines: the time of an example depends on the machine more than on hedgehogd.
# Each run draws other examples, so half of Hypothesis' default number is enough for one run.
hypothesis.settings.register_profile(
    "hedgehogd",
    deadline=None,
    max_examples=50,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("hedgehogd")

_TESTS = Path(__file__).parent
_FOLDER = pytest.StashKey[str]()


def pytest_addoption(parser):
    """``scripts/test tests/test_command.py --command dist/hedgehogd`` tests a build."""
    parser.addoption(
        "--command",
        help="the program that tests of the command line run; default this Python's hedgehogd",
    )


def pytest_collection_modifyitems(config, items):
    """Mark each Hypothesis test ``random``: it takes a hundred times as long as a plain test.

    Of ``--dist loadgroup`` pytest-xdist 3.8 puts the group into ``_nodeid``, which pytest 9.2 no
    longer reads: the tests of a group would run in any process. Here it is in the id itself.
    """
    for item in items:
        if getattr(item.obj, "is_hypothesis_test", False):
            item.add_marker("random")
        group = item.get_closest_marker("xdist_group")
        if group and getattr(config.option, "loadgroup", False):
            item._id = coerce_node_id(f"{item.nodeid}@{group.args[0]}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Make the folder of the test the context of the coverage data: ``tests/domain/``.

    One context for each test, as ``--cov-context`` makes, costs a fifth more CPU.
    """
    measured = coverage.Coverage.current()
    if measured is not None:
        folder = f"tests/{item.path.relative_to(_TESTS).parts[0]}/"
        if folder != item.config.stash.get(_FOLDER, None):
            item.config.stash[_FOLDER] = folder
            measured.switch_context(folder)


@pytest.fixture(autouse=True)
def logs_configured_as_before():
    """Fail a test that leaves its configuration of the logs to the tests after it."""
    before = _log_configuration()
    yield
    after = _log_configuration()
    if before != after:
        structlog.reset_defaults()
    assert before == after, "the test has left structlog configured otherwise"


def _log_configuration():
    found = structlog.get_config()
    return {**found, "processors": list(found["processors"])}


@pytest.fixture(scope="session")
def command(request):
    """The program under test, as the first words of a command line."""
    words = request.config.getoption("--command")
    if not words:
        return [sys.executable, "-m", "hedgehogd"]
    program, *arguments = shlex.split(words)
    return [str(shutil.which(program) or program), *arguments]


@pytest.fixture
def clean(monkeypatch, tmp_path):
    """Only the test's own configuration; no logs configured, no daemon started."""
    for name in list(os.environ):
        if name.startswith("HEDGEHOGD_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(config, "DEFAULT_FILE", tmp_path / "none.toml")
    monkeypatch.setattr(setup, "configure_logs", lambda *arguments: None)


@pytest.fixture
def run_command(clean, capsys):
    """Run with ``clean``, and return the status, stdout and stderr."""

    def run_command(*argv):
        try:
            status = run(argv)
        except SystemExit as end:
            status = end.code
        out, err = capsys.readouterr()
        return status, out, err

    return run_command
