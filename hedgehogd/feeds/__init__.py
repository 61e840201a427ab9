"""Floor 3: the upstream shell. Sockets, reconnection, recordings, REST."""
