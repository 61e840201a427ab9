"""Log lines: their format, and the limits of their number and length."""
