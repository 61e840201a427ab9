"""The archive: the records of the log in compressed segment files of all topics.

``writer`` appends and ``reader`` reads, also in other processes; ``check`` verifies. The files are
described byte by byte in docs/STORE.md. From the smallest part to the largest: ``columns``,
``group`` (messages of one channel, compressed together), ``block`` (a stretch of ids, all topics),
``block_file``, ``index`` (of one file), ``catalogue``.
"""
