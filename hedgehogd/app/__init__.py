"""The daemon: what it starts, reloads and stops, and how its parts are wired."""
