"""The instances' sockets: permissions, lifetime and replacement."""

import os
import socket
import stat

import pytest

from hedgehogd.domain.errors import EXIT_CONFIG, OperatorError
from hedgehogd.relay import sockets
from hedgehogd.relay.sockets import numbers_in, own_socket, socket_path


def connects(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def refused(directory, number=1):
    with pytest.raises(OperatorError) as caught, own_socket(directory, number):
        pass
    assert caught.value.exit_status == EXIT_CONFIG
    return str(caught.value)


def test_a_socket_lives_as_long_as_its_instance_and_admits_only_its_user_and_group(tmp_path):
    """A process that can connect can control every session of a known id."""
    mask = os.umask(0o022)
    os.umask(mask)
    with own_socket(tmp_path, 7) as listener:
        path = socket_path(tmp_path, 7)
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert connects(path)
        assert not listener.getblocking()
    assert not path.exists()
    assert os.umask(mask) == mask  # the umask of the process is unchanged


def test_the_socket_of_a_killed_instance_is_replaced(tmp_path):
    """A restart after SIGKILL must not need an operator."""
    path = socket_path(tmp_path, 1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    assert path.exists()

    with own_socket(tmp_path, 1):
        assert connects(path)


def test_two_instances_of_one_number_cannot_run(tmp_path):
    """Their session ids would be ambiguous; the running instance continues."""
    with own_socket(tmp_path, 1):
        assert "instance 1 runs already" in refused(tmp_path)
        assert connects(socket_path(tmp_path, 1))


def test_an_instance_that_does_not_accept_counts_as_running(tmp_path, monkeypatch):
    """A stopped process keeps its socket; its accept queue may be full."""
    monkeypatch.setattr(sockets, "_DIAL_S", 0.05)
    path = socket_path(tmp_path, 1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as busy:
        busy.bind(str(path))
        busy.listen(0)
        waiting = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(3)]
        try:
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(str(path))
            assert "instance 1 runs already" in refused(tmp_path)
        finally:
            for one in waiting:
                one.close()


def test_a_socket_replaced_by_another_instance_is_not_removed(tmp_path):
    """An instance that ends late must not remove its successor's socket."""
    path = socket_path(tmp_path, 1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as successor:
        with own_socket(tmp_path, 1):
            path.unlink()
            successor.bind(str(path))
        assert path.exists()


@pytest.mark.parametrize("place", ["missing", "file"])
def test_an_invalid_directory_is_reported(tmp_path, place):
    """The message names the path and the flag."""
    (tmp_path / "file").write_text("")
    message = refused(tmp_path / place)

    assert str(tmp_path / place / "1.sock") in message
    assert "--runtime-dir" in message


def test_a_path_that_is_too_long_for_a_socket_is_reported(tmp_path):
    """The kernel allows 107 bytes."""
    assert "too long" in refused(tmp_path / ("x" * 120))


def test_instances_are_known_by_their_sockets(tmp_path):
    """Other files in the directory are ignored."""
    for name in ("10.sock", "9.sock", "x.sock", "9.lock", "-1.sock"):
        (tmp_path / name).write_text("")

    assert numbers_in(tmp_path) == [9, 10]
    with pytest.raises(FileNotFoundError):
        numbers_in(tmp_path / "missing")
