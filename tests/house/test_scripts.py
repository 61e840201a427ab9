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
