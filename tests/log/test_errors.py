"""The errors of the window: the party that must act on each."""

import pytest

from hedgehogd.domain.errors import EXIT_CONFIG, HedgehogError, OperatorError
from hedgehogd.log import errors
from hedgehogd.log.errors import LeftWindow, LogError, UnusableWindow


def test_a_position_that_left_names_the_oldest_one():
    """The caller reads on from there, after it reported the gap."""
    error = LeftWindow(42)

    assert 42 == error.oldest_id
    assert "records up to id 42 have left the window" == str(error)


def test_an_unusable_window_ends_the_start():
    """The operator must choose another directory or version."""
    assert EXIT_CONFIG == UnusableWindow("x").exit_status


@pytest.mark.parametrize(
    "error", [errors.Fenced, errors.LostLease, errors.WindowFull, errors.DamagedWindow,
              errors.ReplacedWindow, errors.LeftWindow],
)  # fmt: skip
def test_every_other_error_leaves_the_daemon_running(error):
    """It serves on, and reports that it cannot use the log."""
    assert issubclass(error, LogError)
    assert issubclass(error, HedgehogError)
    assert not issubclass(error, OperatorError)
