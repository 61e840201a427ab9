"""The rows of ``hedgehogd status``."""

import json

import pytest

from hedgehogd.commands.status_rows import row_of_health, rows_of_instances

HEALTH = {
    "instance": 4, "state": "live", "ready": True, "role": "none",
    "feed_age_s": 1.25, "loop_lag_s": 0.0, "history_age_s": None,
}  # fmt: skip


def body(value):
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("values", "cells"),
    [
        ({"version": "1.0", "subscribers": 7, "feed_age_s": 1.25},
         ("2", "live", "7", "1.2 s ago", "1.0", "")),
        ({"version": "1.0", "subscribers": 0}, ("2", "live", "0", "never", "1.0", "")),
        ({"ready": False, "reason": "no feed"},
         ("2", "live", "-", "-", "-", "not ready: no feed")),
    ],
)  # fmt: skip
def test_an_instance_is_a_row(values, cells):
    """A number that the instance did not report is a dash."""
    row = {"instance": 2, "state": "live", "ready": True, "reason": "live"} | values

    assert [cells] == rows_of_instances(body({"instances": [row]}))


def test_a_stream_port_reports_no_subscribers_and_no_version():
    """The reason is that of ``/readyz``."""
    rows = row_of_health(body(HEALTH | {"ready": False}), body({"reason": "draining"}))

    assert [("4", "live", "-", "-", "-", "not ready: draining")] == rows


@pytest.mark.parametrize("answer", [b"", b"hello", b"{}", b'{"instances":[{"instance":"\xff"}]}'])
def test_an_answer_of_another_program_is_a_value_error(answer):
    """``status`` reports it in one line."""
    with pytest.raises(ValueError):  # noqa: PT011 - the text is msgspec's
        rows_of_instances(answer)
    with pytest.raises(ValueError):  # noqa: PT011
        row_of_health(answer, body({"reason": "live"}))
    with pytest.raises(ValueError):  # noqa: PT011
        row_of_health(body(HEALTH), answer)
