"""Fixtures of a folder end with the folder's last test."""

from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_a_folder_with_fixtures_of_its_own_is_a_package():
    """pytest ends a fixture of a folder without ``__init__.py`` after the last test of all."""
    scope = 'scope="package"'
    folders = {path.parent for path in TESTS.rglob("*.py") if f"({scope})" in path.read_text()}

    assert folders
    assert [] == sorted(f.name for f in folders if not (f / "__init__.py").exists())
