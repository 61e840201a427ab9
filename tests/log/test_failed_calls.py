"""Each system call of the window fails once: the error is the log's own, and nothing stays open.

Each step is done with its first call failing, then with its second, and so on. The error names the
directory and the reason. All that the step opened is closed, and neither sockets nor unpublished
pages are left. After the fault the log goes on: nothing that was published is missing.
"""

import errno
import fcntl
import mmap
import os
import socket
from collections import Counter
from pathlib import Path

import pytest

from hedgehogd.domain.errors import HedgehogError
from hedgehogd.log import lease as lease_module
from hedgehogd.log.directory import Directory
from hedgehogd.log.errors import LogError
from hedgehogd.log.follower import Follower
from hedgehogd.log.reader import Reader
from hedgehogd.log.window import Window
from tests.log.conftest import SMALL, Machine, message, numbers, oldest_id

OS_CALLS = ("open", "listdir", "pread", "pwrite", "pwritev", "link", "unlink", "stat", "fstat",
    "posix_fallocate", "fstatvfs", "ftruncate", "fchmod", "mkdir")  # fmt: skip
REASON = "Input/output error"


class Calls:
    """The system calls of a block, of which one fails.

    Attributes:
        count: the number of calls so far.
        names: how often each one was called.
    """

    def __init__(self, patch, failing):
        self.count = 0
        self.names = Counter()
        self._failing = failing
        for name in OS_CALLS:
            patch.setattr(os, name, self._around(name, getattr(os, name)))
        patch.setattr(fcntl, "flock", self._around("flock", fcntl.flock))
        patch.setattr(mmap, "mmap", self._around("mmap", mmap.mmap))
        for name in ("bind", "connect", "send"):
            plain = getattr(socket.socket, name)
            patch.setattr(socket.socket, name, self._around(name, plain))

    def _around(self, name, plain):
        def call(*arguments, **options):
            self.count += 1
            self.names[name] += 1
            if self.count == self._failing:
                raise OSError(errno.EIO, REASON)
            return plain(*arguments, **options)

        return call


class Scene:
    """A machine with a log of two terms and several segments, and the steps to try there.

    Attributes:
        machine: the machine.
        directory: its directory, open.
        published: numbers of the records that were published.
        opened: the objects that a step opened.
    """

    def __init__(self, path):
        self.machine = Machine(path)
        self.bounds = SMALL._replace(window_bytes_max=20_000)
        self.published = []
        writer = self.machine.writer(self.bounds)
        for number in range(8):
            self._append(writer, number)
        self.machine.close(writer)
        self.writer = self.machine.writer(self.bounds)
        for number in range(8, 12):
            self._append(self.writer, number)
        self.reader = self.machine.reader()
        self.directory = self.machine.directory
        self.opened = []

    def _append(self, writer, number):
        writer.append([message(number, 1000)])
        self.published.append(number)

    def open_directory(self):
        self.opened.append(Directory(self.machine.path))

    def open_reader(self):
        self.opened.append(Reader(self.directory))

    def open_follower(self):
        self.opened.append(Follower(self.directory))

    def search(self):
        found = self.reader.read(0, 10**9)
        while more := self.reader.read(found[-1].id, 10**9):  # an error after records comes next
            found += more
        assert self.published == numbers(found)

    def prepare_take(self):
        self.machine.close(self.writer)
        self.candidate = self.machine.candidate()
        assert self.candidate.look()

    def take(self):
        self.opened.append(self.candidate.take())

    def look(self):
        self.machine.candidate().look()

    def prepare_window(self):
        self.prepare_take()
        self.page = self.candidate.take()
        self.machine.keep(Follower(self.machine.directory))
        (self.machine.path / "segment-2-99").write_bytes(b"after the seal")
        (self.machine.path / "new-0").touch()

    def open_window(self):
        clock = self.machine.clock
        self.opened.append(
            Window(self.directory, self.page, lambda: clock.wall_us, self.bounds, lambda: clock.ns)
        )

    def prepare_append(self):
        self.machine.keep(Follower(self.machine.directory))
        dead = Follower(self.directory)
        self.writer.renew()
        dead._socket.close()
        dead._own.close()
        dead._reader.close()

    def append(self):
        error = None
        for number in range(12, 20):
            try:
                self._append(self.writer, number)
            except LogError as caught:  # the same writer goes on
                error = caught
        if error is not None:
            raise error

    def prepare_renew(self):
        self.machine.clock.pass_s(self.bounds.window_s + 1)

    def renew(self):
        self.writer.renew()


PREPARATIONS = {
    "open_directory": None,
    "open_reader": None,
    "open_follower": None,
    "search": None,
    "take": "prepare_take",
    "look": None,
    "open_window": "prepare_window",
    "append": "prepare_append",
    "renew": "prepare_renew",
}
OPENING = {"open_directory", "open_reader", "open_follower", "take", "open_window"}


def open_files(directory):
    """Return the open sockets and files below ``directory``, without their numbers.

    Files of earlier tests in the same process may be closed meanwhile.
    """
    found = Counter()
    for each in Path("/proc/self/fd").iterdir():
        try:
            target = str(each.readlink())
        except FileNotFoundError:  # of this listing
            continue
        if target.startswith("socket:"):
            found["socket"] += 1
        elif str(directory) in target:
            found[target.removesuffix(" (deleted)")] += 1
    return found


def mapped(path):
    return sum(str(path) in line for line in Path("/proc/self/maps").read_text().splitlines())


def attempt(tmp_path, monkeypatch, step, failing):
    """Do a step with one failing call; return the number of calls, and the error or None."""
    at_first = open_files(tmp_path)
    scene = Scene(tmp_path / f"window-{failing}")
    machine, path = scene.machine, scene.machine.path
    try:
        if PREPARATIONS[step]:
            getattr(scene, PREPARATIONS[step])()
        files, maps, sockets = open_files(tmp_path), mapped(path), len(scene.directory.followers())
        error = None
        with monkeypatch.context() as patch:
            calls = Calls(patch, failing)
            try:
                getattr(scene, step)()
            except HedgehogError as caught:
                error = caught
        if error is not None:
            assert str(path) in str(error)
            assert REASON in str(error)
            if step in OPENING:
                assert not open_files(tmp_path) - files, calls.names
                assert maps >= mapped(path)
                assert sockets == len(scene.directory.followers())
        for each in scene.opened:
            each.close()
        going_on(scene)
    finally:
        machine.close_all()
    assert at_first == open_files(tmp_path)
    assert 0 == mapped(path)
    return calls.count, error


def going_on(scene):
    """Another candidate takes the lease; the published records are read, and then a new one."""
    writer = scene.machine.writer(SMALL)
    writer.append([message(1000)])
    assert not [name for name in scene.directory.names() if name.startswith("new-")]
    found = numbers(scene.machine.reader().read(oldest_id(scene.machine), 10**9))
    assert [*(each for each in scene.published if each >= found[0]), 1000] == found


@pytest.mark.parametrize("step", PREPARATIONS)
def test_each_failed_call_is_an_error_of_the_log_and_leaves_nothing_open(
    tmp_path, monkeypatch, step
):
    """A daemon tries again for months: any file that stays open is one too many each time."""
    monkeypatch.setattr(lease_module, "make_stores_visible", lambda: None)  # it waits for all cores
    total, error = attempt(tmp_path, monkeypatch, step, 0)
    assert error is None
    assert total > 0
    errors = [attempt(tmp_path, monkeypatch, step, call)[1] for call in range(1, total + 1)]

    assert any(errors)
