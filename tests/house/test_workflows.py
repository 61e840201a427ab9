"""The workflows on other machines run the parts of .ci/run, by scripts that a person can call."""

import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = {path.name: path for path in sorted((ROOT / ".github/workflows").glob("*.yml"))}
# Programs that only the place of publication has; there is nothing to script.
PROGRAMS = {"sha256sum", "gh", "buildah"}
# `sudo` and variables, then a program, then its arguments up to a pipe or a redirection.
CALL = re.compile(r"(?:sudo )?(?:\w+=\S+ )*([\w./-]+)([^|>]*).*")
# In .ci/run: the function that runs a part, and the part's name.
PART = re.compile(r'part "[^"]*"\s+')
SCRIPT = re.compile(r"scripts/[\w-]+")


def load(name):
    return yaml.safe_load(WORKFLOWS[name].read_text())


def steps(name):
    return [step for job in load(name)["jobs"].values() for step in job.get("steps", [])]


def run_lines(name):
    """Return every line that a workflow passes to a shell."""
    return [line for step in steps(name) if "run" in step for line in step["run"].splitlines()]


def script_calls(lines):
    """Return the scripts called; of scripts/test also the selected tests and their coverage."""
    calls = set()
    for line in lines:
        call = CALL.fullmatch(PART.sub("", line.strip()))
        if call and SCRIPT.fullmatch(call[1]):
            words = shlex.split(call[2])
            chosen = [
                word
                for before, word in zip(["", *words], words, strict=False)
                if word.startswith(("tests/", "--c", "--ignore")) or before == "-m"
            ]
            calls.add(" ".join([call[1], *chosen]))
    return calls


def test_ci_run_and_the_pipeline_call_the_same_scripts():
    """A change that passes in one and fails in the other would be noticed too late."""
    text = (ROOT / ".ci/run").read_text().replace("\\\n", " ")
    here, there = script_calls(text.splitlines()), script_calls(run_lines("ci.yml"))

    assert here - there == set(), "only in .ci/run"
    assert there - here == set(), "only in ci.yml"
    assert len(here) > 1


@pytest.mark.parametrize("name", WORKFLOWS)
def test_each_step_of_a_workflow_calls_a_script(name):
    """Code in a workflow can be tried nowhere else."""
    for line in run_lines(name):
        program = CALL.fullmatch(line)[1]
        if program not in PROGRAMS:
            assert SCRIPT.fullmatch(program), line
            assert os.access(ROOT / program, os.X_OK), f"{program} is missing or not executable"


def test_no_script_that_checks_or_builds_is_forgotten():
    """A script without a caller breaks without notice."""
    wanted = {
        f"scripts/{path.name}"
        for path in (ROOT / "scripts").iterdir()
        if path.is_file() and re.match(r"build-|check|lint-|test|release-", path.name)
    }
    reached = set()
    ahead = SCRIPT.findall("\n".join(run_lines("ci.yml") + run_lines("release.yml")))
    while ahead:
        script = ahead.pop()
        if script not in reached and (ROOT / script).is_file():
            reached.add(script)
            lines = (ROOT / script).read_text().splitlines()
            ahead += SCRIPT.findall(
                "\n".join(line for line in lines if not re.match(r"\s*#", line))
            )

    assert wanted - reached == set()


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_may_do_no_more_than_it_has_to(name):
    """It runs proposed changes of strangers, with actions that strangers publish."""
    writing = {
        job: [scope for scope, level in given["permissions"].items() if level == "write"]
        for job, given in load(name)["jobs"].items()
        if "permissions" in given
    }

    assert load(name)["permissions"] == {"contents": "read"}
    assert writing == (
        {"images": ["packages"], "release": ["contents"]} if name == "release.yml" else {}
    )


def test_actions_are_named_by_commit_with_their_version_beside():
    """A tag can be moved to other code; a commit cannot. One action has one commit everywhere."""
    found = [
        line.split("uses:", 1)[1].strip()
        for path in WORKFLOWS.values()
        for line in path.read_text().splitlines()
        if re.search(r"^\s*(- )?uses: (?!\./)", line)
    ]
    commits = {}
    for use in found:
        action = re.fullmatch(r"(actions/[\w-]+)@([0-9a-f]{40}) # v\d+\.\d+\.\d+", use)
        assert action, use
        commits.setdefault(action[1], set()).add(use)

    assert len(found) == sum("uses" in step for name in WORKFLOWS for step in steps(name))
    assert all(len(uses) == 1 for uses in commits.values())


def test_each_python_that_is_promised_is_tested():
    """Users rely on `requires-python` and the classifiers."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))

    assert load("ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python"] == promised
    assert project["requires-python"] == f">={promised[0]}"


CHANGELOG = """\
# Changelog

## [Unreleased]

- Not yet.

## [1.2.3] - 2026-11-30

### Added

- `--this` does that.

## [1.2.2] - 2026-10-30

## [1.2] - 2026-09-30

- Long ago.

[1.2.3]: there
"""


@pytest.mark.parametrize(
    ("ours", "asked", "printed", "complaint"),
    [
        ("1.2.3", "v1.2.3", "### Added\n\n- `--this` does that.\n", ""),
        ("1.2.3", "1.2.3", "### Added\n\n- `--this` does that.\n", ""),
        ("1.2", "v1.2", "- Long ago.\n", ""),
        ("1.2.3", "v1.2.4", "", "this is hedgehogd 1.2.3, not 1.2.4"),
        ("1.2.2", "v1.2.2", "", "CHANGELOG.md has no section [1.2.2], or nothing in it"),
        ("1.2.4", "v1.2.4", "", "CHANGELOG.md has no section [1.2.4], or nothing in it"),
    ],
)
def test_a_release_has_the_notes_of_its_version_or_there_is_none(
    tmp_path, ours, asked, printed, complaint
):
    """A mistyped tag must not be published."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "hedgehogd").mkdir()
    shutil.copy(ROOT / "scripts/release-notes", tmp_path / "scripts")
    (tmp_path / "hedgehogd/__init__.py").write_text(f'__version__ = "{ours}"\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)

    done = subprocess.run(
        [tmp_path / "scripts/release-notes", asked], text=True, capture_output=True, check=False
    )

    said = done.stderr.removeprefix("release-notes: ").strip()
    assert (done.stdout, said, done.returncode) == (printed, complaint, 1 if complaint else 0)


def test_the_projects_own_version_can_be_told():
    """scripts/release-notes reads it without Python, from a line that may change its form."""
    script = ROOT / "scripts/release-notes"
    done = subprocess.run([script, "v0.0.0"], text=True, capture_output=True, check=False)

    version = re.search(r"this is hedgehogd (.*), not 0\.0\.0", done.stderr)
    assert version
    assert f'__version__ = "{version[1]}"' in (ROOT / "hedgehogd/__init__.py").read_text()


@pytest.mark.parametrize("mark", ["campaign", "clients"])
def test_every_test_of_a_part_is_in_its_folder(mark):
    """CI runs the tests with this mark from the folder of that name alone."""
    marked = {
        path.parent.name
        for path in (ROOT / "tests").rglob("test_*.py")
        if f"pytest.mark.{mark}" in path.read_text()
    }

    assert {mark} == marked
