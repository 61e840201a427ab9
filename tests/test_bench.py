"""The benchmarks' judgement of their own runs: disturbance, acknowledgements, spread.

``bench/run`` itself is too slow for the suite; these functions decide which figures may be quoted.
"""

import importlib

import pytest

STAT = """\
cpu  100 5 50 1000 20 3 2 {steal} 0 0
cpu0 50 3 25 500 10 1 1 0 0 0
cpu1 50 2 25 500 10 2 1 0 0 0
intr 12345 0 0
ctxt 99
"""


@pytest.fixture(scope="module")
def bench():
    """Return a function that imports a module of the benchmarks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend("bench")
        yield importlib.import_module


@pytest.fixture
def disturbance(bench):
    return bench("disturbance")


def test_the_counters_of_the_machine_are_read(disturbance):
    """Idle time includes waits for disks; the total's line is no core."""
    cores = disturbance.parse_stat(STAT.format(steal=30), tick_s=0.01)

    assert (2, 10.2, 0.3) == (
        cores.count,
        pytest.approx(cores.idle_s),
        pytest.approx(cores.steal_s),
    )


@pytest.mark.parametrize(
    ("idle_s", "steal_s", "own_s", "foreign", "steal"),
    [
        (6.0, 0.0, 14.0, 0.0, 0.0),
        (5.0, 0.0, 14.0, 0.1, 0.0),
        (5.0, 1.0, 14.0, 0.0, 0.1),
        (6.5, 0.0, 14.0, 0.0, 0.0),  # clocks of different sources differ a little
    ],
)
def test_time_that_no_own_process_used_is_foreign(
    disturbance, idle_s, steal_s, own_s, foreign, steal
):
    """Ten seconds of two cores are twenty seconds of CPU time."""
    before = disturbance.Cores(2, 100.0, 7.0)
    after = disturbance.Cores(2, 100.0 + idle_s, 7.0 + steal_s)

    found = disturbance.shares(before, after, wall_s=10.0, own_s=own_s)

    assert {"foreign": foreign, "steal": steal} == pytest.approx(found)


@pytest.mark.parametrize(
    ("foreign", "steal", "waited", "expected"),
    [
        (0.02, 0.02, 0.05, False),
        (0.06, 0.0, 0.0, True),
        (0.0, 0.06, 0.0, True),
        (0.03, 0.03, 0.0, True),
        (0.0, 0.0, 0.06, True),
    ],
)
def test_a_run_is_disturbed_above_a_twentieth_of_a_core(
    disturbance, foreign, steal, waited, expected
):
    found = {"foreign": foreign, "steal": steal, "waited": waited}

    assert expected == disturbance.is_disturbed(found)


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


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0, 1.0, 2.5], "2.50 (1.00–3.00)"),
        ([2.0, None, 1.0], "1.50 (1.00–2.00)"),
        ([1.0], "1.00"),
        ([None], None),
    ],
)
def test_a_median_is_printed_with_its_spread(bench, values, expected):
    assert expected == bench("report").spread(values)


def test_ratios_compare_the_same_round(bench):
    """A round without a figure has no ratio; the other rounds keep theirs."""
    assert [2.0, None, 3.0] == bench("report").ratios([2.0, 5.0, 9.0], [1.0, None, 3.0])


def test_a_fault_of_some_rounds_names_their_number(bench):
    runs = [{"faults": ["late", "disturbed"]}, {"faults": ["late"]}]

    assert "disturbed (1/2); late" == bench("report").faults(runs)


@pytest.mark.parametrize(
    ("with_fault", "runs", "expected"),
    [(0, 1, True), (1, 1, False), (1, 3, True), (2, 4, False), (2, 3, False), (0, 2, True)],
)
def test_a_median_is_judged_if_most_runs_are_sound(bench, with_fault, runs, expected):
    report = bench("report")
    sound, mixed = [{"faults": []}], [{"faults": ["late"] * (i < with_fault)} for i in range(runs)]

    text = report.judged(0.9, 1.15, 1.0, sound, mixed)

    assert expected is ("moonshot reached" in text)
    assert expected is ("NOT JUDGED" not in text)
