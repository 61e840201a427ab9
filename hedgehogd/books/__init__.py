"""Order books of the exchange, kept for subscribers that join late."""
