"""The streaming plane: long-lived streams; a write to one never waits for its reader."""
