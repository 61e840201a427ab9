"""One resumer that checks every byte it receives; a process of the ``history`` benchmark.

It prints "ready", resumes on the first line of standard input with the ``websockets`` library,
and keeps every message until the schedule's last has arrived. All messages of the schedule after
the position must have arrived, each once, in order, and as sent except for the send time; and
once, after the number of messages that it states, the notice that the resume is complete. It
prints one line of JSON; "fault" is empty when all is correct.

    resumer_process.py PORT SCHEDULE SUBSCRIBE SEQUENCE
"""

import json
import sys
import time
from typing import Any

from peers.schedule import STAMP_KEY, load
from websockets.sync.client import connect

SILENCE_S = 15.0
DATA = {"ticker", "match"}
GREETING = ["session", "subscriptions"]


def unstamped(payload: bytes) -> bytes:
    """Return a message without its send time."""
    before, key, rest = payload.partition(STAMP_KEY)
    return before + key + rest[19:]


def listen(port: int, subscribe: str, last: int) -> tuple[list[bytes], float]:
    """Resume; return all up to the ticker of sequence ``last``, and the time of the notice."""
    messages: list[bytes] = []
    resumed_s = 0.0
    end = f'"sequence":{last},'.encode()
    path = f"ws://127.0.0.1:{port}/ws"
    with connect(path, compression=None, max_size=None, ping_interval=None) as connection:
        connection.send(subscribe)
        begin = time.monotonic()
        while True:
            try:
                message = connection.recv(timeout=SILENCE_S, decode=False)
            except TimeoutError:
                break
            messages.append(message)
            if message.startswith(b'{"type":"resumed"'):
                resumed_s = time.monotonic() - begin
            if resumed_s and message.startswith(b'{"type":"ticker"') and end in message:
                break
    return messages, resumed_s


def judge(got: list[bytes], expected: list[bytes]) -> dict[str, Any]:
    """Compare the received messages with the schedule."""
    types = [json.loads(message)["type"] for message in got]
    data = [unstamped(message) for message, kind in zip(got, types, strict=True) if kind in DATA]
    result: dict[str, Any] = {"messages": len(data), "expected": len(expected), "fault": ""}
    notices = [kind for kind in types if kind not in DATA]
    if notices != [*GREETING, "resumed"]:
        return {**result, "fault": f"unexpected messages: {notices[:6]}"}
    if data != expected:
        pairs = enumerate(zip(data, expected, strict=False))
        at = next((i for i, (a, b) in pairs if a != b), min(len(data), len(expected)))
        return {**result, "fault": f"{len(data)} of {len(expected)} arrived; number {at} is wrong"}
    at = types.index("resumed")
    result["resumed_at"] = sum(kind in DATA for kind in types[:at])
    if (stated := json.loads(got[at])["messages"]) != result["resumed_at"]:
        return {**result, "fault": f"resumed states {stated}, {result['resumed_at']} arrived"}
    return result


def main(port: int, schedule: str, subscribe: str, sequence: int) -> None:
    """Resume on command, and report."""
    sent = [(json.loads(payload)["sequence"], payload) for _, payload in load(schedule)]
    expected = [unstamped(payload) for number, payload in sent if number > sequence]
    print("ready", flush=True)
    sys.stdin.readline()
    got, resumed_s = listen(port, subscribe, sent[-1][0])
    print(json.dumps({**judge(got, expected), "resumed_s": resumed_s}), flush=True)


main(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
