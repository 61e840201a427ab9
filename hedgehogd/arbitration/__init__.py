"""The conversation with the exchange, without sockets: arbitration, gaps, placement."""
