"""Layers: an import goes down, over any number of layers, never up or sideways."""

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "hedgehogd"
LAYERS = {
    "__init__": -1,
    "domain": 0,
    "logs": 1,
    "protocol": 1,
    "arbitration": 2,
    "engine": 3,
    "books": 4,
    "recovery": 5,
    "fanout": 6,
    "relay": 7,
    "feeds": 8,
    "simulator": 8,
    "log": 8,
    "streaming": 9,
    "web": 9,
    "settings": 10,
    "app": 11,
    "commands": 12,
    "cli": 13,
    "__main__": 14,
}
FORBIDDEN_WITHOUT_IO = {"trio", "quart", "quart_trio", "hypercorn", "socket", "sqlite3", "time",
    "logging", "structlog", "asyncio", "httpx", "random"}  # fmt: skip
RANDOM_IS_A_TYPE_IN = {"backoff.py"}
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}

MODULES = sorted(PACKAGE.rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    """Return the syntax tree of a module."""
    return ast.parse(path.read_text())


def package_of(path: Path) -> str:
    """Return the folder or module below the package that ``path`` belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_names(path: Path) -> list[str]:
    """Return the dotted names that a module imports."""
    names: list[str] = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def breaches(path: Path) -> list[str]:
    """Return the imports of ``path`` that go up or sideways."""
    package = package_of(path)
    found = []
    for name in imported_names(path):
        parts = name.split(".")
        if parts[0] != "hedgehogd":
            continue
        target = parts[1] if parts[1] in LAYERS else "__init__"
        up = LAYERS[target] > LAYERS[package]
        sideways = LAYERS[target] == LAYERS[package] and target != package
        if up or sideways:
            found.append(f"{package} imports {name}")
    return found


def name_of(path: Path) -> str:
    """Return the path of a module below the package."""
    return str(path.relative_to(PACKAGE))


def test_every_package_has_a_layer() -> None:
    """A package without one could import anything."""
    assert {name_of(path) for path in MODULES if package_of(path) not in LAYERS} == set()


def test_imports_go_down() -> None:
    """A lower layer that imports a higher one can no longer be read, tested or moved alone."""
    found = {name_of(path): breaches(path) for path in MODULES}

    assert {name: imports for name, imports in found.items() if imports} == {}


def test_no_import_is_for_type_checking_alone() -> None:
    """Such an import hides a cycle."""
    found = {
        name_of(path)
        for path in MODULES
        if package_of(path) != "simulator" and "typing.TYPE_CHECKING" in imported_names(path)
    }

    assert found == set()


def test_the_lowest_layers_know_no_io() -> None:
    """Sans-I/O means that time, chance and sockets are arguments."""
    found = {}
    for path in MODULES:
        if package_of(path) in {"domain", "protocol", "arbitration"}:
            roots = {name.split(".")[0] for name in imported_names(path)}
            allowed = {"random"} if path.name in RANDOM_IS_A_TYPE_IN else set()
            found[name_of(path)] = (roots & FORBIDDEN_WITHOUT_IO) - allowed

    assert {name: roots for name, roots in found.items() if roots} == {}


def test_the_check_finds_breaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that cannot fail would be worse than none."""
    monkeypatch.setattr("tests.house.test_layers.PACKAGE", tmp_path)
    (tmp_path / "feeds").mkdir()
    bad = tmp_path / "feeds" / "bad.py"
    bad.write_text("from hedgehogd.web import app\nimport hedgehogd.simulator.market\n")

    assert breaches(bad) == [
        "feeds imports hedgehogd.web.app",
        "feeds imports hedgehogd.simulator.market",
    ]


def test_names_say_something() -> None:
    """A name that fits anything says nothing."""
    found = {
        name_of(path)
        for path in MODULES
        if {part.removesuffix(".py") for part in path.relative_to(PACKAGE).parts} & BANNED_NAMES
    }

    assert found == set()


def test_a_function_fits_a_screen() -> None:
    """Sixty lines; longer ones are a design question."""
    long = [
        f"{name_of(path)}: {node.name}"
        for path in MODULES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno > 60
    ]

    assert long == []


def test_every_module_has_a_test_file_of_its_name() -> None:
    """One test file per module that does something; one that only declares has none."""
    tests = PACKAGE.parent / "tests"
    missing = []
    for path in MODULES:
        relative = path.relative_to(PACKAGE)
        does_something = any(
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for node in ast.walk(tree_of(path))
        )
        if path.name in {"__init__.py", "__main__.py"} or not does_something:
            continue
        if not (tests / relative.parent / f"test_{path.name}").exists():
            missing.append(str(relative))

    assert missing == []
