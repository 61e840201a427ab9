"""hedgehogd: one upstream connection to Coinbase, thousands of subscribers.

The floors of the house, lowest first: ``domain``, ``protocol``, ``engine``, then
``feeds`` and ``simulator`` side by side, then ``streaming`` and ``web``, then
configuration, daemon and command line. docs/ARCHITECTURE.md is the map.
"""

__version__ = "0.1.0"
