"""Faults inside a process of the crash harness, and mutants of the window that it must reject.

``arm`` lets a process stop or kill itself at the steps that matter: before and after the write of
an append, before the publication, and between the steps of a takeover. ``mutate`` replaces one
piece of source text of the package in the running process.
"""

import os
import signal
import time
from random import Random
from types import ModuleType

from hedgehogd.log import allocation, directory, follower, header, lease, reader, segment, window

MUTANTS: dict[str, tuple[ModuleType, str, str]] = {
    "writer checks before its append only": (
        window,
        (
            "        self._write(frame(entry, first_id, last_id), entry, size)\n"
            "        if self._page.is_fenced:\n"
            '            raise Fenced(f"term {self.term} has ended")\n'
        ),
        (
            "        if self._page.is_fenced:\n"
            '            raise Fenced(f"term {self.term} has ended")\n'
            "        self._write(frame(entry, first_id, last_id), entry, size)\n"
        ),
    ),
    "follower reads whole entries without a check": (
        reader,
        (
            "        if self._following is None and self._page.is_fenced:\n"
            "            self._following = self._next_page()\n"
            "        if self._following is not None:\n"
            "            return"
        ),
        (
            "        from hedgehogd.log.lease import measure\n"
            "        whole = measure(self._directory, self._page).place.word\n"
            "        if self._segment << 32 | self._at < whole:\n"
            "            return whole\n"
            "        if self._following is None and self._page.is_fenced:\n"
            "            self._following = self._next_page()\n"
            "        if self._following is not None:\n"
            "            return"
        ),
    ),
    "seal is measured before the fence": (
        lease,
        (
            "        page.fence()\n"
            "        make_stores_visible()\n"
            "        seal = measure(self._directory, page)\n"
        ),
        (
            "        seal = measure(self._directory, page)\n"
            "        make_stores_visible()\n"
            "        page.fence()\n"
        ),
    ),
    "writer publishes before its append": (
        window,
        "        self._write(frame(entry, first_id, last_id), entry, size)\n",
        (
            "        self._page.publish(self._allocation.number, self._offset + size, last_id)\n"
            "        self._write(frame(entry, first_id, last_id), entry, size)\n"
        ),
    ),
    "candidate replaces the page of another one": (
        directory,
        "            os.link(name, _term_name(term), src_dir_fd=here, dst_dir_fd=here)\n",
        (
            "            os.link(name, name + 'x', src_dir_fd=here, dst_dir_fd=here)\n"
            "            os.rename(name + 'x', _term_name(term), src_dir_fd=here,"
            " dst_dir_fd=here)\n"
        ),
    ),
    "seal ignores the next segment": (
        lease,
        "        if not is_ended:\n            break\n",
        "        break\n",
    ),
    "ids follow the clock alone": (
        window,
        "        first_id = max(self._wall_us(), self.last_id + 1)\n",
        "        first_id = self._wall_us()\n",
    ),
}
_USERS = {reader: [follower]}  # modules that import names of a mutated one


def mutate(name: str) -> None:
    """Apply a mutant to this process; raises ValueError if the source text is another one."""
    module, old, new = MUTANTS[name]
    for each in (module, *_USERS.get(module, ())):
        path = each.__file__
        assert path is not None
        with open(path) as file:  # noqa: PTH123
            source = file.read()
        if each is module:
            if source.count(old) != 1:
                raise ValueError(f"the source of {name!r} has changed")
            source = source.replace(old, new)
        exec(compile(source, path, "exec"), each.__dict__)


def arm(chance: Random, share: float, lease_s: float) -> None:
    """Let this process stop, pause or kill itself at a share of the steps of appends and takeovers.

    A stopped process is continued by the harness. A takeover is hit ten times as often as an
    append, because there are far fewer.
    """

    def hit(often: float) -> None:
        if chance.random() < share * often:
            choice = chance.random()
            if choice < 0.4:
                os.kill(os.getpid(), signal.SIGSTOP)
            elif choice < 0.6:
                os.kill(os.getpid(), signal.SIGKILL)
            else:
                time.sleep(chance.uniform(0, 1.5 * lease_s))

    def around(owner: object, name: str, *, before: float, after: float) -> None:
        plain = getattr(owner, name)

        def faulty(*arguments: object, **options: object) -> object:
            hit(before)
            result = plain(*arguments, **options)
            hit(after)
            return result

        setattr(owner, name, faulty)

    around(window.Window, "_write", before=1, after=1)
    around(window.Window, "_open_next", before=5, after=5)
    around(header.Page, "publish", before=1, after=1)
    around(header.Page, "fence", before=20, after=20)
    around(lease, "measure", before=20, after=20)
    around(directory.Directory, "publish", before=20, after=20)
    around(allocation.Allocation, "_inherit", before=20, after=20)
    around(reader.Reader, "_scan", before=0.3, after=0.3)


def torn_tail(chance: Random, last_id: int) -> bytes:
    """Return a part of an entry, as a kill inside ``write(2)`` leaves it."""
    entry = chance.randbytes(chance.randint(1, 60_000))
    whole = segment.frame(entry, last_id + 1, last_id + 1) + entry
    return whole[: chance.randint(1, len(whole) - 1)]
