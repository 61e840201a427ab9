"""The private dialect that docs/GLOSSARY.md bans, found in docstrings, comments and documents.

    python -m tests.house.prose hedgehogd/domain docs/PROTOCOL.md   # names each line

A word list cannot judge a sentence: the count is a smoke alarm, the measure is a reader.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BANNED = {
    "a noun is missing": r"\b(?:who|whom|whoever|what|whatever|nobody|somebody|everybody)\b"
    r"|\bothers\b",
    "sent, delivered, reported, released, read": r"\b(?:told|tells|given|heard|said|met|let go|"
    r"lets go|taken)\b",
    "be in force, send, resume, restart": r"\b(?:stands?|stood|standing|speaks?|spoken|spoke|"
    r"comes? back|came back|begins? anew|began anew)\b",
    "gap": r"\b(?:holes?|seams?|lacks?|lacking|doubts?|cuts?)\b",
    "after, again": r"\banew\b|\bbehind\b(?! (?:an? |the |one |real )*"
    r"(?:HAProxy|prox(?:y|ies)|reverse|load balancer|NAT|TLS))",
}
PATTERN = re.compile("|".join(f"({pattern})" for pattern in BANNED.values()), re.IGNORECASE)
_QUOTED = re.compile(r"``[^`]*``|`[^`]*`|\"[^\"\n]{0,60}\"")


class Use(NamedTuple):
    """One use of the dialect.

    Attributes:
        path: the file.
        line: its line, from 1.
        word: the word as it is there.
        instead: standard words.
    """

    path: Path
    line: int
    word: str
    instead: str


def _docstrings(source: str) -> Iterator[tuple[int, str]]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, kinds) and node.body and isinstance(node.body[0], ast.Expr):
            value = node.body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value.lineno, value.value


def _comments(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def passages(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the prose of a file: for Python docstrings and comments, else all of it."""
    text = path.read_text()
    if path.suffix == ".py":
        yield from _docstrings(text)
        yield from _comments(text)
    else:
        fenced = re.compile(r"```.*?```", re.DOTALL)
        yield 1, fenced.sub(lambda code: "\n" * code[0].count("\n"), text)


def uses(path: Path) -> Iterator[Use]:
    """Yield each use of the dialect in one file; code in backticks and quotations are none."""
    for first, text in passages(path):
        for offset, line in enumerate(text.split("\n")):
            plain = _QUOTED.sub("", line)
            for found in PATTERN.finditer(plain):
                instead = [*BANNED][(found.lastindex or 1) - 1]
                yield Use(path, first + offset, found[0], instead)


def files(*roots: Path) -> list[Path]:
    """Return the Python files and documents at and below ``roots``."""
    found: list[Path] = []
    for root in roots:
        below = sorted(root.rglob("*")) if root.is_dir() else [root]
        found += [path for path in below if path.suffix in {".py", ".md"}]
    return found


if __name__ == "__main__":
    there = [use for path in files(*map(Path, sys.argv[1:])) for use in uses(path)]
    for use in there:
        print(f"{use.path}:{use.line}: {use.word}: {use.instead}")  # noqa: T201
    print(len(there))  # noqa: T201
