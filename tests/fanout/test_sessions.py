"""All sessions of an instance, and the owner of a session id."""

import pytest

from hedgehogd.fanout.sessions import owner_of
from hedgehogd.protocol.wire import NDJSON


async def test_sessions_are_found_by_id_while_they_are_open(plumbing):
    """REST answers 404 for a stream that has ended, although its peer still reads the farewell."""
    sessions = plumbing.sessions
    (one, _), (two, _) = plumbing.open(), plumbing.open(NDJSON[True])
    assert (sessions.get(one.id), sessions.get("1.other")) == (one, None)
    assert (list(sessions), len(sessions)) == ([one, two], 2)
    assert sessions.opened == {"websocket": 1, "ndjson": 1}

    one.close()
    assert (sessions.get(one.id), len(sessions)) == (None, 2)
    for session in sessions:
        sessions.discard(session)
    sessions.discard(two)
    assert (two.is_closed, len(sessions)) == (True, 0)


@pytest.mark.parametrize(
    ("session_id", "number"),
    [
        ("3.q3Zk", 3),
        ("0.q", 0),
        ("57535.", 57535),
        ("3", None),
        ("", None),
        (".q", None),
        ("-3.q", None),
        ("3 .q", None),
        ("123456.q", None),
        ("٣.q", None),
        ("x.q", None),
    ],
)
def test_an_id_states_its_instance(session_id, number):
    """Any instance knows where a command belongs, without asking."""
    assert owner_of(session_id) == number
