"""Floor 0: what exists. No I/O, no clock, no log, no network library."""
