"""One late joiner that checks every byte it receives; a process of the ``joiners`` benchmark.

It prints "ready", joins on the first line of standard input with the ``websockets`` library, and
keeps every message until the schedule's last update has arrived. Then it compares them with the
book made from the schedule's own messages: the snapshot must be that book at some update, every
level of it in order; each later update must arrive once and in order; and a book made from both
must equal the schedule's last. It prints one line of JSON; "fault" is empty when all is correct.

    joiner_process.py PORT SCHEDULE SUBSCRIBE [--deflate]
"""

import json
import sys
from pathlib import Path
from typing import Any

from peers.schedule import load
from websockets.sync.client import connect

SILENCE_S = 15.0
Side = dict[str, str]


class Reference:
    """The plainest book: texts of prices to texts of sizes."""

    def __init__(self, snapshot: dict[str, Any]) -> None:
        self.sides: dict[str, Side] = {
            "buy": dict(snapshot["bids"]),
            "sell": dict(snapshot["asks"]),
        }

    def apply(self, update: dict[str, Any]) -> None:
        """Apply one l2update."""
        for side, price, size in update["changes"]:
            if float(size):
                self.sides[side][price] = size
            else:
                del self.sides[side][price]

    def rows(self, side: str) -> list[list[str]]:
        """Return a side's levels, best first."""
        levels = sorted(self.sides[side].items(), key=lambda row: float(row[0]))
        return [list(row) for row in (reversed(levels) if side == "buy" else levels)]


def listen(port: int, subscribe: str, last_time: str, *, deflate: bool) -> list[str]:
    """Join; return all messages up to the update of ``last_time``, or until silence."""
    messages: list[str] = []
    with connect(
        f"ws://127.0.0.1:{port}/ws-feed",
        compression="deflate" if deflate else None,
        max_size=None,
        ping_interval=None,
    ) as connection:
        if deflate and not connection.protocol.extensions:
            raise SystemExit("the server declined permessage-deflate")
        connection.send(subscribe)
        while not (messages and last_time in messages[-1][-64:]):
            try:
                messages.append(str(connection.recv(timeout=SILENCE_S)))
            except TimeoutError:
                break
    return messages


def judge(
    got: list[dict[str, Any]], snapshot: dict[str, Any], updates: list[dict[str, Any]]
) -> dict[str, Any]:
    """Compare the received messages with the schedule."""
    snapshots = [message for message in got if message["type"] == "snapshot"]
    if len(snapshots) != 1:
        return {"fault": f"{len(snapshots)} snapshots arrived"}
    later = got[got.index(snapshots[0]) + 1 :]
    times = [update["time"] for update in updates]
    at = times.index(snapshots[0]["time"]) + 1 if snapshots[0].get("time") in times else 0
    reference = Reference(snapshot)
    for update in updates[:at]:
        reference.apply(update)
    result = {
        "snapshot_at": at,
        "updates": len(later),
        "levels": len(snapshots[0]["bids"]) + len(snapshots[0]["asks"]),
        "fault": "",
    }
    for name, side in (("bids", "buy"), ("asks", "sell")):
        if snapshots[0][name] != reference.rows(side):
            return {**result, "fault": f"the snapshot's {name} differ from those after update {at}"}
    if [message.get("time") for message in later] != times[at:]:
        return {**result, "fault": f"the updates after update {at} did not arrive once, in order"}
    kept = Reference(snapshots[0])
    for update in later:
        kept.apply(update)
    for update in updates[at:]:
        reference.apply(update)
    if kept.sides != reference.sides:
        return {**result, "fault": "the last book differs"}
    return result


def main(port: int, schedule: Path, subscribe: str, *options: str) -> None:
    """Join on command, and report."""
    messages = [json.loads(payload) for _, payload in load(str(schedule))]
    updates = [message for message in messages if message["type"] == "l2update"]
    state = [json.loads(line) for line in schedule.with_suffix(".state").read_bytes().splitlines()]
    snapshot = next(message for message in state if message["type"] == "snapshot")
    print("ready", flush=True)
    sys.stdin.readline()
    got = listen(port, subscribe, updates[-1]["time"], deflate="--deflate" in options)
    result = judge([json.loads(text) for text in got], snapshot, updates)
    print(json.dumps(result), flush=True)


main(int(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
