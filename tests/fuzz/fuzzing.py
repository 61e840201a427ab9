"""The engine of the fuzzers: seeded rounds, a time limit per round, one report.

A *target* is a function of a ``Random`` and a number of inputs. It feeds at least one input to a
part of hedgehogd, and returns the number of inputs fed. It raises for any result that a peer's
input must not cause: an exception that the part's caller does not expect, a counted "bug", an
invalid answer. Every round has a ``Random`` of its own, so one round can be repeated alone.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import NamedTuple

Target = Callable[[Random, int], int]

ROUND_INPUTS = 500
ROUND_S_MAX = 60.0
"""A round of 500 inputs takes under a second; one that takes a minute hangs."""


class Report(NamedTuple):
    """The result of a run.

    Attributes:
        inputs: number of inputs fed.
        rounds: number of rounds of about ``ROUND_INPUTS``.
    """

    inputs: int
    rounds: int


class Finding(AssertionError):
    """A round that failed; ``python -m tests.fuzz NAME --seed SEED --round ROUND`` repeats it.

    Attributes:
        seed: the seed of the run.
        round: the number of the round.
    """

    def __init__(self, name: str, seed: int, round_: int, error: BaseException) -> None:
        super().__init__(f"{name} --seed {seed} --round {round_}: {type(error).__name__}: {error}")
        self.seed = seed
        self.round = round_


class Hang(Exception):
    """A round took longer than ``ROUND_S_MAX``."""


def run_round(name: str, target: Target, seed: int, round_: int, inputs: int) -> int:
    """Run one round; return the number of inputs fed.

    Raises:
        Finding: the target reported a fault, or hung.
    """
    try:
        with _time_limit():
            return target(Random(f"{name} {seed} {round_}"), inputs)
    except Exception as error:
        raise Finding(name, seed, round_, innermost(error)) from error


def run(
    name: str, target: Target, seed: int, inputs: int, *, first: int = 0, step: int = 1
) -> Report:
    """Run rounds ``first``, ``first + step``, … until ``inputs`` inputs have been fed.

    Raises:
        Finding: the first round that failed.
    """
    fed = rounds = 0
    while fed < inputs:
        wanted = min(ROUND_INPUTS, inputs - fed)
        fed += run_round(name, target, seed, first + rounds * step, wanted)
        rounds += 1
    return Report(fed, rounds)


def innermost(error: BaseException) -> BaseException:
    """Return the first error inside exception groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(number, frame):
        raise Hang(f"no end within {ROUND_S_MAX:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, ROUND_S_MAX)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
