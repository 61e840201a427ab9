"""Floor 2: the pipe inside one process, from a batch of messages to one write per member."""
