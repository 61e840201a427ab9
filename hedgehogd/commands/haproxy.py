"""``hedgehogd haproxy-config``: the configuration of HAProxy for the instances of one machine.

``haproxy.cfg.template`` is the text; its comments give the reasons to the operator. This module
has the flags, and computes from them and from the limits of the daemon the values that replace
``$name`` in the template.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from importlib.resources import files
from ipaddress import ip_address, ip_network
from string import Template
from typing import Any, NamedTuple

from hedgehogd.commands.arguments import Parser, checked, new_parser
from hedgehogd.domain import limits
from hedgehogd.domain.errors import EXIT_USAGE, OperatorError
from hedgehogd.settings.keys import FIRST_OPERATOR_PORT, FIRST_PORT, INSTANCE_MAX
from hedgehogd.settings.readers import PORT_MAX, whole_number

STATISTICS_CONNECTIONS_MAX = 100
_SPARE_FILES = 200  # listeners, checks, logs
# Limits of one address. A bot holds some tens of streams and sends a few requests a second; an
# office of bots with one public address stays below the limits, even when all of them reconnect
# after a restart.
ADDRESS_CONNECTIONS_MAX = 1000
ADDRESS_REQUESTS_MAX = 2000
# Proxies with a trusted X-Forwarded-For: the default of the instances too.
TRUSTED_PROXIES = ("127.0.0.1", "::1")

# Above the interval of pings and comments (KEEP_ALIVE_S), so that no quiet stream is closed ...
QUIET_MAX_S = round(4 * limits.KEEP_ALIVE_S)
# ... and above the silence after which the daemon itself closes a WebSocket.
TUNNEL_QUIET_MAX_S = round(limits.PEER_SILENCE_MAX_S + 2 * limits.KEEP_ALIVE_S)
# A farewell may wait this long until the bytes before it in the buffers are sent.
HALF_CLOSED_MAX_S = round(limits.GOODBYE_WRITTEN_S + limits.FAREWELL_S + 3)

# HAProxy's own answers: status, code, message, seconds of Retry-After. Requests that are not HTTP
# (400, 408) get HAProxy's built-in page in any case.
_OWN_ANSWERS = (
    (500, "internal_server_error", "internal error of the load balancer", 0),
    (502, "bad_gateway", "the instance closed the connection before it answered; try again", 0),
    (503, "service_unavailable", "no instance can be reached; try again in a moment", 1),
    (504, "gateway_timeout", "the instance did not answer in time; try again", 0),
)
_TOO_MANY = "too many requests or connections from your address; wait ten seconds"

# The lines of the section "global" that depend on flags.
_DEBIAN = """
    log /dev/log local0
    user haproxy
    group haproxy
    chroot /var/lib/haproxy
    # For the operator, through socat: "show servers state", "set server ready/2 state drain".
    stats socket /run/haproxy/admin.sock mode 660 level admin
"""
_UNPRIVILEGED = """
    log stdout format raw local0 notice
"""
_TLS = "    ssl-default-bind-options ssl-min-ver TLSv1.2\n"

_ITEM = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)
_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9.-]+")
_WORD = re.compile(r"[A-Za-z0-9*:._%/@+-]+")  # no character that ends a word for HAProxy


class Cluster(NamedTuple):
    """The instances behind HAProxy, and its public side.

    Attributes:
        instances: numbers of the daemons; number N listens on 127.0.0.1, port 8000+N.
        bind: public addresses; ``*`` is every IPv4 address, ``::`` every IPv6 one.
        port: public port for HTTP.
        https_port: public port for HTTPS, in use with a certificate.
        certificate: PEM file of certificate, chain and key; empty for no HTTPS.
        statistics_port: port on 127.0.0.1 for the statistics page and Prometheus.
        connections_max: open public connections; 0 for as many as the instances can hold.
        address_connections_max: open connections of one address, and new ones in 10 s.
        address_requests_max: requests of one address in 10 s.
        trusted_proxies: addresses or networks of proxies in front of HAProxy that name the
            client.
        unprivileged: HAProxy keeps the user that starts it and logs to standard output.
    """

    instances: tuple[int, ...] = (1, 2, 3, 4)
    bind: tuple[str, ...] = ("*",)
    port: int = 80
    https_port: int = 443
    certificate: str = ""
    statistics_port: int = 8404
    connections_max: int = 0
    address_connections_max: int = ADDRESS_CONNECTIONS_MAX
    address_requests_max: int = ADDRESS_REQUESTS_MAX
    trusted_proxies: tuple[str, ...] = TRUSTED_PROXIES
    unprivileged: bool = False


def instance_numbers(text: str) -> tuple[int, ...]:
    """Read a set of instances such as ``1-4`` or ``1,3,5-7``.

    Raises:
        ValueError: with the words that follow "expected".
    """
    found: list[int] = []
    for item in text.split(","):
        match = _ITEM.fullmatch(item.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last <= INSTANCE_MAX or last - first >= limits.INSTANCES_MAX:
            raise ValueError("numbers of instances such as 1-4 or 1,3,5-7")
        found += range(first, last + 1)
    if len(found) > limits.INSTANCES_MAX:
        raise ValueError(f"at most {limits.INSTANCES_MAX} instances")
    if len(found) > len(set(found)):
        raise ValueError("each instance once")
    return tuple(found)


def word(text: str) -> str:
    """Read an address or a path that HAProxy parses as one word.

    Raises:
        ValueError: with the words that follow "expected".
    """
    if not _WORD.fullmatch(text):
        raise ValueError("letters, digits and *:._%/@+- only")
    return text


def addresses(text: str) -> tuple[str, ...]:
    """Read addresses to listen on, separated by commas: ``*``, names, IPv4 and IPv6.

    Raises:
        ValueError: with the words that follow "expected".
    """
    found = tuple(word(item.strip()) for item in text.split(","))
    for item in found:
        if item != "*" and not _NAME.fullmatch(item) and not _is_ip_address(item):
            raise ValueError(f"addresses without a port, and {item!r} is not one")
    return found


def networks(text: str) -> tuple[str, ...]:
    """Read addresses and networks, separated by commas.

    Raises:
        ValueError: with the words that follow "expected".
    """
    found = tuple(item.strip() for item in text.split(",") if item.strip())
    for item in found:
        try:
            ip_network(item, strict=False)
        except ValueError:
            raise ValueError(
                f"addresses or networks such as 10.0.0.0/8; {item!r} is not one"
            ) from None
        if "%" in item:
            raise ValueError("addresses without a zone")
    if not found:
        raise ValueError("an address or a network")
    return found


def _is_ip_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text  # HAProxy does not support zones


def ports_of(cluster: Cluster) -> list[tuple[str, int]]:
    """Return every port of the instances and of HAProxy, each with the name of its user."""
    found = [(f"instance {number}", FIRST_PORT + number) for number in cluster.instances]
    found += [
        (f"the operator listener of instance {number}", FIRST_OPERATOR_PORT + number)
        for number in cluster.instances
    ]
    found += [("--port", cluster.port), ("--statistics-port", cluster.statistics_port)]
    return [*found, ("--https-port", cluster.https_port)] if cluster.certificate else found


def clash_of(cluster: Cluster) -> str:
    """Return an error text when two listeners have the same port; empty when no two have."""
    users: dict[int, str] = {}
    for name, port in ports_of(cluster):
        if port in users:
            return f"{users[port]} and {name} have the same port, {port}"
        users[port] = name
    return ""


def haproxy_config(cluster: Cluster) -> str:
    """Return the whole configuration file; the ports of ``cluster`` must not clash."""
    count = len(cluster.instances)
    visitors = limits.VISITORS_MAX + limits.CONTROL_REQUESTS_MAX
    connections = cluster.connections_max or count * (limits.SUBSCRIBERS_MAX + visitors)
    values: dict[str, object] = {
        "address_connections_max": cluster.address_connections_max,
        "address_requests_max": cluster.address_requests_max,
        "binds": "\n".join(_bind_lines(cluster)),
        "buffer_bytes": limits.SEND_BUFFER_BYTES,
        "connections_max": connections,
        "errors": "\n".join(
            f"    http-error status {status} {_json_answer(code, message, retry_after_s)}"
            for status, code, message, retry_after_s in _OWN_ANSWERS
        ),
        "files_max": 2 * (connections + STATISTICS_CONNECTIONS_MAX) + _SPARE_FILES,
        "half_closed_max_s": HALF_CLOSED_MAX_S,
        "head_timeout_s": round(limits.HEAD_TIMEOUT_S),
        "keep_alive_s": round(limits.KEEP_ALIVE_S),
        "process": (_UNPRIVILEGED if cluster.unprivileged else _DEBIAN).strip("\n"),
        "quiet_max_s": QUIET_MAX_S,
        "servers": "\n".join(
            f"    server {number} 127.0.0.1:{FIRST_PORT + number}" for number in cluster.instances
        ),
        "statistics_connections_max": STATISTICS_CONNECTIONS_MAX,
        "statistics_port": cluster.statistics_port,
        "subscribers_max": limits.SUBSCRIBERS_MAX,
        "tls": _TLS if cluster.certificate else "",
        "too_many": _json_answer("too_many_requests", _TOO_MANY, 10),
        "trusted_proxies": " ".join(cluster.trusted_proxies),
        "tunnel_quiet_max_s": TUNNEL_QUIET_MAX_S,
        "visitors_max": visitors,
    }
    text = files("hedgehogd.commands").joinpath("haproxy.cfg.template").read_text("utf-8")
    return Template(text).substitute(values)


def _json_answer(code: str, message: str, retry_after_s: int) -> str:
    """Return the arguments of an HAProxy directive that answers like the daemon's errors.

    There is no ``Retry-After`` if ``retry_after_s`` is 0.
    """
    body = f'{{"error":{{"code":"{code}","message":"{message}"}}}}'
    retry = f" hdr Retry-After {retry_after_s}" if retry_after_s else ""
    return f"content-type application/json string '{body}'{retry}"


def _bind_lines(cluster: Cluster) -> list[str]:
    """Return the ``bind`` lines of the public frontend: HTTP, and HTTPS with a certificate."""
    options = f"tcp-ut {limits.UNACKED_MAX_S:g}s"
    secure = f"{options} ssl crt {cluster.certificate} alpn h2,http/1.1"
    lines = [f"    bind {_address(host, cluster.port)} {options}" for host in cluster.bind]
    if cluster.certificate:
        lines += [f"    bind {_address(h, cluster.https_port)} {secure}" for h in cluster.bind]
    return lines


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port} v6only" if ":" in host else f"{host}:{port}"


def haproxy_parser() -> Parser:
    """Return the parser of ``haproxy-config``; its values are fields of ``Cluster``.

    A flag that is absent has no value, so that the default of ``Cluster`` applies; only
    ``--unprivileged`` is then False.
    """
    parser = new_parser(
        "haproxy-config",
        "Print the configuration of HAProxy in front of the instances of this machine,\n"
        "for example to /etc/haproxy/haproxy.cfg.",
    )
    default = Cluster()
    port = checked(whole_number(1, PORT_MAX))
    count = checked(whole_number(1, 10_000_000))

    def add(flag: str, read: Callable[[str], Any], metavar: str, text: str) -> None:
        parser.add_argument(flag, type=read, metavar=metavar, default=argparse.SUPPRESS, help=text)

    add("--instances", checked(instance_numbers), "SET",
        "numbers of the instances, such as 1,3,5-7; instance N listens on 127.0.0.1, port "
        "8000+N; default 1-4")  # fmt: skip
    add("--bind", checked(addresses), "A,B",
        "public addresses; default *, which is every IPv4 one")  # fmt: skip
    add("--port", port, "PORT", "public port for HTTP; default 80")
    add("--https-port", port, "PORT", "public port for HTTPS; default 443")
    add("--certificate", checked(word), "FILE",
        "PEM file of certificate, chain and key; without it HTTPS is not served")  # fmt: skip
    add("--statistics-port", port, "PORT", "for statistics and Prometheus; default 8404")
    add("--connections-max", count, "N",
        "open public connections; default as many as the instances can hold")  # fmt: skip
    add("--address-connections-max", count, "N",
        "open connections of one address, and new ones in 10 s; default "
        f"{default.address_connections_max}")  # fmt: skip
    add("--address-requests-max", count, "N",
        f"requests of one address in 10 s; default {default.address_requests_max}")  # fmt: skip
    add("--trusted-proxies", checked(networks), "A,B",
        "addresses or networks of proxies in front, which name the client in "
        "X-Forwarded-For; "
        f"default {','.join(default.trusted_proxies)}")  # fmt: skip
    parser.add_argument("--unprivileged", action="store_true",
        help="for HAProxy run by an ordinary user or in a container: HAProxy keeps this user and "
        "logs to standard output")  # fmt: skip
    return parser


def run(argv: Sequence[str]) -> int:
    """Print the configuration of HAProxy.

    Returns:
        The exit status 0.

    Raises:
        OperatorError: two listeners have the same port.
    """
    cluster = Cluster(**vars(haproxy_parser().parse_args(argv)))
    if clash := clash_of(cluster):
        raise OperatorError(clash, EXIT_USAGE)
    print(haproxy_config(cluster), end="")
    return 0
