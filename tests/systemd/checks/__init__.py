"""The checks, in order: each is a function of the site that returns a short report.

A check that does not leave four ready instances says so in its docstring.
"""
