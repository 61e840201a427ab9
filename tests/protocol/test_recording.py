"""Recordings: each message is replayed byte for byte, at a plausible time."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.domain.errors import OperatorError
from hedgehogd.protocol.recording import RecordingError, find_recording, read_recording
from tests.recordings import FULL, PRO, recording


def timed(*times):
    return [json.dumps({"time": time}).encode() + b"\n" for time in times]


def dues(lines, received=None):
    return [round(due_s, 6) for due_s, _ in read_recording(lines, received)]


def test_a_real_recording_is_replayed_byte_for_byte_at_its_receive_times():
    """A replay must have the original bytes and the bursts of a real market."""
    folder = recording(PRO)
    lines = (folder / "feed.jsonl").read_bytes().splitlines(keepends=True)
    stamps = (folder / "feed.recv_ts.txt").read_bytes().splitlines(keepends=True)
    replayed = list(read_recording(lines, stamps))

    assert b"".join(payload + b"\n" for _, payload in replayed) == b"".join(lines)
    assert [due_s for due_s, _ in replayed] == [float(s) - float(stamps[0]) for s in stamps]
    assert replayed[-1].due_s == pytest.approx(30.84, abs=0.1)


def test_a_recording_without_receive_times_uses_message_times():
    """Most recordings have messages only."""
    lines = recording(f"{FULL}/feed.jsonl").read_bytes().splitlines(keepends=True)
    replayed = list(read_recording(lines))

    assert b"".join(payload + b"\n" for _, payload in replayed) == b"".join(lines)
    assert replayed[0].due_s == 0
    assert 0.1 < replayed[-1].due_s < 0.3


@given(st.lists(st.floats(min_value=-1e6, max_value=1e6), min_size=1))
def test_replay_times_never_decrease(stamps):
    """The clock of a recorder may be set back, but the time of a replay may not."""
    lines = [b"{}\n"] * len(stamps)
    replayed = dues(lines, [b"%r\n" % stamp for stamp in stamps])

    assert replayed[0] == 0
    assert sorted(replayed) == replayed


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (["2021-04-17T16:43:30Z", "2021-04-17T16:43:30.25Z", "2021-04-17T16:43:31Z"], [0, 0.25, 1]),
        (["2021-04-17T16:43:30", "2021-04-17T16:43:31.000000Z"], [0, 1]),
        # A late message within the limit is no step; the next step counts from before it.
        (["2021-04-17T16:43:30Z", "2021-04-17T16:43:29Z", "2021-04-17T16:43:31Z"], [0, 0, 1]),
        # Yesterday's last match, then today: neither step is plausible.
        (["2021-04-17T16:43:30Z", "2021-04-16T09:00:00Z", "2021-04-17T16:43:31Z"], [0, 0.01, 0.02]),
        (["2021-04-17T16:43:30Z", "0001-01-01T00:00:00.000000Z"], [0, 0.01]),
        (
            ["2021-04-17T16:43:30Z", "soon", 7, None, "2021-04-17T16:43:31Z"],
            [0, 0.01, 0.02, 0.03, 1.03],
        ),
        ([None, None, None], [0, 0.01, 0.02]),
    ],
)
def test_message_times_are_used_as_far_as_they_are_plausible(times, expected):
    """A replay neither stalls nor races at wrong clocks and old trades (COINBASE §6.6)."""
    assert dues(timed(*times)) == expected


def test_blank_lines_are_skipped():
    """hedgehogd's own NDJSON has a blank line every 15 s, and people record it with curl."""
    lines = [b"{}\n", b"\n", b'["open"]\r\n', b"\r\n", b"{}"]

    assert [payload for _, payload in read_recording(lines)] == [b"{}", b'["open"]', b"{}"]
    stamps = [b"1\n", b"2\n", b"3\n", b"4\n", b"5"]
    assert dues(lines, stamps) == [0, 2, 4]


@pytest.mark.parametrize("line", [b"hello\n", b'{"type":"ti', b"[1,2", b"{} {}", b"\xff\n", b"7\n"])
@pytest.mark.parametrize("received", [None, [b"1\n", b"2\n"]])
def test_an_invalid_line_is_an_error_with_its_number(line, received):
    """A truncated download must not look like a complete, shorter recording."""
    replayed = read_recording([b"{}\n", line], received)

    assert next(replayed).payload == b"{}"
    with pytest.raises(RecordingError, match=r"^line 2: found .*, expected one JSON message"):
        next(replayed)


@pytest.mark.parametrize("stamp", [b"noon\n", b"\n", b"nan\n", b"inf\n"])
def test_an_invalid_receive_time_is_an_error_with_its_line(stamp):
    """A NaN would end the replay at an arbitrary place."""
    with pytest.raises(RecordingError, match=r"line 2: found .*, expected a receive time"):
        list(read_recording([b"{}\n", b"{}\n"], [b"1\n", stamp]))


@pytest.mark.parametrize(
    ("lines", "stamps", "found"),
    [
        ([b"{}\n", b"{}\n"], [b"1\n"], "line 2: found a message without a receive time"),
        ([b"{}\n"], [b"1\n", b"2\n"], "line 2: found a receive time without a message"),
    ],
)
def test_each_message_must_have_a_receive_time(lines, stamps, found):
    """Two files of different recordings would be replayed at wrong times without an error."""
    with pytest.raises(RecordingError, match=found):
        list(read_recording(lines, stamps))


def test_the_error_of_a_long_line_quotes_a_part_of_it():
    """An error is one line of a log, and must not have a megabyte."""
    with pytest.raises(RecordingError) as caught:
        list(read_recording([b"x" * 1_000_000]))

    assert len(str(caught.value)) < 200


def test_a_recording_is_a_file_or_the_directory_of_one(tmp_path):
    """Users have either."""
    (tmp_path / "feed.jsonl").touch()

    assert find_recording(tmp_path) == tmp_path / "feed.jsonl"
    assert find_recording(tmp_path / "feed.jsonl") == tmp_path / "feed.jsonl"
    for nothing in (tmp_path / "nowhere", Path("demoo")):
        with pytest.raises(OperatorError, match="there is no recording"):
            find_recording(nothing)
