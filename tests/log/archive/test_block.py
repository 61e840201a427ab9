"""Blocks: all records of a stretch of ids."""

from contextlib import suppress
from random import Random

import pytest

from hedgehogd.domain.channel import MATCHES, Topic
from hedgehogd.domain.message import Message
from hedgehogd.log.archive import block, group
from hedgehogd.log.archive.block import HEADER_BYTES, Builder, Directory, unpack_header
from hedgehogd.log.archive.errors import DamagedArchive
from tests.log.archive.records import TOPICS, records

RECORDS = records(Random(4), 400)


def build(group_bytes=300):
    """Return a block of all records, its header and its directory."""
    builder = Builder()
    builder.append(RECORDS)
    data = builder.build(6, group_bytes)
    header = unpack_header(data)
    directory = data[HEADER_BYTES : HEADER_BYTES + header.directory_bytes]
    return data, header, Directory(directory, header.groups_begin)


def messages_of(data, directory, topics):
    """Return the messages that the directory finds, in the order of their ids."""
    found = []
    for part, seconds in directory.find(topics):
        place = directory.place(part.group)
        packed = data[place.offset : place.offset + place.size]
        unpacked = group.unpack(place.topic, packed, place.raw_size)
        found += [
            each for each in unpacked.messages(*part[1:]) if seconds is None or each.also in seconds
        ]
    return sorted(found, key=lambda each: each.id)


@pytest.mark.parametrize("group_bytes", [1, 300, 10**6])
@pytest.mark.parametrize("count", [1, 3, len(TOPICS)])
def test_a_directory_finds_the_messages_of_topics(monkeypatch, group_bytes, count):
    """Also by their second topic, for a few topics and for many."""
    monkeypatch.setattr(block, "_FEW_TOPICS", 2)
    data, _, directory = build(group_bytes)
    topics = frozenset(Random(count).sample(TOPICS, count))
    expected = [r for r in RECORDS if isinstance(r, Message) and {r.topic, r.also} & topics]

    assert expected == messages_of(data, directory, topics)


def test_a_header_says_what_a_reader_skips():
    """Counts, ids, times and sizes."""
    data, header, directory = build()
    messages = [r for r in RECORDS if isinstance(r, Message)]

    assert (len(messages), len(RECORDS) - len(messages)) == (header.messages, header.markers)
    assert (RECORDS[0].id, RECORDS[-1].id) == (header.first_id, header.last_id)
    times = [r.received_us for r in RECORDS]
    assert (min(times), max(times)) == (header.min_us, header.max_us)
    assert len(data) == header.size
    assert {t for r in messages for t in (r.topic, r.also) if t} == set(directory.topics())


def test_every_byte_of_a_header_counts():
    """It has a checksum."""
    data, _, _ = build()
    for at in range(HEADER_BYTES):
        damaged = data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]
        with pytest.raises(DamagedArchive):
            unpack_header(damaged)
    with pytest.raises(DamagedArchive):
        unpack_header(data[: HEADER_BYTES - 1])


def test_a_damaged_directory_is_refused():
    """It has a checksum, too."""
    data, header, whole = build()
    directory = data[HEADER_BYTES : HEADER_BYTES + header.directory_bytes]
    for at in range(len(directory)):
        damaged = directory[:at] + bytes([directory[at] ^ 16]) + directory[at + 1 :]
        with suppress(DamagedArchive):  # the last byte may have bits without a meaning
            assert Directory(damaged, 0).topics() == whole.topics()


def test_records_that_do_not_follow_are_left_out():
    """A batch that is appended again adds nothing."""
    builder = Builder(RECORDS[99].id)
    builder.append(RECORDS[:120])
    builder.append(RECORDS[:120])

    assert 20 == builder.count


def test_quiet_topics_of_one_channel_share_a_group():
    """A busy one has its own."""
    _, _, whole = build(10**6)
    _, _, single = build(1)

    assert len({part.group for part in whole}) == len({t.channel for t in TOPICS})
    assert len({part.group for part in single}) == len(TOPICS)
    assert [] == list(whole.find(frozenset({Topic("matches", "X"), MATCHES.topic("Y")})))
