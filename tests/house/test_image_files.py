"""Containerfile and compose.yaml agree with the daemon, with HAProxy's file, and with each other.

scripts/test-image runs the images and shows that they work.
"""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

from hedgehogd.commands.haproxy import Cluster, haproxy_config, haproxy_parser
from hedgehogd.commands.simulate import simulate_parser
from hedgehogd.commands.status import status_parser
from hedgehogd.domain import limits
from hedgehogd.settings.keys import FIRST_PORT, KEYS
from hedgehogd.settings.load import load

ROOT = Path(__file__).resolve().parents[2]
INSTANCES = {1: "hedgehogd-1", 2: "hedgehogd-2", 3: "hedgehogd-3"}
CONTAINERFILE = (ROOT / "Containerfile").read_text()
COMPOSE = (ROOT / "compose.yaml").read_text()


def directive(name):
    """Return the argument of the last directive ``name`` in Containerfile."""
    return re.findall(rf"^{name} (.*(?:\\\n.*)*)", CONTAINERFILE, re.MULTILINE)[-1]


@pytest.fixture(scope="module")
def services():
    """The services of compose.yaml when no variable is set."""
    return yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", COMPOSE))["services"]


@pytest.fixture(scope="module")
def settings(services):
    """The settings of each instance."""
    return {
        number: load(
            {}, {key: str(value) for key, value in services[name]["environment"].items()}, None
        ).settings
        for number, name in INSTANCES.items()
    }


@pytest.fixture(scope="module")
def proxy_text():
    """HAProxy's file, as Containerfile makes it."""
    options = re.search(r'^ARG HAPROXY_OPTIONS="(.*)"', CONTAINERFILE, re.MULTILINE)[1]
    assert "haproxy-config --unprivileged ${HAPROXY_OPTIONS}" in CONTAINERFILE
    given = haproxy_parser().parse_args(["--unprivileged", *shlex.split(options)])
    return haproxy_config(Cluster(**vars(given)))


def seconds(text):
    return float(text.removesuffix("s"))


def test_every_variable_is_a_key(services):
    """The daemon ignores a misspelt variable, so only this test finds it."""
    known = {key.variable for key in KEYS}
    named = set(re.findall(r"HEDGEHOGD_[A-Z_]*[A-Z]", CONTAINERFILE + COMPOSE))

    assert named <= known
    assert {name for name in services if "HEDGEHOGD_INSTANCE" in str(services[name])} == set(
        INSTANCES.values()
    )


def test_haproxy_knows_just_these_instances(settings, proxy_text):
    """A server without an instance is always down; an instance without one gets no subscriber."""
    ports = {
        int(port)
        for port in re.findall(r"^\s*server \S+ 127\.0\.0\.1:(\d+)", proxy_text, re.MULTILINE)
    }

    assert ports == {FIRST_PORT + number for number in INSTANCES}
    assert {number: given.instance for number, given in settings.items()} == {
        number: number for number in INSTANCES
    }
    assert {given.serve_bind for given in settings.values()} == {"127.0.0.1"}
    assert {given.serve_hosts for given in settings.values()} == {("*",)}


def test_haproxy_listens_where_it_is_published_and_where_its_health_is_asked(services, proxy_text):
    """Otherwise the cluster starts, reports healthy and answers no request."""
    published = services["network"]["ports"][0].rpartition(":")[2]
    asked = services["haproxy"]["healthcheck"]["test"][-1].rpartition("/")[2]

    assert re.search(rf"^\s*bind \S*:{published}\b", proxy_text, re.MULTILINE)
    assert re.search(rf"^\s*bind 127\.0\.0\.1:{asked}\b", proxy_text, re.MULTILINE)
    assert directive("EXPOSE") == str(FIRST_PORT + 1)


def test_health_is_asked_of_the_instance_itself(services):
    """Otherwise the check of one instance could succeed by the answer of another."""
    for number, name in INSTANCES.items():
        kind, program, command, *flags = services[name]["healthcheck"]["test"]
        assert (kind, program, command) == ("CMD", "hedgehogd", "status")
        assert status_parser().parse_args(flags).instance == number
    assert re.search(r'CMD \["hedgehogd", "status"\]$', directive("HEALTHCHECK"))


def test_a_drain_ends_before_the_engine_loses_patience(services, settings):
    """A killed instance sends no farewell; HAProxy must see it leave before that."""
    for number, name in INSTANCES.items():
        given = settings[number]
        assert given.drain_notice_s > 1.5
        assert given.drain_notice_s + given.drain_spread_s < given.drain_timeout_s
        patience_s = seconds(services[name]["stop_grace_period"])
        assert given.drain_timeout_s + limits.FAREWELL_S < patience_s
        assert "haproxy" in services[name]["depends_on"]


def test_there_are_files_enough_for_every_subscriber(services, proxy_text):
    """Otherwise the daemon refuses to start, and HAProxy accepts fewer connections than stated."""
    connections_max = int(re.search(r"^\s*maxconn (\d+)", proxy_text, re.MULTILINE)[1])

    for name in INSTANCES.values():
        files = services[name]["ulimits"]["nofile"]
        assert files >= limits.SUBSCRIBERS_MAX + limits.SPARE_FILES_MIN
    assert services["haproxy"]["ulimits"]["nofile"] >= 2 * connections_max + 200


def test_the_instances_meet_in_one_folder_that_the_daemons_user_owns(services, settings):
    """Without it no instance answers for the streams of another; owned by root, none starts."""
    user, _, group = directive("USER").partition(":")
    volume = yaml.safe_load(COMPOSE)["volumes"]["runtime"]["driver_opts"]

    assert volume == {"type": "tmpfs", "device": "tmpfs", "o": f"uid={user},gid={group},mode=0750"}
    for number, name in INSTANCES.items():
        assert services[name]["volumes"] == [f"runtime:{settings[number].serve_runtime_dir}"]


def test_no_container_can_do_more_than_it_has_to(services):
    """Without one of these lines an intruder could write files or become root."""
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "cap_add", "pid", "user"} & set(service), name
    assert [name for name in services if "ports" in services[name]] == ["network"]
    assert {services[name].get("network_mode") for name in services if name != "network"} == {
        "service:network"
    }


def test_the_market_of_the_demo_is_the_one_that_the_head_names(services):
    """A user without internet access copies that line."""
    command, *flags = services["market"]["command"]

    assert command == "simulate"
    assert f"FEED=ws://127.0.0.1:{simulate_parser().parse_args(flags).port} docker" in COMPOSE


def test_what_is_copied_into_the_image_is_there_and_let_in():
    """A needed file that the ignore file excludes fails the build, which no unit test runs."""
    copied = [
        word
        for line in re.findall(r"^COPY (?!--)(.*) \S+$", CONTAINERFILE, re.MULTILINE)
        for word in line.split()
    ]
    lines = (ROOT / ".containerignore").read_text().splitlines()
    let_in = [line[1:] for line in lines if line.startswith("!")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert sorted(copied) == sorted(let_in)
    assert all((ROOT / name).exists() for name in copied)
    assert {project["readme"], *project["license-files"], "pyproject.toml"} <= set(copied)
    assert f'licenses="{project["license"]}"' in CONTAINERFILE
    assert directive("ENTRYPOINT") == f'["{next(iter(project["scripts"]))}"]'
