"""The benchmarks' judgement of their own runs: disturbance, acknowledgements, spread.

``bench/run`` itself is too slow for the suite; these functions decide which figures may be quoted.
"""

import importlib

import pytest


@pytest.fixture(scope="module")
def bench():
    """Return a function that imports a module of the benchmarks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend("bench")
        yield importlib.import_module


@pytest.mark.parametrize(
    ("sent", "by_timer", "mode", "prompt"),
    [
        (960, 0, "quick", 0.96),
        (880, 3, "quick", 0.877),  # some reads found several segments
        (500, 2, "delayed", 0.498),  # every second segment is acknowledged
        (1000, 1000, "delayed", 0.0),  # the timer acknowledges each
        (1000, 1050, "delayed", 0.0),  # timers of foreign sockets are counted too
    ],
)
def test_a_mode_of_acknowledgement_is_proven_by_counts(bench, sent, by_timer, mode, prompt):
    """Counts that prove one mode contradict the other one."""
    rig = bench("rig")
    acks = {"segments": 1000, "sent": sent, "sampled_reads": 100, "sampled_acks": 90}
    other = {"quick": "delayed", "delayed": "quick"}[mode]

    figures = rig.ack_figures({"acks": acks}, by_timer)

    expected = {"acks_per_segment": sent / 1000, "prompt_acks": prompt, "acks_per_read": 0.9}
    assert expected == figures
    assert ([], [f"not {other}"]) == (rig.ack_fault(mode, figures), rig.ack_fault(other, figures))


def test_the_timers_acknowledgements_are_read_by_name(bench):
    """The kernel adds counters with each version; their places change."""
    text = "TcpExt: SyncookiesSent DelayedACKs\nTcpExt: 7 42\nIpExt: InNoRoutes\nIpExt: 1\n"

    assert {"SyncookiesSent": 7, "DelayedACKs": 42} == bench("rig").parse_netstat(text)
    assert bench("rig").timer_acks() >= 0
