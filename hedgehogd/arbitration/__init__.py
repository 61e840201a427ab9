"""Which connection's message is delivered: sequences, gaps, lines, placement."""
