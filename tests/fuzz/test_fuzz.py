"""A short run of each fuzzer with a printed seed; and a planted bug that each one finds.

``python -m tests.fuzz NAME --inputs N`` runs them for longer.
"""

import secrets
import sys

import pytest

from hedgehogd.arbitration import session as upstream
from hedgehogd.domain.record import GapRecord
from hedgehogd.log import reader as log_reader
from hedgehogd.log.archive import merge
from hedgehogd.log.migration import migrate, old_store
from hedgehogd.streaming import connection, door, request
from hedgehogd.web import parameters
from tests.fuzz import fuzzing
from tests.fuzz.__main__ import main
from tests.fuzz.targets import FUZZERS

pytestmark = [pytest.mark.e2e, pytest.mark.fuzz]


@pytest.mark.parametrize("name", FUZZERS)
def test_no_input_of_a_peer_causes_a_bug(name, capsys):
    """Every input is read, or refused as the peer's mistake."""
    seed = secrets.randbits(32)
    with capsys.disabled():
        # pytest-xdist drops the stdout of its processes
        sys.stderr.write(f"\npython -m tests.fuzz {name} --seed {seed}\n")
    fuzzer = FUZZERS[name]
    report = fuzzing.run(name, fuzzer.target, seed, fuzzer.suite_inputs)

    assert report.inputs >= fuzzer.suite_inputs


def _plant(monkeypatch, module, name, is_bad, error):
    """Let ``module.name`` raise ``error`` where ``is_bad`` of its arguments or its result."""
    original = getattr(module, name)

    def wrong(*arguments):
        result = original(*arguments)
        if is_bad(result, *arguments):
            raise error
        return result

    monkeypatch.setattr(module, name, wrong)


PLANTED = {
    # A head with a trade id but without a sequence.
    "upstream": (
        upstream, "read_head", lambda head, _: head.trade_id and head.sequence is None,
        TypeError("'<' not supported between NoneType and int"),
    ),
    # An unsubscribe with a position.
    "client": (
        connection, "parse", lambda command, _: command.since and not command.subscribes,
        KeyError("since"),
    ),
    # Two headers of a name that allows one.
    "heads": (
        door, "read_head", lambda head, _: sum(n == b"upgrade" for n, _ in head.headers) > 1,
        IndexError("list index out of range"),
    ),
    # A start and an end at the same time.
    "queries": (
        request, "read_start", lambda start, text, _: start.after_us == 0,
        OverflowError("date value out of range"),
    ),
    # A command that ends subscriptions.
    "answers": (
        parameters, "described_parameters", lambda _, path, method: (
            (path, method) == ("/api/v1/subscribe/{pair}", "DELETE")
        ),
        KeyError("delete"),
    ),
    # A block that is unreadable.
    "stores": (
        migrate, "_is_missing", lambda is_missing, record: (
            isinstance(record, GapRecord) and not is_missing
        ),
        KeyError("unreadable"),
    ),
    # A directory that is damaged.
    "archives": (
        merge, "unreadable", lambda gap, *_: gap.topic.channel == "full",
        IndexError("list index out of range"),
    ),
    # A search that passes the last entry of a segment.
    "windows": (
        log_reader, "skip", lambda found, data, _: found[0] == len(data),
        IndexError("index out of range"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FUZZERS)
def test_a_planted_bug_is_found(name, monkeypatch):
    """A fuzzer without findings must be able to find a bug."""
    _plant(monkeypatch, *PLANTED[name])

    with pytest.raises(fuzzing.Finding, match=rf"{name} --seed 5 --round \d+"):
        fuzzing.run(name, FUZZERS[name].target, 5, 40 * FUZZERS[name].suite_inputs)


def test_an_altered_message_of_a_migration_is_found(monkeypatch):
    """The counts of the archive and of the store are equal."""
    original = old_store.unpack

    def altered(topic, block):
        return [(place, payload.replace(b"1", b"2")) for place, payload in original(topic, block)]

    monkeypatch.setattr(old_store, "unpack", altered)
    with pytest.raises(fuzzing.Finding, match="the archive has other messages"):
        fuzzing.run("stores", FUZZERS["stores"].target, 5, 50)


def test_a_round_that_does_not_end_is_found(monkeypatch):
    """A hang is a bug, like a crash."""
    monkeypatch.setattr(fuzzing, "ROUND_S_MAX", 0.05)

    def hang(random, inputs):
        while True:
            pass

    with pytest.raises(fuzzing.Finding, match="Hang: no end within"):
        fuzzing.run("hang", hang, 1, 1)


def test_the_command_repeats_a_round(monkeypatch, capsys):
    """The text of a finding contains the arguments that repeat it."""
    _plant(monkeypatch, *PLANTED["client"])
    client = FUZZERS["client"]
    with pytest.raises(fuzzing.Finding) as found:
        fuzzing.run("client", client.target, 5, 40 * client.suite_inputs)
    name, *arguments = str(found.value).split(":")[0].split()

    assert main([name, *arguments]) == 1
    assert "KeyError: 'since'" in capsys.readouterr().err
    monkeypatch.undo()
    assert main([name, *arguments]) == 0
