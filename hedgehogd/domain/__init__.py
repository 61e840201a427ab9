"""The market-data model; it uses no I/O, no clock, no log and no network library."""
