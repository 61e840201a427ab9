"""Log lines: their form, and the bounds of their number and length."""
