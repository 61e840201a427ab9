"""The window, newest record first: all of it, some topics, parts that are not readable."""

import os

import pytest
from structlog.testing import capture_logs

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.record import GapRecord
from hedgehogd.log import newest
from hedgehogd.log.newest import read_newest_first
from hedgehogd.log.segment import HEAD_BYTES
from hedgehogd.protocol.entry import BadEntry
from tests.log.conftest import descriptors, message

BTC, ETH = Topic("ticker", "BTC-USD"), Topic("ticker", "ETH-USD")


def written(machine, terms=3, each=40):
    """Append to some terms, with several segments in each."""
    number = 0
    for _ in range(terms):
        writer = machine.writer()
        for _ in range(each):
            writer.append([message(number, 300), message(number + 1, 300, "ETH-USD")])
            number += 2
        machine.close(writer)
    return number


def read(machine, is_wanted=lambda _: True):
    """Return the numbers of the messages, in the order in which they were read."""
    parts = list(read_newest_first(machine.directory, is_wanted))
    assert sorted({first_id for first_id, _ in parts}, reverse=True) == [each for each, _ in parts]
    for first_id, records in parts:
        assert all(record.id >= first_id for record in records)
    return [record.sequence for _, records in parts for record in records]


def test_all_records_are_read_newest_first(machine):
    """Of all segments and terms, with a live writer or without."""
    count = written(machine)
    before = descriptors()
    assert 6 < len(machine.directory.segments())
    assert list(reversed(range(count))) == read(machine)
    machine.writer()  # its term has no records
    assert list(reversed(range(count))) == read(machine)
    machine.close_all()
    assert descriptors() < before


def test_a_window_without_a_log_has_no_records(machine):
    """Nothing has begun it yet."""
    assert [] == read(machine)


def test_only_wanted_messages_are_read(machine):
    """A topic of which enough is known is passed from there on; other records always are read."""
    count = written(machine, terms=1)
    writer = machine.writer()
    writer.append([GapRecord(ETH), message(count, 1)])
    wanted = [True, True, False]
    found = list(read_newest_first(machine.directory, lambda topic: topic == BTC and wanted.pop(0)))

    kinds = [(type(each), each.topic) for _, records in found for each in records]
    assert [BTC, ETH, BTC] == [topic for _, topic in kinds]
    assert GapRecord is kinds[1][0]


def test_bytes_after_a_seal_are_not_read(machine):
    """They are not part of the log; a successor that died may have left them."""
    writer = machine.writer()
    writer.append([message(0)])
    machine.writer()
    with (machine.path / "segment-1-1").open("r+b") as file:
        data = file.read()
        file.write(data[HEAD_BYTES:])

    assert [0] == read(machine)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_damage_is_left_out_and_reported(machine, place):
    """The segments around it, and the records before it in its own, are read."""
    count = written(machine)
    segments = machine.directory.segments()
    term, number = segments[[0, 4, -1][place]]
    path = machine.path / f"segment-{term}-{number}"
    data = bytearray(path.read_bytes())
    data[-1000:] = b"x" * 1000
    path.write_bytes(data)
    with capture_logs() as lines:
        found = read(machine)

    assert sorted(found, reverse=True) == found
    missing = set(range(count)) - set(found)
    assert 0 < len(missing) < 12
    assert ["a part of the log is not readable"] == [line["event"] for line in lines]
    assert f"segment {number} of term {term}" in lines[0]["reason"]


def test_an_entry_of_other_bytes_is_left_out(machine, monkeypatch):
    """Its checksum is right: a later version wrote it."""
    writer = machine.writer()
    for number in range(3):
        writer.append([message(number)])
    plain, calls = newest.unpack_some, []

    def refuse(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise BadEntry("format 7")
        return plain(*arguments)

    monkeypatch.setattr(newest, "unpack_some", refuse)
    with capture_logs() as lines:
        assert [2, 0] == read(machine)
    assert "format 7" in lines[0]["reason"]


def test_a_segment_that_was_removed_is_left_out(machine, monkeypatch):
    """The writer removes the oldest ones meanwhile."""
    written(machine, terms=1)
    plain = newest._segments

    def remove(directory):
        segments = plain(directory)
        for path in machine.path.glob("segment-*-1"):
            path.unlink()
        return segments

    monkeypatch.setattr(newest, "_segments", remove)
    with capture_logs() as lines:
        found = read(machine)

    assert sorted(found, reverse=True) == found
    assert 0 not in found
    assert [] == lines


def test_a_segment_that_the_disk_refuses_is_left_out(machine, monkeypatch):
    """The rest is read."""
    written(machine, terms=2)
    plain, calls = os.pread, []

    def refuse(descriptor, size, offset):
        if size > 1000:
            calls.append(size)
            if len(calls) == 5:  # after those of the pages
                raise OSError(5, "Input/output error")
        return plain(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", refuse)
    with capture_logs() as lines:
        found = read(machine)

    assert sorted(found, reverse=True) == found
    assert "Input/output error" in lines[0]["reason"]
