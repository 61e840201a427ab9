"""One relay for all clients, and their drivers."""

import pytest

from tests.clients import environments
from tests.clients.harness import command_of, relay

RATE = 5.0  # a client in Python keeps up with it on a busy machine
SEED = 20


@pytest.fixture(scope="package")  # later tests must not share the machine with a busy market
def relayed(tmp_path_factory):
    """Run a daemon and a busy exchange; no client may cause a traceback in either."""
    with relay(tmp_path_factory.mktemp("relay"), rate=RATE, seed=SEED) as running:
        yield running
    for log in running.logs:
        assert "Traceback" not in log.read_text(), log.read_text()


@pytest.fixture(scope="session")
def cbpro():
    return command_of(environments.CBPRO)


@pytest.fixture(scope="session")
def copra():
    return command_of(environments.COPRA)


@pytest.fixture(scope="session")
def coinbase_pro():
    return command_of(environments.COINBASE_PRO)
