"""The soak's verdict: a rise is detected among noise, and noise is no rise."""

from random import Random

import pytest

from tests.soak.trend import MIB, Sample, judge, per_hour

HOUR_S = 3600


def samples(rise_per_hour=0, noise=0.0, seed=1):
    """Return two samples a minute for an hour; memory rises by MiB, files and tasks by one each."""
    random = Random(seed)
    return [
        Sample(
            at_s,
            int(MIB * (100 + rise_per_hour * at_s / HOUR_S + random.uniform(0, noise))),
            320 + int(rise_per_hour * at_s / HOUR_S),
            370 + int(rise_per_hour * at_s / HOUR_S),
            at_s * 4000,
        )
        for at_s in range(30, HOUR_S + 1, 30)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_no_rise(seed):
    """malloc returns pages late: half a MiB more or less is noise."""
    verdicts = judge(samples(noise=0.5, seed=seed), 600)
    assert not any(verdict.is_over for verdict in verdicts)


@pytest.mark.parametrize("seed", range(20))
def test_a_rise_among_noise_is_found(seed):
    """Two MiB an hour are over the bar, even if a single sample is not."""
    memory, files, tasks = judge(samples(rise_per_hour=2, noise=0.5, seed=seed), 600)
    assert memory.is_over
    assert files.last > files.first
    assert tasks.last > tasks.first


def test_files_and_tasks_that_rise_are_found():
    """One stream a minute that leaves its file or task open is detected."""
    _, files, tasks = judge(samples(rise_per_hour=60), 600)
    assert files.is_over
    assert tasks.is_over


def test_the_warm_up_is_not_judged():
    """Caches fill and the tape grows in the first minutes."""
    warming = [s._replace(rss_bytes=s.rss_bytes - 50 * MIB) for s in samples()[:19]]
    verdicts = judge(warming + samples()[19:], 600)
    assert not any(verdict.is_over for verdict in verdicts)


def test_a_few_samples_decide_nothing():
    """A short run must not pass for want of evidence."""
    with pytest.raises(ValueError, match="9 samples after the warm-up"):
        judge(samples()[:9], 0)


def test_the_rise_is_that_of_one_hour():
    """Seconds and bytes in, an hour's rise out; one sample has none."""
    assert per_hour([(0, 10), (1800, 12), (3600, 14)]) == 4
    assert per_hour([(0, 10)]) == 0
