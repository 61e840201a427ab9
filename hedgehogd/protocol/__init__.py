"""Protocols of peers, between bytes and values. No I/O; time and randomness are arguments."""
