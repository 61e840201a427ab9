"""The daemon: it builds, connects, starts, reloads and stops the parts of an instance."""
