"""Fixtures for the tests of the command line."""

import os

import pytest

from hedgehogd import cli, config
from hedgehogd.cli import run


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
