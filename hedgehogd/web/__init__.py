"""The control plane: REST, health, metrics and the status page, by Quart-trio."""
