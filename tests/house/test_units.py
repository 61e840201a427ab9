"""The unit files agree with the behaviour of the daemon.

A booted machine (``scripts/test-systemd``) shows that they work; these tests check the facts
that such a machine shows late or never.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from hedgehogd.domain import limits
from hedgehogd.domain.errors import EXIT_BUG, EXIT_CONFIG, EXIT_UNAVAILABLE, EXIT_USAGE
from hedgehogd.settings.credentials import NAMES
from hedgehogd.settings.keys import Settings
from hedgehogd.settings.load import load

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "systemd/hedgehogd@.service"


def directives(path):
    """Return the directives of a unit, each with all its values."""
    found = {}
    for line in path.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture(scope="module")
def unit():
    return directives(UNIT)


def test_a_drain_ends_before_systemd_loses_patience(unit):
    """A killed daemon sends no farewell to its subscribers."""
    notice_s = float(unit["Environment"][0].removeprefix("HEDGEHOGD_DRAIN_NOTICE_S="))
    settings = Settings(drain_notice_s=notice_s)

    assert settings.drain_notice_s + settings.drain_spread_s < settings.drain_timeout_s
    # After the time is up, a connection may still take its farewell's time.
    assert settings.drain_timeout_s + limits.FAREWELL_S < float(unit["TimeoutStopSec"][0])


def test_the_names_that_haproxy_passes_on_are_served(unit):
    """An instance on 127.0.0.1 refuses every host name but localhost by default."""
    variables = dict(each.split("=", 1) for each in unit["Environment"])

    assert load({}, variables, None).settings.serve_hosts == ("*",)
    assert Settings().serve_hosts == ()


def test_only_an_operators_mistakes_are_not_tried_again(unit):
    """A restart repairs a crash, but not a wrong configuration file."""
    never = set(map(int, unit["RestartPreventExitStatus"][0].split()))

    assert never == {EXIT_USAGE, EXIT_CONFIG}
    assert not never & {EXIT_BUG, EXIT_UNAVAILABLE}
    assert unit["Restart"] == ["on-failure"]
    assert unit["StartLimitIntervalSec"] == ["0"]


def test_there_are_files_enough_for_every_subscriber(unit):
    """Otherwise the daemon exits with 78 on a machine with an unchanged configuration."""
    assert int(unit["LimitNOFILE"][0]) >= limits.SUBSCRIBERS_MAX + limits.SPARE_FILES_MIN


def test_credentials_are_looked_for_by_name(unit):
    """With a path a missing file fails the start, and most machines have none."""
    assert unit["LoadCredential"] == list(NAMES)


def test_the_runtime_directory_belongs_to_no_instance(unit):
    """systemd removes a RuntimeDirectory= when the first instance stops."""
    (line,) = [
        line
        for line in (ROOT / "systemd/tmpfiles.d/hedgehogd.conf").read_text().splitlines()
        if not line.startswith("#")
    ]

    assert line.split() == ["d", "/run/hedgehogd", "0750", "hedgehogd", "hedgehogd", "-"]
    assert "RuntimeDirectory" not in unit
    assert unit["ExecStart"] == ["/usr/bin/hedgehogd --instance %i --runtime-dir /run/hedgehogd"]
    assert unit["ReadWritePaths"] == ["-/run/hedgehogd"]


def test_stopping_the_target_stops_the_instances_and_starting_it_starts_the_enabled(unit):
    """One command stops all instances; the package enables the target."""
    assert unit["PartOf"] == unit["WantedBy"] == ["hedgehogd.target"]
    assert directives(ROOT / "systemd/hedgehogd.target")["WantedBy"] == ["multi-user.target"]


@pytest.mark.parametrize("script", ["postinst", "prerm", "postrm"])
def test_scripts_of_the_package_are_sound_posix_shell(script):
    """dpkg runs them with any /bin/sh; a script that fails leaves a half-installed package."""
    path = ROOT / "scripts/packaging/debian" / script
    shell = shutil.which("dash") or "sh"

    assert path.stat().st_mode & 0o111
    assert path.read_text().startswith("#!/bin/sh\nset -e\n")
    assert subprocess.run([shell, "-n", path], check=False).returncode == 0
