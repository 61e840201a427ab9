"""The streaming plane: long-lived streams, written to without waiting."""
