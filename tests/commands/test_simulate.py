"""``simulate``: its flags, and the simulation made of them."""

import pytest

from hedgehogd import simulator
from hedgehogd.simulator import Simulation
from hedgehogd.simulator.faults import KINDS

pytestmark = pytest.mark.usefixtures("clean")


def test_simulate_passes_its_flags_on(run_command, monkeypatch, tmp_path):
    """Flags are the simulator's only configuration."""
    seen = []

    async def serve_exchange(simulation, *, task_status):
        seen.append(simulation)
        task_status.started(cli_address)

    class cli_address:  # noqa: N801  # the address of a started exchange
        url, rest_url, seed = "ws://x", "http://x", 1

    monkeypatch.setattr(simulator, "serve_exchange", serve_exchange)
    argv = ["--port", "0", "--bind", "::1", "--seed", "5", "--pairs", "a-b,c-d"]
    argv += ["--rate", "2", "--speed", "3", "--require-auth"]
    argv += ["--fault", "sequence_gap", "--fault", "reset:30"]
    status, _, _ = run_command("simulate", *argv, "--recording", str(tmp_path))

    assert status == 0
    (simulation,) = seen
    assert (simulation.host, simulation.port, simulation.seed) == ("::1", 0, 5)
    assert simulation.pairs == ("A-B", "C-D")
    assert (simulation.rate, simulation.speed, simulation.recording) == (2.0, 3.0, tmp_path)
    assert (simulation.require_auth, simulation.control) == (True, True)
    assert simulation.faults == ("sequence_gap", "reset:30")


def test_simulate_lists_the_faults(run_command):
    """With their parameters, and the way to fire one by hand."""
    status, out, err = run_command("simulate", "--fault", "help")

    assert (status, err) == (0, "")
    for name in KINDS:
        assert f"\n  {name}" in out
    assert "POST /faults/NAME" in out


def test_the_demo_of_a_daemon_has_no_faults():
    """No client can inject faults into a daemon's feed."""
    simulation = Simulation()

    assert (simulation.faults, simulation.control, simulation.require_auth) == ((), False, False)
