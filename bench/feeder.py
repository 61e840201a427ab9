"""The upstream of the benchmarks: plays a workload to hedgehogd (or to Nchan), on time.

    feeder.py upstream PORT SCHEDULE [--stamp] [--saturate]
    feeder.py publish PORT SCHEDULE

``upstream`` imitates the exchange: it acknowledges subscribe messages with ``subscriptions``,
sends the state of the new topics, sends a heartbeat each second where one is subscribed, answers
pings, and sends each message of the schedule to each connection that holds its topic.
``publish`` is a client that publishes each message over one WebSocket.

"go" on standard input plays the schedule once. Each message is sent alone, within some 0.1 ms
of its time, even if it was recorded close to another: messages that a reader finds together were
joined because the reader was busy, not by the feeder. ``--stamp`` writes the send time into each
message that has a place for it; ``--saturate`` sends all messages as fast as the socket accepts
them, in writes of 256 KiB.

It prints "ready", "complete" (a connection holds every topic of the schedule), and "done {json}"
(the lateness of the messages). It runs on the project's own Python, with its wsproto.
"""

import argparse
import json
import os
import socket
import struct
import sys
import threading
import time
from pathlib import Path

import wsproto
from peers.schedule import load
from wsproto import events

STAMP_KEY = b'"bench_ns":"'
WRITE_BYTES = 256 * 1024
KIND = {  # channels with the same message types on the wire
    "ticker_batch": "ticker",
    "ticker_1000": "ticker",
    "level2_batch": "level2",
    "level2_50": "level2",
    "full": "matches",
}
TYPE_KIND = {"match": "matches", "last_match": "matches", "l2update": "level2"}
TYPE_KIND |= {"snapshot": "level2", "ticker": "ticker"}
ACK_NAME = {"level2_batch": "level2_50", "ticker_batch": "ticker_1000"}
Topic = tuple[str, str]  # kind, product


def frame(payload: bytes) -> bytes:
    """Return one unmasked text frame."""
    length = len(payload)
    if length < 126:
        return struct.pack("!BB", 0x81, length) + payload
    if length < 65536:
        return struct.pack("!BBH", 0x81, 126, length) + payload
    return struct.pack("!BBQ", 0x81, 127, length) + payload


def topic_of(payload: bytes) -> Topic:
    """Return the topic of a message."""
    message = json.loads(payload)
    return TYPE_KIND[message["type"]], message["product_id"]


class Connection:
    """One downstream connection: its topics, and a lock around its socket."""

    def __init__(self, sock: socket.socket, upstream: "Upstream") -> None:
        self.socket = sock
        self.upstream = upstream
        self.lock = threading.Lock()
        self.held: dict[str, set[str]] = {}  # channel -> products
        self.topics: set[Topic] = set()

    def send(self, data: bytes) -> None:
        """Send whole frames; they are dropped if the connection has ended."""
        try:
            with self.lock:
                self.socket.sendall(data)
        except OSError:
            self.upstream.connections.discard(self)

    def serve(self) -> None:
        """Do the handshake and carry out commands until the peer closes."""
        protocol = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        text = ""
        try:
            while data := self.socket.recv(65536):
                if self not in self.upstream.connections and b"upgrade: websocket" not in (
                    data.lower()
                ):
                    self.send(
                        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                    )
                    break
                protocol.receive_data(data)
                for event in protocol.events():
                    if isinstance(event, events.Request):
                        self.send(protocol.send(events.AcceptConnection()))
                        self.upstream.connections.add(self)
                    elif isinstance(event, events.Ping):
                        self.send(protocol.send(event.response()))
                    elif isinstance(event, events.TextMessage):
                        text += event.data
                        if event.message_finished:
                            self.carry_out(json.loads(text))
                            text = ""
                    elif isinstance(event, events.CloseConnection):
                        self.send(protocol.send(event.response()))
        except OSError:
            pass
        self.upstream.connections.discard(self)
        self.socket.close()

    def carry_out(self, message: dict[str, object]) -> None:
        """Carry out a subscribe or unsubscribe; acknowledge it; send the new topics' state."""
        root = message.get("product_ids") or []
        requested = []
        for channel in message.get("channels") or []:
            named = channel if isinstance(channel, dict) else {"name": channel}
            requested.append((named["name"], {*root, *named.get("product_ids", [])}))
        for name, products in requested:
            held = self.held.setdefault(name, set())
            if message["type"] == "subscribe":
                held |= products
            elif products:
                held -= products
            else:
                held.clear()
        before = self.topics
        topics = {(KIND.get(name, name), p) for name, held in self.held.items() for p in held}
        channels = [
            {"name": ACK_NAME.get(name, name), "product_ids": sorted(held), "account_ids": None}
            for name, held in self.held.items()
            if held
        ]
        ack = json.dumps({"type": "subscriptions", "channels": channels}, separators=(",", ":"))
        state = [p for topic, p in self.upstream.state if topic in topics - before]
        self.send(b"".join(frame(payload) for payload in (ack.encode(), *state)))
        self.topics = topics
        wanted = self.upstream.wanted
        print("complete" if wanted <= topics else f"held {len(topics & wanted)}", flush=True)


class Upstream:
    """The exchange: accepts connections, sends heartbeats and the schedule."""

    def __init__(self, port: int, schedule: Path, wanted: set[Topic]) -> None:
        self.wanted = wanted
        self.state = [
            (topic_of(line), line)
            for line in schedule.with_suffix(".state").read_bytes().splitlines()
        ]
        self.connections: set[Connection] = set()
        self.last: dict[str, tuple[int, int]] = {}  # product -> sequence, trade id of its match
        self.listener = socket.create_server(("127.0.0.1", port), backlog=64)
        threading.Thread(target=self.accept, daemon=True).start()
        threading.Thread(target=self.beat, daemon=True).start()

    def accept(self) -> None:
        """Serve each connection in a thread of its own."""
        while True:
            sock, _ = self.listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=Connection(sock, self).serve, daemon=True).start()

    def beat(self) -> None:
        """Send a heartbeat a second for each product with a subscribed heartbeat."""
        for topic, payload in self.state:
            self.note(topic, payload)
        while True:
            time.sleep(1)
            now = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
            for connection in list(self.connections):
                for product in sorted(p for kind, p in connection.topics if kind == "heartbeat"):
                    sequence, trade_id = self.last.get(product, (135437500000, 1087500000))
                    connection.send(
                        frame(
                            f'{{"type":"heartbeat","last_trade_id":{trade_id},"product_id":'
                            f'"{product}","sequence":{sequence},"time":"{now}"}}'.encode()
                        )
                    )

    def note(self, topic: Topic, payload: bytes) -> None:
        """Remember a match's numbers for the heartbeats."""
        if topic[0] == "matches":
            match = json.loads(payload)
            self.last[topic[1]] = match["sequence"], match["trade_id"]

    def send(self, topic: Topic, payload: bytes) -> None:
        """Send one message to each connection that holds its topic."""
        self.note(topic, payload)
        data = frame(payload)
        for connection in list(self.connections):
            if topic in connection.topics:
                connection.send(data)

    def saturate(self, messages: list[tuple[float, bytes]]) -> None:
        """Send all messages at once to all connections."""
        data = b"".join(frame(payload) for _, payload in messages)
        for at in range(0, len(data), WRITE_BYTES):
            for connection in list(self.connections):
                connection.send(data[at : at + WRITE_BYTES])


class Publisher:
    """A client that publishes each message over one WebSocket and drops the answers."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        request = events.Request(host="127.0.0.1", target="/publish")
        self.socket.sendall(self.protocol.send(request))
        self.protocol.receive_data(self.socket.recv(65536))
        if not any(isinstance(event, events.AcceptConnection) for event in self.protocol.events()):
            sys.exit("feeder: the server refused the publisher")
        threading.Thread(target=self.drain, daemon=True).start()

    def drain(self) -> None:
        """Read and drop the answers."""
        while self.socket.recv(65536):
            pass

    def send(self, _topic: Topic, payload: bytes) -> None:
        """Publish one message."""
        self.socket.sendall(self.protocol.send(events.TextMessage(data=payload.decode())))


def punctual() -> None:
    """Get priority over the receiver, which shares the core; else bursts would be stretched."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    except OSError as error:
        print(f"feeder: no real-time priority, messages may be late: {error}", file=sys.stderr)


def play(sink: Upstream | Publisher, plan: list[tuple[float, Topic, bytes]], stamp: bool) -> str:
    """Send each message at its time; return their lateness as JSON."""
    late_us = []
    origin = time.monotonic()
    for due_s, topic, payload in plan:
        wait_s = origin + due_s - time.monotonic()
        if wait_s > 0:
            time.sleep(wait_s)
        late_us.append(round((time.monotonic() - origin - due_s) * 1e6))
        if stamp and STAMP_KEY in payload:
            at = payload.index(STAMP_KEY) + len(STAMP_KEY)
            now = b"%019d" % time.monotonic_ns()
            payload = payload[:at] + now + payload[at + 19 :]
        sink.send(topic, payload)
    late_us.sort()
    p99 = late_us[len(late_us) * 99 // 100]
    return json.dumps({"late_us_p99": p99, "late_us_max": late_us[-1]})


def main() -> None:
    """Serve or connect, then play for each line on standard input, until its end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["upstream", "publish"])
    parser.add_argument("port", type=int)
    parser.add_argument("schedule", type=Path)
    parser.add_argument("--stamp", action="store_true")
    parser.add_argument("--saturate", action="store_true")
    options = parser.parse_args()
    messages = load(options.schedule)
    plan = [(due_s, topic_of(payload), payload) for due_s, payload in messages]
    sink: Upstream | Publisher
    if options.mode == "publish":
        sink = Publisher(options.port)
    else:
        sink = Upstream(options.port, options.schedule, {topic for _, topic, _ in plan})
    punctual()
    print("ready", flush=True)
    for _ in sys.stdin:
        result = "{}"
        if options.saturate and isinstance(sink, Upstream):
            sink.saturate(messages)
        else:
            result = play(sink, plan, options.stamp)
        print(f"done {result}", flush=True)


if __name__ == "__main__":
    main()
