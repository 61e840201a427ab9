"""The pipe and its parts, as in the tests of ``fanout``."""

from tests.fanout.conftest import back, command_fixture, plumbing, stored

__all__ = ["back", "command_fixture", "plumbing", "stored"]
