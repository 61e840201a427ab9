"""Groups: messages of one channel, compressed together."""

from random import Random

import pytest

from hedgehogd.domain.channel import FULL, MATCHES
from hedgehogd.log.archive import group
from hedgehogd.log.archive.errors import DamagedArchive
from hedgehogd.log.archive.group import Run
from tests.log.archive.records import message

TOPIC = FULL.topic("BTC-USD")


def runs(count=20):
    """Return two runs with every kind of column."""
    found = []
    for product_id in ("BTC-USD", "ETH-USD"):
        run = Run(FULL.topic(product_id))
        messages = [
            message(run.topic, n, 100 + n, kind="match" if n % 2 else "") for n in range(count)
        ]
        for each in messages[::3]:
            each.also = MATCHES.topic(product_id)
            each.sequence = None
        run.add(messages)
        found.append((run, messages))
    return found


@pytest.mark.parametrize("odd", [b"", b"\xff", b"\xff\xff{"])
def test_messages_are_read_as_written(odd):
    """For any bytes in their payloads."""
    chosen = runs()
    chosen[0][0].payloads[3] += odd
    data, raw_size = group.pack([run for run, _ in chosen], 6)
    found = group.unpack(chosen[0][0].topic, data, raw_size)

    assert chosen[0][0].payloads + chosen[1][0].payloads == found.payloads
    assert chosen[1][1] == found.messages(chosen[1][0].topic, 20, 40)
    assert chosen[1][1][::2] == found.chosen(range(20, 40, 2)).messages(chosen[1][0].topic, 0, 10)


def test_an_empty_payload_is_a_message():
    """Nothing is dropped because it is odd."""
    run = Run(TOPIC)
    each = message(TOPIC, 1, 1)
    each.payload, each.frame = b"", b"\x81\x00"
    run.add([each])
    data, raw_size = group.pack([run], 6)

    assert [each] == group.unpack(TOPIC, data, raw_size).messages(TOPIC, 0, 1)


def test_damaged_bytes_are_refused():
    """No error of a library leaves it."""
    data, raw_size = group.pack([run for run, _ in runs()], 6)
    random = Random(1)
    refused = 0
    for _ in range(500):
        damaged = bytearray(data)
        damaged[random.randrange(len(data))] ^= 1 << random.randrange(8)
        try:
            group.unpack(TOPIC, bytes(damaged), raw_size)
        except DamagedArchive:
            refused += 1
    assert refused > 50
    with pytest.raises(DamagedArchive):
        group.unpack(TOPIC, data, raw_size - 1)
    with pytest.raises(DamagedArchive):
        group.unpack(TOPIC, data[:-1], raw_size)
    with pytest.raises(DamagedArchive):
        group.unpack(TOPIC, b"", raw_size)
