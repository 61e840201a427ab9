"""Making environments: complete or not at all, once, and with a reason on failure."""

import json
import re
import threading

import pytest

from tests.clients import environments
from tests.clients.environments import ENVIRONMENTS, CannotMake, Environment


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """Return a fake environment, a list of its makings, and the event that ends one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pins = tmp_path / "pins.txt"
    pins.write_text("nobody==1\n")
    made, may_end = [], threading.Event()
    may_end.set()

    def make(folder, pins):
        made.append(sorted(path.name for path in folder.iterdir()))
        may_end.wait()

    driver = tmp_path / "driver.py"
    nobody = Environment("nobody", pins, driver, lambda: "3", make, lambda folder: ["run"])
    return nobody, made, may_end


def test_an_environment_is_made_once_and_again_for_other_pins(environment):
    """The pins define the environment; the driver is not part of it."""
    environment, made, _ = environment
    assert environment.command() == environment.command() == ["run", str(environment.driver)]
    assert len(made) == 1
    environment.pins.write_text("nobody==2\n")
    environment.command()
    assert len(made) == 2


def test_an_unfinished_environment_is_made_again(environment):
    """An interrupted pip leaves half a package, which the next run would take as complete."""
    environment, made, _ = environment
    environment.folder().mkdir(parents=True)
    (environment.folder() / "half").touch()
    environment.command()
    assert made == [[]]


def test_processes_that_start_together_make_one_environment(environment):
    """All but the first wait for it."""
    environment, made, may_end = environment
    may_end.clear()
    threads = [threading.Thread(target=environment.command) for _ in range(4)]
    for thread in threads:
        thread.start()
    may_end.set()
    for thread in threads:
        thread.join()
    assert len(made) == 1


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("no-such-program",), "there is no no-such-program here"),
        (("sh", "-c", "echo no route to anywhere; exit 1"), "no route to anywhere"),
        (("sleep", "9"), "is there a network?"),
    ],
)
def test_a_failed_environment_gives_a_reason_and_is_made_later(
    environment, monkeypatch, command, reason
):
    """Without a network no package can be installed."""
    monkeypatch.setattr(environments, "STEP_TIMEOUT_S", 0.3)
    environment, made, _ = environment
    broken = Environment(
        environment.client,
        environment.pins,
        environment.driver,
        environment.identity,
        lambda folder, pins: environments._run(folder, *command) and None,
        environment.interpreter,
    )
    with pytest.raises(CannotMake, match=re.escape(reason)):
        broken.command()
    environment.command()
    assert len(made) == 1


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda e: e.client)
def test_pins_are_exact_and_name_no_location(environment):
    """The tested versions are the installed ones; the source depends on the machine."""
    text = environment.pins.read_text()
    assert "://" not in text
    if environment.pins.suffix == ".txt":
        row = r"\S+==\S+(?: \\\n    --hash=sha256:[0-9a-f]{64})+\n"
        assert re.sub(row, "", text) == ""
    else:
        versions = re.findall(r'": "([^"]*)"', text)
        assert [] == [one for one in versions if not re.fullmatch(r"\d+\.\d+\.\d+", one)]


def test_each_package_of_node_has_its_hash():
    """npm compares it with the fetched package, from any source."""
    text = environments._node_lock().read_text()
    packages = json.loads(text)["packages"]
    packages.pop("")

    assert len(packages) > 50
    assert all(each["integrity"].startswith("sha512-") for each in packages.values())
    assert "://" not in text
