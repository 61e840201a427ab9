"""What exists: no I/O, no clock, no log, no network library."""
