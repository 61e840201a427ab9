"""``simulate``: its flags, and what the simulator gets of them."""

import pytest

from hedgehogd import simulator
from hedgehogd.simulator import Simulation
from hedgehogd.simulator.faults import KINDS

pytestmark = pytest.mark.usefixtures("clean")


def test_simulate_passes_on_what_was_asked(said, monkeypatch, tmp_path):
    """Flags are the simulator's only configuration."""
    seen = []

    async def serve_exchange(simulation, *, task_status):
        seen.append(simulation)
        task_status.started(cli_address)

    class cli_address:  # noqa: N801  # what a started exchange answers
        url, rest_url, seed = "ws://x", "http://x", 1

    monkeypatch.setattr(simulator, "serve_exchange", serve_exchange)
    argv = ["--port", "0", "--bind", "::1", "--seed", "5", "--pairs", "a-b,c-d"]
    argv += ["--rate", "2", "--speed", "3", "--require-auth"]
    argv += ["--fault", "sequence_gap", "--fault", "reset:30"]
    status, _, _ = said("simulate", *argv, "--recording", str(tmp_path))

    assert status == 0
    (simulation,) = seen
    assert (simulation.host, simulation.port, simulation.seed) == ("::1", 0, 5)
    assert simulation.pairs == ("A-B", "C-D")
    assert (simulation.rate, simulation.speed, simulation.recording) == (2.0, 3.0, tmp_path)
    assert (simulation.require_auth, simulation.control) == (True, True)
    assert simulation.faults == ("sequence_gap", "reset:30")


def test_simulate_lists_the_faults_it_knows(said):
    """With their parameters, and the way to fire one by hand."""
    status, out, err = said("simulate", "--fault", "help")

    assert (status, err) == (0, "")
    for name in KINDS:
        assert f"\n  {name}" in out
    assert "POST /faults/NAME" in out


def test_the_demo_of_a_daemon_has_no_faults():
    """Nobody can make a daemon's feed misbehave from outside."""
    simulation = Simulation()

    assert (simulation.faults, simulation.control, simulation.require_auth) == ((), False, False)
