"""The compared servers: how each is started, plays the workload, and ends.

All of them listen on a port of their own, serve WebSockets on ``/ws-feed``, run on core 0, and
print only the lines that the rig expects. Each peer's own file under ``peers/`` states
the settings for a fair comparison.
"""

import contextlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import prepare
from rig import (
    BENCH,
    BUILD,
    LOAD_CORE,
    PROJECT_PYTHON,
    SERVER_CORE,
    START_S,
    BenchError,
    Child,
    free_port,
)
from workload import STAMP_KEY, Workload

PEERS = BENCH / "peers"
OTHERS_MAX = 100  # heartbeats and acknowledgements may be counted as messages too
daemon_command: list[str] = [str(PROJECT_PYTHON), "-m", "hedgehogd"]  # run --daemon changes it


@dataclass(frozen=True)
class Running:
    """A server that is ready.

    Attributes:
        server: the process of which CPU and memory are counted, with its children.
        port: its port.
        player: the process that plays the workload when it receives "go"; often the server itself.
        subscribe: message that a subscriber must send to get the workload; "" for none. The
            clients of `fanout` and `latency` send the workload's message to every server.
        state_messages: least number of messages of initial state for each subscriber.
        operator_port: port of hedgehogd's operator listener; 0 for other servers.
    """

    server: Child
    port: int
    player: Child
    subscribe: str = ""
    state_messages: int = 0
    operator_port: int = 0

    def metrics(self) -> dict[str, float]:
        """Return hedgehogd's metrics, summed over their labels."""
        url = f"http://127.0.0.1:{self.operator_port}/metrics"
        found: dict[str, float] = {}
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                text = answer.read().decode()
        except OSError as error:
            raise BenchError(f"/metrics did not answer: {error}") from None
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                name = name.partition("{")[0]
                found[name] = found.get(name, 0.0) + float(value)
        return found


@contextmanager
def _own_player(name: str, command: list[str | Path], port: int) -> Iterator[Running]:
    """Run a server that plays the workload itself."""
    env = {"NODE_PATH": str(prepare.NODE / "node_modules")}
    with Child(name, command, core=SERVER_CORE, env=env) as server:
        server.expect("ready")
        yield Running(server, port, server)


@contextmanager
def c_send_loop(workload: Workload, *, stamp: bool = False) -> Iterator[Running]:
    """Run the C loop, the lower bound of the cost."""
    port = free_port()
    command = [BUILD / "c_send_loop", "--port", str(port), "--schedule", workload.write()]
    if stamp:
        command += ["--stamp", STAMP_KEY]
    with _own_player("c_send_loop", command, port) as running:
        yield running


@contextmanager
def script(name: str, workload: Workload, *arguments: str) -> Iterator[Running]:
    """Run one of the peers that are a script: picows, websockets, snapshots, quart or ws."""
    kind = {"ws": "ws", "quart": ""}.get(name, "python")
    if kind and (why := prepare.why_missing(kind)):
        raise BenchError(f"not installed ({why})")
    interpreter: str | Path = {"ws": "node", "quart": PROJECT_PYTHON}.get(name, prepare.PEER_PYTHON)
    port = free_port()
    file = PEERS / ("ws_server.js" if name == "ws" else f"{name}_server.py")
    command = [interpreter, file, str(port), workload.write(), *arguments]
    with _own_player(name, command, port) as running:
        yield running


@contextmanager
def _published_to(
    name: str, command: list[str | Path], port: int, workload: Workload
) -> Iterator[Running]:
    """Run a server that a feeder publishes to."""
    with Child(name, command, core=SERVER_CORE, silent=True) as server:
        wait_listening(server, port)
        with feeder("publish", port, workload) as player:
            player.expect("ready")
            yield Running(server, port, player)


@contextmanager
def uwebsockets(workload: Workload) -> Iterator[Running]:
    """Run uWebSockets, and a feeder that publishes to it."""
    if why := prepare.why_missing("python"):
        raise BenchError(f"not installed ({why})")
    port = free_port()
    command = [prepare.PEER_PYTHON, PEERS / "uwebsockets_server.py", str(port)]
    with _published_to("uwebsockets", command, port, workload) as running:
        yield running


@contextmanager
def nchan(workload: Workload) -> Iterator[Running]:
    """Run nginx with Nchan, and a feeder that publishes to it."""
    if why := prepare.why_missing("nchan"):
        raise BenchError(f"not installed ({why})")
    port = free_port()
    folder = BUILD / "nchan"
    folder.mkdir(exist_ok=True)
    text = (PEERS / "nchan.conf").read_text()
    for key, value in {
        "@module@": prepare.nchan_module(),
        "@folder@": folder,
        "@port@": port,
    }.items():
        text = text.replace(key, str(value))
    conf = folder / "nginx.conf"
    conf.write_text(text)
    # Nchan makes a temporary folder at its compiled-in path, despite the configuration;
    # a mount namespace of its own keeps that out of the system.
    private = "mount -t tmpfs tmpfs /var/lib && mkdir /var/lib/nginx && exec "
    nginx = f"{prepare.NGINX}/usr/sbin/nginx -p {folder} -c {conf}"
    command = ["unshare", "--mount", "sh", "-c", private + nginx]
    with _published_to("nchan", command, port, workload) as running:
        yield running


@contextmanager
def hedgehogd(
    workload: Workload,
    *,
    stamp: bool = False,
    saturate: bool = False,
    flags: tuple[str, ...] = (),
) -> Iterator[Running]:
    """Run hedgehogd on a feeder that plays its upstream; ready when every topic is held."""
    feed_port, port, operator_port = free_port(), free_port(), free_port()
    flags += ("--operator-bind", f"127.0.0.1:{operator_port}")
    options = ["--stamp"] * stamp + ["--saturate"] * saturate
    with contextlib.ExitStack() as stack:
        player = stack.enter_context(feeder("upstream", feed_port, workload, *options))
        player.expect("ready")
        server = stack.enter_context(instance(player, feed_port, port, workload, *flags))
        yield Running(server, port, player, workload.subscribe, state_of(workload), operator_port)


@contextmanager
def instance(
    player: Child, feed_port: int, port: int, workload: Workload, *flags: str
) -> Iterator[Child]:
    """Run one hedgehogd that reads from ``player``; ready when every topic is held."""
    channels = ",".join((*workload.channels, "heartbeat"))
    command = [*daemon_command, "--feed", f"ws://127.0.0.1:{feed_port}/"]
    command += ["--pairs", ",".join(workload.products), "--channels", channels]
    command += ["--port", str(port), *flags]
    with Child(f"hedgehogd-{port}", command, core=SERVER_CORE, silent=True) as server:
        wait_listening(server, port)
        try:
            player.expect("complete")
        except BenchError as error:
            raise BenchError(f"hedgehogd did not subscribe upstream: {error}") from None
        yield server


def state_of(workload: Workload) -> int:
    """Return the number of a subscriber's first messages: state and acknowledgement."""
    return len(workload.state_topics) + 1


def counted(before: dict[str, float], after: dict[str, float], count: int) -> str | None:
    """Return the name of a metric that grew by the number of messages, or None."""
    names = [
        name for name in after if 0 <= after[name] - before.get(name, 0.0) - count <= OTHERS_MAX
    ]
    return min(names, key=lambda name: ("message" not in name, name), default=None)


def feeder(mode: str, port: int, workload: Workload, *options: str) -> Child:
    command = [PROJECT_PYTHON, BENCH / "feeder.py", mode, str(port), workload.write(), *options]
    return Child("feeder", command, core=LOAD_CORE)


def wait_listening(server: Child, port: int) -> None:
    """Wait until a server answers HTTP."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise BenchError(f"{server.name} has ended: {server.last_words()}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2).close()
        except urllib.error.HTTPError:
            return  # any status is an answer
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise BenchError(f"{server.name} did not listen in {START_S:g} s")


def feeder_lateness(line: str) -> dict[str, int]:
    """Return the lateness of the player's messages, from its "done" line."""
    result: dict[str, int] = json.loads(line.partition(" ")[2] or "{}")
    return result
