"""Migration of the store that hedgehogd wrote before the log, into an archive of the log.

``old_store`` reads the old store, ``old_block`` its blocks, ``merge`` brings its records into the
order of their places, and ``migrate`` writes the archive, whose segments begin with the books of
``log.collected_books``. No code here writes a record to an old store.
"""
