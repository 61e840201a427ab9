"""The unit files: what systemd is told agrees with what the daemon does.

That they work is shown by a booted machine; here is what such a machine cannot tell, or
tells too late.
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
    """Whoever is killed has not said goodbye to anybody."""
    notice_s = float(unit["Environment"][0].removeprefix("HEDGEHOGD_DRAIN_NOTICE_S="))
    settings = Settings(drain_notice_s=notice_s)

    assert settings.drain_notice_s + settings.drain_spread_s < settings.drain_timeout_s
    # After the time is up, a connection may still take its farewell's time.
    assert settings.drain_timeout_s + limits.FAREWELL_S < float(unit["TimeoutStopSec"][0])


def test_the_names_that_haproxy_passes_on_are_served(unit):
    """An instance listens on 127.0.0.1 and would refuse every name but localhost."""
    variables = dict(each.split("=", 1) for each in unit["Environment"])

    assert load({}, variables, None).settings.serve_hosts == ("*",)
    assert Settings().serve_hosts == ()


def test_only_an_operators_mistakes_are_not_tried_again(unit):
    """A crash at night is put right by a restart; a wrong file is not."""
    never = set(map(int, unit["RestartPreventExitStatus"][0].split()))

    assert never == {EXIT_USAGE, EXIT_CONFIG}
    assert not never & {EXIT_BUG, EXIT_UNAVAILABLE}
    assert unit["Restart"] == ["on-failure"]
    assert unit["StartLimitIntervalSec"] == ["0"]


def test_there_are_files_enough_for_every_subscriber(unit):
    """Else the daemon refuses to start, with 78, on a machine where nobody has changed anything."""
    assert int(unit["LimitNOFILE"][0]) >= limits.SUBSCRIBERS_MAX + limits.SPARE_FILES_MIN


def test_credentials_are_looked_for_by_name(unit):
    """By path, a missing file fails the start; most have none."""
    assert unit["LoadCredential"] == list(NAMES)


def test_the_runtime_directory_belongs_to_no_instance(unit):
    """systemd takes a RuntimeDirectory= away when the first instance stops."""
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
    """One word for all of them; the package enables the target."""
    assert unit["PartOf"] == unit["WantedBy"] == ["hedgehogd.target"]
    assert directives(ROOT / "systemd/hedgehogd.target")["WantedBy"] == ["multi-user.target"]


@pytest.mark.parametrize("script", ["postinst", "prerm", "postrm"])
def test_scripts_of_the_package_are_sound_posix_shell(script):
    """dpkg runs them by whatever /bin/sh is; one that fails leaves half a package behind."""
    path = ROOT / "scripts/packaging/debian" / script
    shell = shutil.which("dash") or "sh"

    assert path.stat().st_mode & 0o111
    assert path.read_text().startswith("#!/bin/sh\nset -e\n")
    assert subprocess.run([shell, "-n", path], check=False).returncode == 0
