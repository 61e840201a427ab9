"""Order books of the exchange: for late subscribers, ``level2_batch`` and REST answers."""
