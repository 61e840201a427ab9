"""Peer instances: the other instances of this machine, and requests to them.

Each instance serves its control plane on a unix socket in a directory that all instances share.
An instance that gets a command for a session of a peer instance passes the command on and returns
the peer's answer unchanged. So any instance accepts commands for any session, and a load balancer
needs no sticky sessions. A request that arrives on such a socket is never passed on again.

The package has no routes, no feed and no subscribers.
"""
