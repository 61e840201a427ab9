"""The log over files: its window, which instances follow, and its archive of days.

In this package a *segment* is a window segment and a *writer* the log writer; in ``archive`` they
are an archive segment and the archive writer (docs/GLOSSARY.md).
"""
