"""hedgehogd: one upstream connection to Coinbase, thousands of subscribers.

docs/ARCHITECTURE.md is the map of its packages and layers.
"""

__version__ = "0.1.0"
