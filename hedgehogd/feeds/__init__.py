"""The upstream shell: sockets, reconnection, recordings, REST."""
