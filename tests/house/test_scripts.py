import fcntl
import os
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = [
    "bash",
    "cat",
    "dirname",
    "flock",
    "mkdir",
    "readlink",
    "rm",
    "sha256sum",
]  # so: no apt-get, no python3
NO_ENSUREPIP = 'case "$2" in *ensurepip*) exit 1; esac'
TOO_OLD = 'case "$*" in -V) echo Python 3.9.2;; *version_info*) exit 1; esac'


@pytest.fixture
def machine(tmp_path):
    """A checkout on a machine with hardly any programs."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "bin").mkdir()
    for program in PROGRAMS:
        (tmp_path / "bin" / program).symlink_to(shutil.which(program))
    return tmp_path


def add_program(path, line):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def run(machine):
    command = [machine / "scripts/run", "--version"]
    return subprocess.run(command, env={"PATH": f"{machine}/bin"}, text=True, capture_output=True)


@pytest.mark.parametrize(
    ("python3", "advice"),
    [(None, "python3-venv"), (NO_ENSUREPIP, "python3-venv"), (TOO_OLD, "PYTHON=")],
)
def test_an_unfit_python_is_one_line_and_leaves_nothing_behind(machine, python3, advice):
    """The line names the remedy; a half-made .venv would break the next run."""
    if python3:
        add_program(machine / "bin/python3", python3)
    done = run(machine)
    assert (done.returncode, done.stderr.count("\n")) == (69, 1)
    assert advice in done.stderr
    assert not (machine / ".venv").exists()


@pytest.mark.parametrize("moved", [False, True])
def test_only_a_finished_venv_of_this_checkout_starts_at_once(machine, moved):
    """A moved .venv would run the code of its old place without notice."""
    add_program(machine / ".venv/bin/python", '[ "$1" = -c ] && echo /usr 3.11')
    add_program(machine / ".venv/bin/hedgehogd", 'echo started "$@"')
    locks = sorted((machine / "scripts/locks").glob("*.txt"))
    texts = [path.read_bytes() for path in (machine / "pyproject.toml", *locks)]
    project_hash = sha256(b"".join(texts)).hexdigest()
    place = f"{machine}{'/elsewhere' if moved else ''}"
    (machine / ".venv/.installed").write_text(f"{place} /usr 3.11\n{project_hash}  -\nrun\n")
    assert run(machine).stdout == ("" if moved else "started --version\n")


@pytest.mark.parametrize(
    ("installing", "venv", "waits"),
    [(".", ".venv", True), (".", "build/venv", False), ("build", "build/venv", True)],
)
def test_a_run_waits_for_the_one_that_makes_the_same_environment(machine, installing, venv, waits):
    """CI makes .venv and that of the package at once."""
    (machine / "build").mkdir()
    line = f"source scripts/bootstrap.sh; venv=$root/{venv}; bootstrap run"
    lock = os.open(machine / installing, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with subprocess.Popen(
            [machine / "bin/bash", "-c", line], cwd=machine, env={"PATH": f"{machine}/bin"},
            text=True, stderr=subprocess.PIPE,
        ) as waiting:  # fmt: skip
            first = waiting.stderr.readline()  # the next one says that there is no Python
            fcntl.flock(lock, fcntl.LOCK_UN)
            waiting.stderr.read()
    finally:
        os.close(lock)

    assert waits == ("waiting for it" in first)
    assert waiting.returncode == 69
