"""The text of the HAProxy configuration: what it may not say, and that people can read it."""

import re

import pytest

from hedgehogd.commands.haproxy import Cluster, haproxy_config

pytestmark = pytest.mark.usefixtures("clean")


def directives(text: str) -> list[str]:
    """Return the lines that HAProxy reads, without indentation."""
    return [line.strip() for line in text.splitlines() if line.strip() and line.strip()[0] != "#"]


def test_a_server_that_goes_down_keeps_its_streams():
    """A drain marks it down seconds before its streams get their farewell."""
    lines = directives(haproxy_config(Cluster()))

    assert not [line for line in lines if "on-marked-down" in line]


def test_an_ordinary_user_can_run_the_unprivileged_one(said):
    """Nothing in it that only root may do, or that needs a system's directories."""
    _, text, _ = said("haproxy-config", "--unprivileged")
    words_of = {line.split()[0] for line in directives(text)}

    assert not words_of & {"user", "group", "chroot"}
    assert "/run/" not in text


@pytest.mark.parametrize("cluster", [Cluster(), Cluster(unprivileged=True, certificate="/c.pem")])
def test_a_person_can_read_it(cluster):
    """No placeholder is left, no gap is wider than a line, comments fit into a terminal."""
    text = haproxy_config(cluster)

    assert not re.search(r"[$]|\n\n\n|[ \t]\n|\t", text)
    assert max(len(line) for line in text.splitlines() if line.lstrip().startswith("#")) <= 100
    assert text.endswith("\n")


def test_every_named_condition_is_used():
    """One that is not would be a limit that nobody enforces."""
    lines = directives(haproxy_config(Cluster()))
    named = {line.split()[1] for line in lines if line.startswith("acl ")}
    used = {word for line in lines if not line.startswith("acl ") for word in line.split()}

    assert named <= used
