"""The crash harness on a short schedule; by hand it runs hundreds of faults."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.log import faults

ROOT = Path(__file__).parents[2]
SCHEDULE = "--kills 5 --stops 3 --lease-s 0.3 --share 0.003 --usurp 0.01"
NAMESPACES = "--kills 2 --stops 1 --lease-s 0.3 --namespaces"


def run(options):
    command = [sys.executable, "-m", "tests.log.harness", *options.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)  # noqa: T201  # pytest shows the seed when it fails
    return done


@pytest.mark.e2e
def test_instances_that_are_killed_and_stopped_deliver_one_log():
    """One order, nothing lost that was published, nothing of a fenced writer, no torn record."""
    done = run(SCHEDULE)

    assert 0 == done.returncode
    assert "'killed writer'" in done.stdout
    assert "'stopped writer'" in done.stdout


@pytest.mark.e2e
def test_instances_may_each_be_process_1():
    """In containers all of them have the same process id."""
    if os.geteuid() != 0:
        pytest.skip("only root may make PID namespaces")
    done = run(NAMESPACES)

    assert 0 == done.returncode
    assert "'killed writer'" in done.stdout


@pytest.mark.parametrize("name", faults.MUTANTS)
def test_each_mutant_still_fits_the_source(name):
    """A mutant that changes nothing would seem to survive, or to die for another reason."""
    module, old, new = faults.MUTANTS[name]

    assert 1 == Path(module.__file__).read_text().count(old)
    assert old != new
