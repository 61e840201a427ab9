"""The log over files: its window, which instances follow, and its archive of days."""
