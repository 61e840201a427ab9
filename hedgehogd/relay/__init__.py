"""Other instances of this machine: where they are, and how one asks them.

Each instance answers its control plane on a unix socket in a directory that all share. A
command for another's stream is passed on to it and answered in its words, so any instance
will do for any stream and a balancer needs no sticky sessions. What comes by such a socket is
never passed on again.

It knows no route, no feed, no subscriber.
"""
