"""The HAProxy configuration as a text; what HAProxy makes of it is in tests/cluster."""

import json
import re
from pathlib import Path

import pytest

from hedgehogd.commands.haproxy import (
    Cluster,
    addresses,
    clash_of,
    haproxy_config,
    instance_numbers,
    word,
)
from hedgehogd.domain import limits
from hedgehogd.settings.keys import Settings

pytestmark = pytest.mark.usefixtures("clean")
FILE = Path(__file__).parents[2] / "haproxy" / "haproxy.cfg"


def directives(text: str) -> list[str]:
    """Return the lines that HAProxy reads, without indentation."""
    return [line.strip() for line in text.splitlines() if line.strip() and line.strip()[0] != "#"]


def seconds(text: str, name: str) -> float:
    """Return the value of the timeout ``name``."""
    (value,) = re.findall(rf"^ +{name} (\d+)s$", text, re.MULTILINE)
    return float(value)


def test_the_file_in_the_package_is_what_the_command_prints(said):
    """Who copies the one and who runs the other get the same."""
    assert said("haproxy-config") == (0, FILE.read_text(), "")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("1-4", (1, 2, 3, 4)),
        ("1,3,5-7", (1, 3, 5, 6, 7)),
        (" 2 , 1 ", (2, 1)),
        ("0", (0,)),
        ("56535", (56535,)),
    ],
)
def test_a_set_of_instances_is_read_as_people_write_it(text, numbers):
    """Ranges and single ones, in their order."""
    assert instance_numbers(text) == numbers


@pytest.mark.parametrize(
    "text",
    ["", ",", "1-", "-1", "4-1", "a", "1;2", "1,1", "1-3,2", "56536", "1-101", "1-60,101-160", "١"],
)
def test_what_is_no_set_of_instances_is_refused(said, text):
    """A wrong set would be a configuration that sends clients nowhere."""
    status, out, err = said("haproxy-config", f"--instances={text}")

    assert (status, out) == (64, "")
    assert "--instances" in err


@pytest.mark.parametrize("text", ["a b", "", "a\nserver evil 6.6.6.6", "'", "a,,b", "#", "$HOME"])
def test_what_haproxy_would_read_as_more_than_a_word_is_refused(text):
    """A path or address must not become another directive."""
    with pytest.raises(ValueError, match="letters"):
        addresses(text)


@pytest.mark.parametrize("text", ["10.0.0.1:90", "300.1.1.1", "fe80::1%eth0", "1", "*,::g"])
def test_what_haproxy_cannot_listen_on_is_refused(text):
    """Told now, and not by a load balancer that does not come up again."""
    with pytest.raises(ValueError, match="without a port"):
        addresses(text)


def test_addresses_are_taken_as_they_are():
    """Both families, names, and all of them."""
    listed = ("*", "::", "10.0.0.1", "edge-1.example.org", "localhost", "2001:db8::1")
    assert addresses(", ".join(listed)) == listed


@pytest.mark.parametrize(
    "text", ["", ",", "proxy", "10.0.0.0/33", "fe80::1%eth0", "10.0.0.1:80", "*"]
)
def test_trusted_proxies_that_are_no_networks_are_refused(said, text):
    """HAProxy would look a name up once, at its start."""
    status, out, err = said("haproxy-config", f"--trusted-proxies={text}")

    assert (status, out) == (64, "")
    assert "--trusted-proxies" in err


def test_only_trusted_proxies_have_no_limit(said):
    """By default those whose headers the instances believe too."""
    _, text, _ = said("haproxy-config")
    _, other, _ = said("haproxy-config", "--trusted-proxies", "10.0.0.0/8, 2001:db8::/32")

    assert f"acl from_proxy src {' '.join(Settings().serve_trusted_proxies)}" in directives(text)
    assert "acl from_proxy src 10.0.0.0/8 2001:db8::/32" in directives(other)


def test_a_word_is_taken_as_it_is():
    """Paths and addresses of all kinds."""
    for text in ("/etc/ssl/private/a-b_1.pem", "*", "::1", "192.0.2.1", "fe80::1%eth0"):
        assert word(text) == text


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("--instances 404", "instance 404 and --statistics-port have the same port, 8404"),
        ("--port 8001", "instance 1 and --port have the same port, 8001"),
        (
            "--port 9002",
            "the operator listener of instance 2 and --port have the same port, 9002",
        ),
        (
            "--instances 1,1001",
            "instance 1001 and the operator listener of instance 1 have the same port, 9001",
        ),
        ("--port 443 --certificate a.pem", "--port and --https-port have the same port, 443"),
        ("--port 9 --statistics-port 9", "--port and --statistics-port have the same port, 9"),
        ("--port 0", "found '0'"),
    ],
)
def test_two_with_the_same_port_are_refused(said, argv, says):
    """HAProxy or an instance would fail to start, at a time when nobody thinks of this."""
    status, out, err = said("haproxy-config", *argv.split())

    assert (status, out) == (64, "")
    assert says in err


def test_the_https_port_is_free_where_there_is_no_certificate():
    """Nobody listens there then."""
    assert clash_of(Cluster(port=443)) == ""


def test_each_instance_stands_in_both_backends_with_its_port(said):
    """One for those with a feed, one for all that live."""
    _, text, _ = said("haproxy-config", "--instances", "2,9")
    servers = [line for line in directives(text) if line.startswith("server ")]

    assert servers == ["server 2 127.0.0.1:8002", "server 9 127.0.0.1:8009"] * 2


def test_no_timer_of_the_proxy_is_shorter_than_the_daemons_own():
    """A quiet stream is not cut, and whoever is cut for a reason hears it from the daemon."""
    text = haproxy_config(Cluster())

    assert seconds(text, "timeout client") > 2 * limits.KEEP_ALIVE_S
    assert seconds(text, "timeout server") > 2 * limits.KEEP_ALIVE_S
    assert seconds(text, "timeout tunnel") > limits.PEER_SILENCE_MAX_S + limits.KEEP_ALIVE_S
    assert seconds(text, "timeout http-request") >= limits.HEAD_TIMEOUT_S
    for name in ("timeout client-fin", "timeout server-fin"):
        assert seconds(text, name) > limits.GOODBYE_WRITTEN_S + limits.FAREWELL_S
    (unacked_s,) = re.findall(r"tcp-ut (\d+)s", text)
    assert float(unacked_s) > limits.BACKLOG_AGE_MAX_S + limits.GOODBYE_WRITTEN_S


def test_connections_are_what_the_instances_can_hold_or_what_was_said(said):
    """More would be refused by the instances, less is a waste."""
    each = limits.SUBSCRIBERS_MAX + limits.VISITORS_MAX + limits.CONTROL_REQUESTS_MAX
    _, text, _ = said("haproxy-config", "--instances", "1-3")
    _, fewer, _ = said("haproxy-config", "--connections-max", "77")

    assert f"maxconn {3 * each}" in directives(text)
    assert f"fd-hard-limit {2 * (3 * each + 100) + 200}" in directives(text)
    assert {"maxconn 77", "fd-hard-limit 554"} <= set(directives(fewer))


def test_https_comes_with_a_certificate_only(said):
    """On every address, beside HTTP."""
    _, plain, _ = said("haproxy-config")
    _, text, _ = said(
        "haproxy-config", "--certificate", "/c.pem", "--bind", "*,::", "--https-port", "8443"
    )
    binds = [line for line in directives(text) if line.startswith("bind ") and "ssl" in line]

    assert "ssl crt" not in plain
    assert binds == [
        "bind *:8443 tcp-ut 27s ssl crt /c.pem alpn h2,http/1.1",
        "bind [::]:8443 v6only tcp-ut 27s ssl crt /c.pem alpn h2,http/1.1",
    ]
    assert "bind [::]:80 v6only tcp-ut 27s" in directives(text)


def test_what_the_proxy_says_itself_is_json():
    """In the form of the daemon's errors, so that a client needs one reader only."""
    lines = directives(haproxy_config(Cluster()))
    bodies = [json.loads(body) for line in lines for body in re.findall(r"string '(.*?)'", line)]

    assert {body["error"]["code"] for body in bodies} == {"internal_server_error", "bad_gateway",
        "service_unavailable", "gateway_timeout", "too_many_requests"}  # fmt: skip
    assert all(body["error"]["message"] for body in bodies)


# The text


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
