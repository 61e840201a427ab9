"""Protocols of peers, without I/O: from bytes to values; time and randomness are arguments."""
