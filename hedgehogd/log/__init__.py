"""The log over files: the window that instances follow, and the lease of its writer."""
