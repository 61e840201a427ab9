"""The HAProxy configuration as text; tests/cluster runs HAProxy with it."""

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
    """Return the lines that HAProxy parses, without indentation."""
    return [line.strip() for line in text.splitlines() if line.strip() and line.strip()[0] != "#"]


def seconds(text: str, name: str) -> float:
    """Return the value of the timeout ``name``."""
    (value,) = re.findall(rf"^ +{name} (\d+)s$", text, re.MULTILINE)
    return float(value)


def test_the_file_in_the_package_is_the_output_of_the_command(run_command):
    """An operator may copy the file or run the command."""
    assert run_command("haproxy-config") == (0, FILE.read_text(), "")


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
def test_a_set_of_instances_has_ranges_and_single_numbers(text, numbers):
    """In their order."""
    assert instance_numbers(text) == numbers


@pytest.mark.parametrize(
    "text",
    ["", ",", "1-", "-1", "4-1", "a", "1;2", "1,1", "1-3,2", "56536", "1-101", "1-60,101-160", "١"],
)
def test_an_invalid_set_of_instances_is_refused(run_command, text):
    """A wrong set would send clients to ports without an instance."""
    status, out, err = run_command("haproxy-config", f"--instances={text}")

    assert (status, out) == (64, "")
    assert "--instances" in err


@pytest.mark.parametrize("text", ["a b", "", "a\nserver evil 6.6.6.6", "'", "a,,b", "#", "$HOME"])
def test_a_text_of_more_than_one_word_is_refused(text):
    """A path or address must not become another directive."""
    with pytest.raises(ValueError, match="letters"):
        addresses(text)


@pytest.mark.parametrize("text", ["10.0.0.1:90", "300.1.1.1", "fe80::1%eth0", "1", "*,::g"])
def test_an_address_that_haproxy_cannot_listen_on_is_refused(text):
    """The error comes now, and not when a load balancer fails to start."""
    with pytest.raises(ValueError, match="without a port"):
        addresses(text)


def test_addresses_are_copied_unchanged():
    """Both families, names, and all addresses."""
    listed = ("*", "::", "10.0.0.1", "edge-1.example.org", "localhost", "2001:db8::1")
    assert addresses(", ".join(listed)) == listed


@pytest.mark.parametrize(
    "text", ["", ",", "proxy", "10.0.0.0/33", "fe80::1%eth0", "10.0.0.1:80", "*"]
)
def test_trusted_proxies_that_are_not_networks_are_refused(run_command, text):
    """HAProxy would look a name up once, at its start."""
    status, out, err = run_command("haproxy-config", f"--trusted-proxies={text}")

    assert (status, out) == (64, "")
    assert "--trusted-proxies" in err


def test_only_trusted_proxies_have_no_limit(run_command):
    """By default the proxies that the instances trust too."""
    _, text, _ = run_command("haproxy-config")
    _, other, _ = run_command("haproxy-config", "--trusted-proxies", "10.0.0.0/8, 2001:db8::/32")

    assert f"acl from_proxy src {' '.join(Settings().serve_trusted_proxies)}" in directives(text)
    assert "acl from_proxy src 10.0.0.0/8 2001:db8::/32" in directives(other)


def test_a_word_is_copied_unchanged():
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
def test_two_listeners_with_the_same_port_are_refused(run_command, argv, says):
    """HAProxy or an instance would fail at its next start."""
    status, out, err = run_command("haproxy-config", *argv.split())

    assert (status, out) == (64, "")
    assert says in err


def test_the_https_port_is_free_without_a_certificate():
    """HAProxy does not listen on it then."""
    assert clash_of(Cluster(port=443)) == ""


def test_each_instance_is_in_both_backends_with_its_port(run_command):
    """One backend has the instances with a feed, one all living instances."""
    _, text, _ = run_command("haproxy-config", "--instances", "2,9")
    servers = [line for line in directives(text) if line.startswith("server ")]

    assert servers == ["server 2 127.0.0.1:8002", "server 9 127.0.0.1:8009"] * 2


def test_no_timer_of_the_proxy_is_shorter_than_the_daemons_own():
    """A quiet stream stays open, and a stream that the daemon closes gets its reason from it."""
    text = haproxy_config(Cluster())

    assert seconds(text, "timeout client") > 2 * limits.KEEP_ALIVE_S
    assert seconds(text, "timeout server") > 2 * limits.KEEP_ALIVE_S
    assert seconds(text, "timeout tunnel") > limits.PEER_SILENCE_MAX_S + limits.KEEP_ALIVE_S
    assert seconds(text, "timeout http-request") >= limits.HEAD_TIMEOUT_S
    for name in ("timeout client-fin", "timeout server-fin"):
        assert seconds(text, name) > limits.GOODBYE_WRITTEN_S + limits.FAREWELL_S
    (unacked_s,) = re.findall(r"tcp-ut (\d+)s", text)
    assert float(unacked_s) > limits.BACKLOG_AGE_MAX_S + limits.GOODBYE_WRITTEN_S


def test_connections_are_as_many_as_the_instances_hold_or_as_set(run_command):
    """The instances would refuse more, and less is a waste."""
    each = limits.SUBSCRIBERS_MAX + limits.VISITORS_MAX + limits.CONTROL_REQUESTS_MAX
    _, text, _ = run_command("haproxy-config", "--instances", "1-3")
    _, fewer, _ = run_command("haproxy-config", "--connections-max", "77")

    assert f"maxconn {3 * each}" in directives(text)
    assert f"fd-hard-limit {2 * (3 * each + 100) + 200}" in directives(text)
    assert {"maxconn 77", "fd-hard-limit 554"} <= set(directives(fewer))


def test_https_needs_a_certificate(run_command):
    """On every address, besides HTTP."""
    _, plain, _ = run_command("haproxy-config")
    _, text, _ = run_command(
        "haproxy-config", "--certificate", "/c.pem", "--bind", "*,::", "--https-port", "8443"
    )
    binds = [line for line in directives(text) if line.startswith("bind ") and "ssl" in line]

    assert "ssl crt" not in plain
    assert binds == [
        "bind *:8443 tcp-ut 27s ssl crt /c.pem alpn h2,http/1.1",
        "bind [::]:8443 v6only tcp-ut 27s ssl crt /c.pem alpn h2,http/1.1",
    ]
    assert "bind [::]:80 v6only tcp-ut 27s" in directives(text)


def test_the_proxys_own_errors_are_json():
    """In the form of the daemon's errors, so that a client needs one parser only."""
    lines = directives(haproxy_config(Cluster()))
    bodies = [json.loads(body) for line in lines for body in re.findall(r"string '(.*?)'", line)]

    assert {body["error"]["code"] for body in bodies} == {"internal_server_error", "bad_gateway",
        "service_unavailable", "gateway_timeout", "too_many_requests"}  # fmt: skip
    assert all(body["error"]["message"] for body in bodies)


# The text


def test_a_server_that_goes_down_keeps_its_streams():
    """A drain marks a server down seconds before its streams get their farewell."""
    lines = directives(haproxy_config(Cluster()))

    assert not [line for line in lines if "on-marked-down" in line]


def test_an_ordinary_user_can_run_the_unprivileged_configuration(run_command):
    """It has no directive that needs root or a system's directories."""
    _, text, _ = run_command("haproxy-config", "--unprivileged")
    words_of = {line.split()[0] for line in directives(text)}

    assert not words_of & {"user", "group", "chroot"}
    assert "/run/" not in text


@pytest.mark.parametrize("cluster", [Cluster(), Cluster(unprivileged=True, certificate="/c.pem")])
def test_the_text_is_readable(cluster):
    """No placeholder is left, no gap is wider than a line, comments fit into a terminal."""
    text = haproxy_config(cluster)

    assert not re.search(r"[$]|\n\n\n|[ \t]\n|\t", text)
    assert max(len(line) for line in text.splitlines() if line.lstrip().startswith("#")) <= 100
    assert text.endswith("\n")


def test_every_named_condition_is_used():
    """A condition without a use would be a limit that is not enforced."""
    lines = directives(haproxy_config(Cluster()))
    named = {line.split()[1] for line in lines if line.startswith("acl ")}
    used = {word for line in lines if not line.startswith("acl ") for word in line.split()}

    assert named <= used
