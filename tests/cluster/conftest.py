"""One cluster for all tests; a test that breaks it repairs it."""

import subprocess
from pathlib import Path

import pytest

from tests.cluster.harness import machine

# A drain of observable length, and subscribers that may be slow for two seconds.
FLAGS = ("--pairs", "BTC-USD", "--drain-notice-s", "3.5", "--drain-spread-s", "0.5",
    "--backlog-age-max-s", "2")  # fmt: skip


@pytest.fixture(scope="package")
def running(tmp_path_factory):
    with machine(tmp_path_factory.mktemp("cluster"), 3, *FLAGS) as cluster:
        yield cluster


@pytest.fixture
def cluster(running):
    """The cluster, complete before and after the test."""
    yield running
    running.restore()


@pytest.fixture(scope="package")
def certificate(tmp_path_factory) -> Path:
    """Return a PEM file of a self-signed certificate and its key."""
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    command += f" -keyout {folder}/key.pem -out {folder}/certificate.pem"
    subprocess.run(command.split(), check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_text((folder / "certificate.pem").read_text() + (folder / "key.pem").read_text())
    return both
