"""Fixtures of a folder end with the folder's last test."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.fixture
def folders():
    """Return the folders of tests that share a fixture."""
    scope = 'scope="package"'
    return {path.parent for path in TESTS.rglob("*.py") if f"({scope})" in path.read_text()}


def test_a_folder_with_fixtures_of_its_own_is_a_package(folders):
    """pytest ends a fixture of a folder without ``__init__.py`` after the last test of all."""
    assert folders
    assert [] == sorted(f.name for f in folders if not (f / "__init__.py").exists())


def test_tests_that_share_a_fixture_run_in_one_process(folders):
    """Each process of pytest-xdist would start a cluster or a busy exchange of its own."""
    tests = {path: path.read_text() for f in folders for path in f.glob("test_*.py")}
    end_to_end = {path: text for path, text in tests.items() if "pytest.mark.e2e" in text}

    assert end_to_end
    assert [] == [path.name for path, text in end_to_end.items() if "xdist_group" not in text]


def test_the_tests_of_a_group_run_in_one_process(tmp_path):
    """pytest-xdist alone does not keep them together, see tests/conftest.py."""
    shutil.copy(TESTS / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = xdist_group(name): a group\n")
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.mark.xdist_group('one')\n"
        "@pytest.mark.parametrize('n', range(8))\n"
        "def test_it(n): pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-n2", "--dist=loadgroup", "test_it.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
        text=True,
        capture_output=True,
    )
    workers = re.findall(r"^\[(gw\d)\].* PASSED", done.stdout, re.MULTILINE)

    assert 8 == len(workers), done.stdout
    assert 1 == len(set(workers)), done.stdout
