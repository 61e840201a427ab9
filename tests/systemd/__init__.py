"""hedgehogd in an operator's environment: a Debian 12, a real systemd, a real HAProxy.

``scripts/test-systemd`` runs ``python -m tests.systemd``, which

1. makes a Debian 12 root, once, and keeps it (``debian_root``);
2. boots a throw-away copy of it without a network (``machine``);
3. installs the package in it as an operator would, and runs ``checks`` one after the other,
   with test clients (``subscriber``, ``crowd``) in the machine's network.

The messages of the subscribers are compared with those of one connection to the simulator
(``reference``).
"""
