"""Layers: an import goes down, over any number of layers, never up or sideways."""

import ast
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
    "history": 8,
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


def package_of(path: Path) -> str:
    """Return the folder or module below the package that ``path`` belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_names(path: Path) -> list[str]:
    """Return the dotted names that a module imports."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
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


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    """A lower layer that imports a higher one can no longer be read, tested or moved alone."""
    assert package_of(path) in LAYERS, "a new package needs a layer"
    assert breaches(path) == []


@pytest.mark.parametrize(
    "path",
    [p for p in MODULES if package_of(p) in {"domain", "protocol", "arbitration"}],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_the_lowest_layers_know_no_io(path: Path) -> None:
    """Sans-I/O means that time, chance and sockets are arguments."""
    roots = {name.split(".")[0] for name in imported_names(path)}
    allowed = {"random"} if path.name in RANDOM_IS_A_TYPE_IN else set()

    assert set() == (roots & FORBIDDEN_WITHOUT_IO) - allowed


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


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_names_say_something(path: Path) -> None:
    """A name that fits anything says nothing."""
    assert set() == {part.removesuffix(".py") for part in path.parts} & BANNED_NAMES


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_function_fits_a_screen(path: Path) -> None:
    """Sixty lines; longer ones are a design question."""
    long = [
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
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
            for node in ast.walk(ast.parse(path.read_text()))
        )
        if path.name in {"__init__.py", "__main__.py"} or not does_something:
            continue
        if not (tests / relative.parent / f"test_{path.name}").exists():
            missing.append(str(relative))

    assert missing == []
