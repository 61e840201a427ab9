"""Write the contents of a build: a CycloneDX bill of materials, and all licence texts.

    ENVIRONMENT-OF-BILL/bin/python bill.py --python BIN/PYTHON --out DIRECTORY [--libraries FOLDER]

``--python`` is the interpreter of the environment that was built or shipped. Of its
distributions those of scripts/locks/run.txt are shipped. With ``--libraries`` the build also
contains the interpreter, PyInstaller's start program, and the shared libraries in FOLDER,
each of which belongs to a Debian package of this machine.

A shipped part without a licence text ends the build.
"""

import argparse
import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
BILL, LICENCES = "hedgehogd.cdx.json", "THIRD-PARTY-LICENSES"
LICENCE_FILE = re.compile(r"(LICEN[CS]E|COPYING|NOTICE|AUTHORS)", re.IGNORECASE)
IN_INTERPRETER = re.compile(r"libpython|python3")


class Part(NamedTuple):
    """One third-party part of the build.

    Attributes:
        name: as its own project writes it.
        version: the shipped version.
        purl: its package URL.
        texts: licence texts, by the file they come from.
    """

    name: str
    version: str
    purl: str
    texts: dict[str, str]


def canonical(name: str) -> str:
    """Return a distribution's name in the form of locks (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def shipped_names(lock: Path) -> set[str]:
    """Return the names that a lock pins."""
    return set(re.findall(r"^([a-z0-9][a-z0-9._-]*)==", lock.read_text(), re.MULTILINE))


def distribution_parts(folder: str, names: set[str]) -> list[Part]:
    """Return those of ``names`` that are installed in ``folder``, a site-packages."""
    parts = []
    for found in importlib.metadata.distributions(path=[folder]):
        name = canonical(found.metadata["Name"])
        if name not in names:
            continue
        files = [
            file
            for file in found.files or ()
            if LICENCE_FILE.match(file.name) and file.suffix not in {".py", ".pyc"}
        ]
        texts = {str(file): file.locate().read_text("utf-8", "replace") for file in files}
        purl = f"pkg:pypi/{name}@{found.version}"
        parts.append(Part(found.metadata["Name"], found.version, purl, texts))
    return parts


def interpreter_part(facts: dict[str, str]) -> Part:
    """Return Python itself; its licence text is where CPython's or Debian's build puts it."""
    short = facts["version"].rpartition(".")[0]
    places = (
        Path(facts["stdlib"]) / "LICENSE.txt",
        Path(f"/usr/share/doc/python{short}/copyright"),
        Path(f"/usr/share/doc/python{short}-minimal/copyright"),
    )
    texts = {str(place): place.read_text() for place in places[:1] if place.exists()} or {
        str(place): place.read_text() for place in places[1:] if place.exists()
    }
    return Part("Python", facts["version"], f"pkg:generic/python@{facts['version']}", texts)


def library_parts(folder: Path) -> list[Part]:
    """Return the Debian packages of the shared libraries directly in ``folder``."""
    parts: dict[str, Part] = {}
    for path in sorted(folder.glob("lib*.so*")):
        if IN_INTERPRETER.match(path.name):
            continue
        package = run("dpkg", "-S", f"*/{path.name}").splitlines()[0].split(":")[0]
        version = run("dpkg-query", "-W", "-f", "${Version}\n", package).splitlines()[0]
        text = Path(f"/usr/share/doc/{package}/copyright")
        purl = f"pkg:deb/debian/{package}@{version.replace('+', '%2B').replace(':', '%3A')}"
        parts[package] = Part(package, version, purl, {str(text): text.read_text()})
    return list(parts.values())


def run(*command: str) -> str:
    """Return the output of a command."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def bill(python: str, parts: list[Part], version: str) -> dict[str, Any]:
    """Return the CycloneDX bill of the environment, reduced to the shipped parts."""
    made: dict[str, Any] = json.loads(
        run(
            str(Path(sys.executable).with_name("cyclonedx-py")), "environment", python,
            "--pyproject", str(ROOT / "pyproject.toml"), "--output-reproducible", "--of", "JSON",
        )
    )  # fmt: skip
    main = made["metadata"]["component"]
    main["version"] = version
    purls = {part.purl for part in parts}
    components = [each for each in made["components"] if each.get("purl", "") in purls]
    known = {each["purl"] for each in components}
    components += [
        {
            "type": "library", "bom-ref": part.purl, "name": part.name,
            "version": part.version, "purl": part.purl,
        }
        for part in parts
        if part.purl not in known
    ]  # fmt: skip
    made["components"] = sorted(components, key=lambda each: str(each["purl"]))
    refs = {main["bom-ref"], *(each["bom-ref"] for each in components)}
    rows = {row["ref"]: row for row in made.get("dependencies", ()) if row["ref"] in refs}
    direct = rows.setdefault(main["bom-ref"], {"ref": main["bom-ref"]})
    direct["dependsOn"] = sorted({*direct.get("dependsOn", ()), *(refs - set(rows))})
    made["dependencies"] = [
        row | {"dependsOn": [ref for ref in row["dependsOn"] if ref in refs]}
        if "dependsOn" in row
        else row
        for _, row in sorted(rows.items())
    ]
    return made


def licences(parts: list[Part]) -> str:
    """Return all texts, each after a line that names its part."""
    rows = ["Licences of the third-party parts in this build of hedgehogd."]
    for part in sorted(parts, key=lambda each: each.name.lower()):
        for place, text in sorted(part.texts.items()):
            rows.append(f"{'=' * 78}\n{part.name} {part.version}: {Path(place).name}\n{'=' * 78}")
            rows.append(text.strip("\n"))
    return "\n\n".join(rows) + "\n"


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--libraries", type=Path)
    given = parser.parse_args()
    facts: dict[str, str] = json.loads(
        run(
            given.python, "-c",
            "import json, platform, sysconfig; paths = sysconfig.get_paths();"
            "print(json.dumps({'version': platform.python_version(), **paths}))",
        )
    )  # fmt: skip
    names = shipped_names(ROOT / "scripts/locks/run.txt")
    names |= {"pyinstaller"} if given.libraries else set()
    parts = distribution_parts(facts["purelib"], names)
    if given.libraries:
        parts += [interpreter_part(facts), *library_parts(given.libraries)]
    without = [part.name for part in parts if not any(part.texts.values())]
    if without or not parts:
        sys.exit(f"bill: no licence text of {', '.join(without) or 'anything'}")
    text = (ROOT / "hedgehogd/__init__.py").read_text()
    version = re.findall(r'^__version__ = "(.*)"', text, re.MULTILINE)[0]
    given.out.mkdir(parents=True, exist_ok=True)
    made = bill(given.python, parts, version)
    (given.out / BILL).write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")
    (given.out / LICENCES).write_text(licences(parts))


if __name__ == "__main__":
    main()
