"""The bill of materials and the licence texts name every part that is shipped.

scripts/build-binary makes them of a real build; tests/systemd reads them from the package.
"""

import importlib.util
import json
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bill():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("bill", ROOT / "scripts/packaging/bill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def shipped(bill):
    """The parts of this environment that are shipped."""
    names = bill.shipped_names(ROOT / "scripts/locks/run.txt")
    return names, bill.distribution_parts(sysconfig.get_paths()["purelib"], names)


def test_every_distribution_that_runs_is_listed_with_a_licence_text(bill, shipped):
    """The licences ask that their text goes with the program."""
    names, parts = shipped
    text = bill.licences(parts)

    assert {bill.canonical(part.name) for part in parts} >= names
    for part in parts:
        assert f"\n{part.name} {part.version}: " in text
        assert any(len(each) > 200 and each.strip("\n") in text for each in part.texts.values())


def test_tools_of_the_build_are_not_in_the_bill(bill, shipped, monkeypatch):
    """A scanner that reports pytest in a daemon is not read a second time."""
    _, parts = shipped
    library = bill.Part("libssl3", "3.0", "pkg:deb/debian/libssl3@3.0", {"copyright": "text"})
    trio = next(part for part in parts if part.name == "trio")
    found = {
        "metadata": {"component": {"bom-ref": "root", "name": "hedgehogd"}},
        "components": [
            {"bom-ref": "t", "name": "trio", "purl": trio.purl, "licenses": []},
            {"bom-ref": "p", "name": "pytest", "purl": "pkg:pypi/pytest@9.2.0"},
        ],
        "dependencies": [
            {"ref": "root", "dependsOn": ["t", "p"]},
            {"ref": "t"},
            {"ref": "p", "dependsOn": ["t"]},
        ],
    }  # fmt: skip
    monkeypatch.setattr(bill, "run", lambda *command: json.dumps(found))
    made = bill.bill("python", [trio, library], "1.2.3")

    assert [each["name"] for each in made["components"]] == ["libssl3", "trio"]
    assert made["components"][1]["licenses"] == []
    assert made["metadata"]["component"]["version"] == "1.2.3"
    assert made["dependencies"] == [
        {"ref": "root", "dependsOn": [library.purl, "t"]}, {"ref": "t"},
    ]  # fmt: skip


def test_a_part_without_a_text_ends_the_build(bill, monkeypatch, tmp_path):
    """The build fails in the change that adds the dependency, not at a user's machine."""
    monkeypatch.setattr(bill, "run", lambda *command: '{"purelib": "/x", "version": "3.11.2"}')
    nameless = bill.Part("thing", "1", "pkg:pypi/thing@1", {})
    monkeypatch.setattr(bill, "distribution_parts", lambda folder, names: [nameless])
    monkeypatch.setattr("sys.argv", ["bill", "--python", "python", "--out", str(tmp_path)])

    with pytest.raises(SystemExit, match="no licence text of thing"):
        bill.main()
    assert list(tmp_path.iterdir()) == []
