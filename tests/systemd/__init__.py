"""hedgehogd as an operator runs it: a Debian 12 of its own, a real systemd, a real HAProxy.

``scripts/test-systemd`` runs ``python -m tests.systemd``, which

1. makes a Debian 12 root, once, and keeps it (``debian_root``);
2. boots a throw-away copy of it without a network (``machine``);
3. installs the package in it as an operator would, and runs ``checks`` one after the other,
   with clients of our own (``subscriber``, ``crowd``) that live in the machine's network.

What the subscribers got is judged by what one connection to the simulator saw (``reference``).
"""
