"""Recordings: every byte again, at a time that can be believed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.protocol.recording import RecordingError, read_recording
from tests.recordings import FULL, PRO, recording


def timed(*times):
    return [json.dumps({"time": time}).encode() + b"\n" for time in times]


def dues(lines, received=None):
    return [round(due_s, 6) for due_s, _ in read_recording(lines, received)]


def test_a_real_recording_comes_out_byte_for_byte_and_at_its_receive_times():
    """Raw is sacred, and the burstiness of a real market is what makes it worth replaying."""
    folder = recording(PRO)
    lines = (folder / "feed.jsonl").read_bytes().splitlines(keepends=True)
    stamps = (folder / "feed.recv_ts.txt").read_bytes().splitlines(keepends=True)
    played = list(read_recording(lines, stamps))

    assert b"".join(payload + b"\n" for _, payload in played) == b"".join(lines)
    assert [due_s for due_s, _ in played] == [float(s) - float(stamps[0]) for s in stamps]
    assert played[-1].due_s == pytest.approx(30.84, abs=0.1)


def test_a_recording_without_receive_times_goes_by_its_own():
    """Most recordings people have are just messages."""
    lines = recording(f"{FULL}/feed.jsonl").read_bytes().splitlines(keepends=True)
    played = list(read_recording(lines))

    assert b"".join(payload + b"\n" for _, payload in played) == b"".join(lines)
    assert played[0].due_s == 0
    assert 0.1 < played[-1].due_s < 0.3


@given(st.lists(st.floats(min_value=-1e6, max_value=1e6), min_size=1))
def test_receive_times_never_step_back(stamps):
    """A recorder's clock may be set; the replay's may not."""
    lines = [b"{}\n"] * len(stamps)
    played = dues(lines, [b"%r\n" % stamp for stamp in stamps])

    assert played[0] == 0
    assert sorted(played) == played


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (["2021-04-17T16:43:30Z", "2021-04-17T16:43:30.25Z", "2021-04-17T16:43:31Z"], [0, 0.25, 1]),
        (["2021-04-17T16:43:30", "2021-04-17T16:43:31.000000Z"], [0, 1]),
        # A straggler within the limit is no step; what follows is measured from before it.
        (["2021-04-17T16:43:30Z", "2021-04-17T16:43:29Z", "2021-04-17T16:43:31Z"], [0, 0, 1]),
        # Yesterday's last match, then today: neither step is believed.
        (["2021-04-17T16:43:30Z", "2021-04-16T09:00:00Z", "2021-04-17T16:43:31Z"], [0, 0.01, 0.02]),
        (["2021-04-17T16:43:30Z", "0001-01-01T00:00:00.000000Z"], [0, 0.01]),
        (
            ["2021-04-17T16:43:30Z", "soon", 7, None, "2021-04-17T16:43:31Z"],
            [0, 0.01, 0.02, 0.03, 1.03],
        ),
        ([None, None, None], [0, 0.01, 0.02]),
    ],
)
def test_own_times_are_believed_as_far_as_they_can_be(times, expected):
    """Feeds carry broken clocks and old trades (FEED §6.6); a replay neither stalls nor races."""
    assert dues(timed(*times)) == expected


def test_blank_lines_are_no_messages():
    """hedgehogd's own NDJSON has one every 15 s, and people record with curl."""
    lines = [b"{}\n", b"\n", b'["open"]\r\n', b"\r\n", b"{}"]

    assert [payload for _, payload in read_recording(lines)] == [b"{}", b'["open"]', b"{}"]
    stamps = [b"1\n", b"2\n", b"3\n", b"4\n", b"5"]
    assert dues(lines, stamps) == [0, 2, 4]


@pytest.mark.parametrize("line", [b"hello\n", b'{"type":"ti', b"[1,2", b"{} {}", b"\xff\n", b"7\n"])
@pytest.mark.parametrize("received", [None, [b"1\n", b"2\n"]])
def test_a_line_that_is_no_message_is_named(line, received):
    """A cut download must not pass for a short day."""
    played = read_recording([b"{}\n", line], received)

    assert next(played).payload == b"{}"
    with pytest.raises(RecordingError, match=r"^line 2: found .*, expected one JSON message"):
        next(played)


@pytest.mark.parametrize("stamp", [b"noon\n", b"\n", b"nan\n", b"inf\n"])
def test_a_receive_time_that_is_none_is_named(stamp):
    """Sorting by a NaN would end the replay at a random place."""
    with pytest.raises(RecordingError, match=r"line 2: found .*, expected a receive time"):
        list(read_recording([b"{}\n", b"{}\n"], [b"1\n", stamp]))


@pytest.mark.parametrize(
    ("lines", "stamps", "found"),
    [
        ([b"{}\n", b"{}\n"], [b"1\n"], "line 2: found a message without a receive time"),
        ([b"{}\n"], [b"1\n", b"2\n"], "line 2: found a receive time without a message"),
    ],
)
def test_times_and_messages_must_be_as_many(lines, stamps, found):
    """Two files that do not belong together would replay at wrong times in silence."""
    with pytest.raises(RecordingError, match=found):
        list(read_recording(lines, stamps))


def test_a_long_bad_line_is_quoted_in_part():
    """An error is one line in a journal, not a megabyte."""
    with pytest.raises(RecordingError) as caught:
        list(read_recording([b"x" * 1_000_000]))

    assert len(str(caught.value)) < 200
