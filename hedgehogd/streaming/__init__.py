"""Floor 4: the streaming plane. Long-lived streams, written to without waiting."""
