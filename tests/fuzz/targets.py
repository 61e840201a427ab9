"""The fuzzers by name, and the number of inputs of each in the test suite."""

from typing import NamedTuple

from tests.fuzz.answers import fuzz_answers
from tests.fuzz.archives import fuzz_archives
from tests.fuzz.client import fuzz_client
from tests.fuzz.fuzzing import Target
from tests.fuzz.heads import fuzz_heads
from tests.fuzz.queries import fuzz_queries
from tests.fuzz.stores import fuzz_stores
from tests.fuzz.upstream import fuzz_upstream
from tests.fuzz.windows import fuzz_windows


class Fuzzer(NamedTuple):
    """One fuzzer.

    Attributes:
        target: the function that feeds the inputs.
        suite_inputs: inputs in a run of the test suite: about two seconds.
    """

    target: Target
    suite_inputs: int


FUZZERS = {
    "upstream": Fuzzer(fuzz_upstream, 10_000),
    "client": Fuzzer(fuzz_client, 6_000),
    "heads": Fuzzer(fuzz_heads, 2_000),
    "queries": Fuzzer(fuzz_queries, 4_000),
    "answers": Fuzzer(fuzz_answers, 400),
    "stores": Fuzzer(fuzz_stores, 20),
    "archives": Fuzzer(fuzz_archives, 25),
    "windows": Fuzzer(fuzz_windows, 100),
}
