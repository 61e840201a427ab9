"""The store: what was received, kept on disk and read back (DESIGN §4).

``writer`` and ``reader`` are the two sides of the file that ``schema`` describes; ``lock``
says which instance writes. ``recorder`` feeds the writer from the tape, ``stored`` reads for
the pipe.
"""
