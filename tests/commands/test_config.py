"""``config``: each value, and its origin."""

import pytest

from hedgehogd.settings.keys import KEYS

pytestmark = pytest.mark.usefixtures("clean")


def test_config_shows_every_value_and_its_origin(run_command, monkeypatch, tmp_path):
    """An operator finds out why the daemon behaves as it does."""
    file = tmp_path / "x.toml"
    file.write_text("[drain]\nspread_s = 2.5\n")
    monkeypatch.setenv("HEDGEHOGD_INSTANCE", "7")
    status, out, _ = run_command(
        "config", "--config", str(file), "--pairs", "btc-usd", "--only-pairs"
    )
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in out.splitlines()}

    assert status == 0
    assert rows.keys() == {key.name for key in KEYS} - {"x"}
    assert rows["drain.spread_s"] == ["2.5", f"file {file}"]
    assert rows["instance"] == ["7", "environment HEDGEHOGD_INSTANCE"]
    assert rows["serve.port"] == ["8007", "default"]
    assert rows["feed.pairs"] == ["BTC-USD", "flag --pairs"]
    assert rows["feed.only_pairs"] == ["true", "flag --only-pairs"]
