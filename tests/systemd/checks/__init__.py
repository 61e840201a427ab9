"""The checks, in the order they are made: each a function of the site that returns a short report.

Whoever leaves the site in another state than four ready instances, says so.
"""
