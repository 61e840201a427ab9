"""HAProxy's own functions: headers, limits, routes, retries, its own answers, HTTP/2."""

import json
import os
import statistics
import subprocess
import sys
import time
from functools import partial

import pytest
import trio

from tests.cluster.harness import HAPROXY, eventually
from tests.cluster.made_up import made_up
from tests.e2e.harness import HttpStream, rest

pytestmark = [pytest.mark.e2e, pytest.mark.cluster, pytest.mark.xdist_group("cluster_proxy")]
STREAM = "/api/v1/stream"
HERE_6 = "2001:db8::fff:1"
THERE_6 = ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")  # two of one /64, one of another
# Opens connections one after the other, each from an address of its own, and keeps those that were
# accepted. Prints for each whether it was: a rejected one ends without an answer.
_CONNECT = """
import socket, sys
target, *sources = sys.argv[1:]
host, port = target.rsplit("-", 1)
for source in sources:
    try:
        with socket.create_connection((host, int(port)), 5, (source, 0)) as client:
            client.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
            print(source, client.recv(12) == b"HTTP/1.1 200")
    except ConnectionError:
        print(source, False)
"""


@pytest.mark.parametrize(
    "flags",
    [
        "",
        "--instances 7",
        "--instances 1,3,5-7 --bind *,:: --port 8080",
        "--unprivileged --connections-max 500",
        "--certificate {certificate} --https-port 8443 --bind 127.0.0.1,::1",
        "--instances 1-100 --address-connections-max 5 --address-requests-max 9",
        "--trusted-proxies 10.0.0.0/8,2001:db8::/32,192.0.2.7",
    ],
)
def test_haproxy_accepts_the_configuration(run_command, clean, certificate, tmp_path, flags):
    """Not an error, not a warning, for any set of instances."""
    status, text, _ = run_command("haproxy-config", *flags.format(certificate=certificate).split())
    file = tmp_path / "haproxy.cfg"
    file.write_text(text)
    done = subprocess.run([HAPROXY, "-c", "-f", file], capture_output=True, text=True)
    says = [line for line in done.stderr.splitlines() if not line.startswith("[NOTICE]")]

    assert (status, done.returncode, says) == (0, 0, [])
    assert "Configuration file is valid" in done.stdout


async def test_only_the_proxy_states_the_client_s_address(tmp_path):
    """Limits and logs by address would be worthless if a client could choose its address."""
    async with made_up(tmp_path, 1, trusted_proxies=("203.0.113.1",)) as (proxy, _):
        forged = {"X_Forwarded_For": "6.6.6.6", "Forwarded": "for=6.6.6.6", "X_Real_IP": "6.6.6.6",
            "Proxy": "http://6.6.6.6", "X_Forwarded_Proto": "https"}  # fmt: skip
        _, answer = await rest(proxy.port, "GET", "/", **forged)
    rows = [row.lower() for row in answer["head"].split("\r\n")[1:] if row]

    assert "6.6.6.6" not in answer["head"]
    assert [row for row in rows if "forwarded" in row] == [
        "x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http",
    ]  # fmt: skip
    assert "connection: close" in rows
    assert not [row for row in rows if row.startswith(("proxy", "x-real-ip"))]


async def test_a_command_goes_to_the_owner_of_its_session(tmp_path):
    """Instances would forward it; this saves the detour."""
    async with made_up(tmp_path, 3) as (proxy, instances):
        for number in instances:
            key = f"{number}.q3Zk"
            asked = [
                await rest(proxy.port, "GET", f"/api/v1/sessions/{key}"),
                await rest(proxy.port, "POST", f"/api/v1/subscribe/A-B?session={key}"),
                await rest(proxy.port, "DELETE", "/api/v1/subscribe/A-B", Hedgehog_Session=key),
                await rest(proxy.port, "POST", "/api/v1/subscribe/A-B?session=9.x",
                    Hedgehog_Session=key),
            ]  # fmt: skip
            assert [answer["number"] for _, answer in asked] == [number] * 4
        for odd in ("99999.x", "x", "%00.x", "-1.x"):  # any instance answers
            status, _ = await rest(proxy.port, "GET", f"/api/v1/sessions/{odd}")
            assert status == 200
        streams = [
            await rest(proxy.port, "GET", "/api/v1/subscribe/A-B", Hedgehog_Session="1.x")
            for _ in range(3)
        ]

    assert {answer["number"] for _, answer in streams} == set(instances)


async def test_a_request_that_an_instance_drops_goes_to_another(tmp_path):
    """Refused, or accepted and left unanswered: the client sees neither."""
    async with made_up(tmp_path, 2) as (proxy, instances):
        mute, other = instances.values()
        mute.is_mute = True
        begin = time.monotonic()
        answers = [
            await rest(proxy.port, "POST", "/api/v1/subscribe/A-B", b"{}", Hedgehog_Session=key)
            for key in (f"{mute.number}.x",) * 5
        ]
        took_s = time.monotonic() - begin

    assert [answer["number"] for _, answer in answers] == [other.number] * 5
    assert mute.visits == 5
    assert took_s < 2  # not after HAProxy's pause of 1 s for the same server


async def test_without_instances_the_answer_is_a_503_in_json(tmp_path):
    """A program can read HAProxy's own answers too."""
    async with made_up(tmp_path, 1) as (proxy, instances):
        (instance,) = instances.values()
        instance.is_mute = True
        dropped = await rest(proxy.port, "GET", "/")
        instance.leave()
        await eventually(lambda: proxy.servers("living")[instance.number]["status"] != "UP",
            "it is down")  # fmt: skip
        status, nobody = await rest(proxy.port, "GET", "/")

    assert (dropped[0], dropped[1]["error"]["code"]) == (502, "bad_gateway")
    assert (status, nobody["error"]["code"]) == (503, "service_unavailable")


async def test_a_message_is_not_held_back_for_the_next(tmp_path):
    """Without ``http-no-delay`` the kernel waits up to 200 ms for more."""
    async with made_up(tmp_path, 1) as (proxy, _):
        stream = await HttpStream.open(proxy.port, STREAM)
        late_s = []
        while (line := await stream.read_until(b"\n")) is not None:
            late_s.append(time.monotonic() - float(line))
        await stream.aclose()

    assert len(late_s) == 80
    assert statistics.median(late_s) < 0.05


@pytest.fixture
def elsewhere():
    """A client's machine: a network namespace, with a cable to this one."""
    if os.geteuid() != 0:
        pytest.skip("only root may make a network namespace")
    name, (here, there) = f"hedgehog{os.getpid()}", ("203.0.113.1", "203.0.113.2")
    plugs = (f"hh{os.getpid()}a"[:15], f"hh{os.getpid()}b"[:15])

    def ip(arguments: str) -> None:
        subprocess.run(["ip", *arguments.split()], check=True, capture_output=True)

    ip(f"netns add {name}")
    try:
        ip(f"link add {plugs[0]} type veth peer name {plugs[1]} netns {name}")
        # Without "nodad" an address of IPv6 may be used only after a second.
        ip(f"addr add {HERE_6}/32 dev {plugs[0]} nodad")
        for address in THERE_6:
            ip(f"-n {name} addr add {address}/32 dev {plugs[1]} nodad")
        ip(f"addr add {here}/30 dev {plugs[0]}")
        ip(f"link set {plugs[0]} up")
        ip(f"-n {name} addr add {there}/30 dev {plugs[1]}")
        ip(f"-n {name} link set {plugs[1]} up")
        yield name, here, there
    finally:
        subprocess.run(["ip", "link", "del", plugs[0]], capture_output=True)  # now, not later
        ip(f"netns del {name}")


async def test_an_address_with_too_many_requests_gets_429_but_this_machine_never(
    tmp_path, elsewhere
):
    """One client cannot block the service of all; local tools and tests are exempt."""
    name, here, there = elsewhere
    async with made_up(tmp_path, 1, bind=("*",), address_requests_max=20) as (proxy, _):
        url = f"http://{here}:{proxy.port}/"
        inside = ["ip", "netns", "exec", name, "curl", "-s", "-H", "X-Forwarded-For: 127.0.0.1"]
        first = await trio.run_process([*inside, url], capture_stdout=True)
        codes = [*inside, "-o", "/dev/null", "-w", "%{http_code} ", f"{url}[1-24]"]
        asked = await trio.run_process(codes, capture_stdout=True)
        refused = await trio.run_process([*inside, "-i", url], capture_stdout=True)
        local = [await rest(proxy.port, "GET", "/") for _ in range(40)]

    statuses = asked.stdout.decode().split()
    head, _, body = refused.stdout.decode().partition("\r\n\r\n")
    assert f"x-forwarded-for: {there}\r\n" in json.loads(first.stdout)["head"].lower()
    assert statuses == ["200"] * 19 + ["429"] * 5
    assert "retry-after: 10" in head.lower()
    assert json.loads(body)["error"]["code"] == "too_many_requests"
    assert {status for status, _ in local} == {200}


async def test_an_address_that_holds_too_many_connections_gets_no_more(tmp_path, elsewhere):
    """At accept, so that silent connections count too; the sixth is closed unanswered."""
    name, here, _ = elsewhere
    async with (
        made_up(tmp_path, 1, bind=("*",), address_connections_max=5) as (proxy, instances),
        trio.open_nursery() as nursery,
    ):
        (instance,) = instances.values()
        url = f"http://{here}:{proxy.port}{STREAM}"
        inside = ["ip", "netns", "exec", name, "curl", "-s", "-w", "%{http_code}", url]
        silent = f"import socket, time; s = [socket.create_connection(('{here}', {proxy.port}))"
        silent += " for _ in range(3)]; print('open', flush=True); time.sleep(60)"
        quiet = await nursery.start(
            partial(
                trio.run_process,
                ["ip", "netns", "exec", name, sys.executable, "-c", silent],
                stdout=subprocess.PIPE,
            )
        )
        assert (await quiet.stdout.receive_some()).startswith(b"open")
        held = [
            await nursery.start(partial(trio.run_process, inside, stdout=subprocess.PIPE))
            for _ in range(2)
        ]
        await eventually(lambda: instance.visits == 2, "two streams are open")
        sixth = await trio.run_process(inside, capture_stdout=True, check=False)
        served_s = [(await process.stdout.receive_some(1 << 20))[:9] for process in held]
        local = await HttpStream.open(proxy.port, STREAM)
        await local.aclose()
        nursery.cancel_scope.cancel()

    assert sixth.stdout == b"000"  # closed without an answer
    assert all(float(line) for line in served_s)  # the two were served
    assert local.status == 200


async def _connect(name: str, target: str, *sources: str) -> list[tuple[str, bool]]:
    """Connect from the namespace, once from each of ``sources``; return which were served."""
    command = ["ip", "netns", "exec", name, sys.executable, "-c", _CONNECT, target, *sources]
    done = await trio.run_process(command, capture_stdout=True)
    rows = [line.split() for line in done.stdout.decode().splitlines()]
    return [(source, served == "True") for source, served in rows]


async def test_an_address_that_connects_too_often_gets_no_more(tmp_path, elsewhere):
    """At accept, by rate: none of its connections is open when the next one comes."""
    name, here, there = elsewhere
    changes = {"bind": ("*",), "address_connections_max": 5, "address_requests_max": 1000}
    async with made_up(tmp_path, 1, **changes) as (proxy, instances):
        (instance,) = instances.values()
        served = await _connect(name, f"{here}-{proxy.port}", *[there] * 8)
        local = [await rest(proxy.port, "GET", "/") for _ in range(10)]

    assert [is_served for _, is_served in served] == [True] * 5 + [False] * 3
    assert {status for status, _ in local} == {200}
    assert instance.visits == 5 + 10


async def test_a_whole_64_has_one_limit_at_accept(tmp_path, elsewhere):
    """A client of IPv6 has 2^64 addresses: a limit by single address would limit nothing."""
    name, *_ = elsewhere
    one, two, other = THERE_6
    changes = {"bind": ("::",), "address_connections_max": 4, "address_requests_max": 1000}
    async with made_up(tmp_path, 1, **changes) as (proxy, _):
        target = f"{HERE_6}-{proxy.port}"
        served = await _connect(name, target, one, two, one, two, one, two, other, other)

    assert served == [
        *[(one, True), (two, True)] * 2,
        *[(one, False), (two, False)],
        *[(other, True)] * 2,
    ]


async def test_a_proxy_on_this_machine_does_not_exempt_its_clients(tmp_path):
    """Each address that it names has limits of its own, on one connection too; IPv6 by /64."""
    names = ["203.0.113.9", "203.0.113.10", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"]
    async with made_up(tmp_path, 1, address_requests_max=3) as (proxy, _):
        url = f"http://127.0.0.1:{proxy.port}/"

        async def ask(address: str, count: int) -> list[dict]:
            command = ["curl", "-s", "-H", f"X-Forwarded-For: 6.6.6.6, {address}"]
            answers = await trio.run_process([*command, *[url] * count], capture_stdout=True)
            text = answers.stdout.decode().replace("}{", "}\n{")
            return [json.loads(line) for line in text.splitlines()]

        answers = {name: await ask(name, 2) for name in names}
        more = {name: await ask(name, 2) for name in names}
        local = [await rest(proxy.port, "GET", "/") for _ in range(10)]

    for name in names:
        for answer in answers[name]:
            assert f"x-forwarded-for: {name}\r\n" in answer.get("head", "").lower() or (
                name == "2001:db8::2" and "error" in answer
            )
    refused = {name: ["error" in each for each in more[name]] for name in names}
    assert refused == {
        "203.0.113.9": [False, True],
        "203.0.113.10": [False, True],
        "2001:db8::1": [True, True],
        "2001:db8::2": [True, True],
        "2001:db8:0:1::1": [False, True],
    }
    assert {status for status, _ in local} == {200}


async def test_one_connection_of_a_proxy_carries_requests_of_several_clients(tmp_path):
    """The address belongs to the request: a proxy keeps its connections open."""
    async with made_up(tmp_path, 1) as (proxy, _):
        stream = await trio.open_tcp_stream("127.0.0.1", proxy.port)
        seen = []
        async with stream:
            for address in ("203.0.113.9", "203.0.113.10"):
                await stream.send_all(
                    f"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {address}\r\n\r\n".encode()
                )
                answer = b""
                while not answer.endswith(b"}"):
                    answer += await stream.receive_some()
                head = json.loads(answer.partition(b"\r\n\r\n")[2])["head"].lower()
                seen.append(f"x-forwarded-for: {address}\r\n" in head)

    assert seen == [True, True]


async def test_a_body_that_does_not_arrive_uses_no_place_of_an_instance(tmp_path):
    """Slow bodies wait in HAProxy, which ends them."""
    async with made_up(tmp_path, 1) as (proxy, instances):
        (instance,) = instances.values()
        stream = await trio.open_tcp_stream("127.0.0.1", proxy.port)
        async with stream:
            await stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n12")
            status, _ = await rest(proxy.port, "POST", "/", b"whole")
            seen = instance.visits
            await stream.send_all(b"3456789")
            answer = await stream.receive_some()

    assert (status, seen) == (200, 1)
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_streams_of_one_http2_connection_are_counted_one_by_one(
    tmp_path, elsewhere, certificate
):
    """A hundred streams fit into one connection: counting those alone would count nothing."""
    name, here, _ = elsewhere
    changes = {"bind": ("*",), "address_connections_max": 5, "certificate": str(certificate)}
    async with made_up(tmp_path, 1, **changes) as (proxy, _):
        url = f"https://{here}:{proxy.cluster.https_port}{STREAM}?n=[1-8]"
        command = ["ip", "netns", "exec", name, "curl", "-sk", "--http2", "--parallel", "-m", "2"]
        command += ["-o", "/dev/null", "-w", "%{http_code} %{num_connects}\n", url]
        asked = await trio.run_process(command, capture_stdout=True, check=False)

    rows = [row.split() for row in asked.stdout.decode().splitlines()]
    assert sorted(status for status, _ in rows) == ["200"] * 5 + ["429"] * 3
    assert sum(int(connects) for _, connects in rows) == 1
