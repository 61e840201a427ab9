"""Test processes share no port."""

import pytest

from tests.cluster import harness as cluster
from tests.e2e import harness as e2e
from tests.ports import share


@pytest.fixture(params=[2, 4])
def worker(request, monkeypatch):
    """Return a function that makes this process one of several."""

    def worker(number):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", f"gw{number}")
        monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", str(request.param))

    worker.count = request.param
    return worker


def test_a_single_process_has_all(monkeypatch):
    """``pytest`` without ``-n``."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    monkeypatch.delenv("PYTEST_XDIST_WORKER_COUNT", raising=False)

    assert range(10) == share(range(10))


def test_every_value_belongs_to_one_process(worker):
    """A crashed process is replaced by one with a higher number."""
    shares = []
    for number in range(worker.count):
        worker(number)
        shares.append(share(range(10)))
    worker(worker.count)

    assert list(range(10)) == sorted(value for values in shares for value in values)
    assert shares[0] == share(range(10))


def test_two_processes_draw_different_ports(worker, monkeypatch):
    """An instance listens on two ports, 8000 and 9000 above its number."""
    drawn = []
    for number in range(2):
        worker(number)
        monkeypatch.setattr(e2e, "_DRAWN", set())
        single = {e2e.free_port() for _ in range(100)}
        numbers = {each for _ in range(100) for each in cluster.free_numbers(4)}
        drawn.append(single | {base + each for each in numbers for base in (8000, 9000)})

    assert set() == drawn[0] & drawn[1]
