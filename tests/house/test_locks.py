"""The locks: every package that pip installs, with its hashes, as pyproject.toml asks for it.

scripts/lock writes them. A script that installs without a lock fails here as well.
"""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = {path.stem: path for path in sorted((ROOT / "scripts/locks").glob("*.txt"))}
GROUPS = PROJECT["dependency-groups"]
RUN = PROJECT["project"]["dependencies"]
ASKED = {
    "run": RUN,
    "dev": [*RUN, *GROUPS["backend"], *GROUPS["dev"]],
    "build": [*RUN, *GROUPS["backend"], *GROUPS["build"]],
    **{name: GROUPS[name] for name in ("backend", "bill", "lock", "workflows", "compose")},
}
PYTHONS = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
ROW = re.compile(r"(?P<pin>\S.*?)(?P<hashes>(?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n")


def environment(python):
    """Return the marker environment of a shipped machine."""
    return default_environment() | {"python_version": python, "python_full_version": f"{python}.1"}


def pins(name, python=PYTHONS[0]):
    """Return name -> version of a lock, for one Python."""
    found = {}
    for row in ROW.finditer(LOCKS[name].read_text()):
        pin = Requirement(row["pin"])
        if pin.marker is None or pin.marker.evaluate(environment(python)):
            (version,) = pin.specifier
            assert version.operator == "=="
            assert canonicalize_name(pin.name) not in found
            found[canonicalize_name(pin.name)] = version.version
    return found


def test_each_group_has_a_lock():
    """Without a lock, the registry decides which versions of a group are installed."""
    assert LOCKS.keys() == ASKED.keys()
    assert {"backend", *ASKED} >= GROUPS.keys()


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_is_pins_with_hashes_and_names_no_registry(name):
    """A line without a hash, or a named registry, lets a third party choose the installed code."""
    text = LOCKS[name].read_text()

    assert ROW.sub("", text) == ""
    assert "://" not in text
    assert "@" not in text


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_is_what_pyproject_asks_for(name, python):
    """A dependency that was added or raised without scripts/lock is found here, not in CI's pip."""
    found = pins(name, python)

    for text in ASKED[name]:
        asked = Requirement(text)
        assert found[canonicalize_name(asked.name)] in asked.specifier, text


@pytest.mark.parametrize("python", PYTHONS)
def test_locks_of_one_environment_agree(python):
    """scripts/run installs run and backend together; tests run the shipped versions."""
    dev, build = pins("dev", python), pins("build", python)

    for name in ("run", "backend"):
        assert pins(name, python).items() <= dev.items()
        assert pins(name, python).items() <= build.items()
    shared = dev.keys() & build.keys()
    assert {name: dev[name] for name in shared} == {name: build[name] for name in shared}


def test_what_a_package_needs_is_locked_with_it():
    """pip is called without resolving: a pin that is missing would be missing at run time."""
    found, extras = pins("dev"), {"hypercorn": {"trio"}}
    present = {
        canonicalize_name(each.metadata["Name"]): each
        for each in importlib.metadata.distributions()
    }
    for name in found.keys() & present.keys():
        for text in present[name].requires or ():
            need = Requirement(text)
            wanted = [environment(PYTHONS[0]) | {"extra": e} for e in {"", *extras.get(name, ())}]
            if need.marker is None or any(need.marker.evaluate(each) for each in wanted):
                assert canonicalize_name(need.name) in found, f"{name} needs {text}"


def test_the_environment_of_this_run_is_the_locked_one():
    """Tests that pass with other versions prove nothing about the locked ones."""
    python = ".".join(map(str, __import__("sys").version_info[:2]))
    locked = pins("dev", python)
    found = {
        canonicalize_name(each.metadata["Name"]): each.version
        for each in importlib.metadata.distributions()
    }

    assert {name: found.get(name) for name in locked} == locked


def test_nothing_is_installed_without_a_hash():
    """Scripts and image install by hash; only hedgehogd itself comes without, from no registry."""
    for path in [
        *(ROOT / "scripts").glob("*"),
        ROOT / "Containerfile",
        *(ROOT / ".github").rglob("*.yml"),
    ]:
        if not path.is_file():
            continue
        text = re.sub(r"\\\n", " ", path.read_text())
        for line in re.findall(
            r"^[^#\n]*(?:pip(?:_install)?|uv) (?:install|wheel|\").*", text, re.MULTILINE
        ):
            calls = re.split(r"&&", line)
            for call in calls:
                if re.search(r"pip(_install)? (install|wheel|\")", call):
                    assert re.search(r"--require-hashes|--no-index|\"\$@\"", call), (
                        path.name,
                        call,
                    )
