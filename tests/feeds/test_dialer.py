"""The dialer: one rate of dials for all connections, and one log line per fault."""

from random import Random

import pytest
import trio

from hedgehogd.domain import limits
from hedgehogd.domain.feed_address import parse_url
from hedgehogd.feeds.dialer import Dialer
from hedgehogd.protocol.signing import Credentials


@pytest.fixture
def dialer():
    return Dialer(parse_url("ws://user:word@exchange.test/"), Random(1), lambda: 12_000_000)


async def dial_times(dialer, count):
    """Return when each of ``count`` dials is allowed, in seconds."""
    times = []
    for _ in range(count):
        await dialer.wait_for_a_dial()
        times.append(trio.current_time())
    return times


async def test_dials_after_the_burst_keep_to_the_rate(autojump_clock, dialer):
    """The exchange counts connections by address, not by line."""
    times = await dial_times(dialer, limits.DIALS_BURST + 2)

    assert times[: limits.DIALS_BURST] == [0] * limits.DIALS_BURST
    assert times[-1] == pytest.approx(2 / limits.DIALS_PER_S)


async def test_feeds_of_one_machine_divide_the_rate(autojump_clock, dialer):
    """The exchange counts by address, and all instances have the same one."""
    dialer.share(2)
    await dial_times(dialer, limits.DIALS_BURST)
    before = trio.current_time()
    await dialer.wait_for_a_dial()

    assert trio.current_time() - before == pytest.approx(2 / limits.DIALS_PER_S)


async def test_a_rate_limit_that_comes_during_the_wait_extends_it(autojump_clock, dialer):
    """A dial during the pause would only prolong it."""
    await dial_times(dialer, limits.DIALS_BURST)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(dialer.wait_for_a_dial)
        await trio.testing.wait_all_tasks_blocked()
        dialer.not_before = 100.0

    assert trio.current_time() >= 100


async def test_a_failure_is_logged_once_a_while_and_after_a_success(autojump_clock, dialer):
    """A night without network must not fill the log; a new fault must not be missed."""
    news = [dialer.is_news("timeout"), dialer.is_news("timeout"), dialer.is_news("refused")]
    assert news == [True, False, True]

    await trio.sleep(limits.DIAL_LOGGED_S)
    assert dialer.is_news("refused")
    dialer.forget_failure()
    assert dialer.is_news("refused")


def test_a_request_is_signed_with_credentials_alone(dialer):
    """The signature states the time of the clock that it is built with."""
    key = Credentials("key", "c2VjcmV0", "phrase")
    signing = Dialer(dialer.address, Random(1), dialer.wall_us, credentials=key)

    assert dialer.sign is None
    assert signing.sign() == key.sign(12.0)


def test_secrets_of_address_and_key_are_hidden_together(dialer):
    """A reason may quote either."""
    key = Credentials("key-1234", "c2VjcmV0", "phrase-1")
    signing = Dialer(dialer.address, Random(1), dialer.wall_us, credentials=key)

    assert "phrase-1" not in signing.secrets.hide("phrase-1")
    assert "phrase-1" in dialer.secrets.hide("phrase-1")
