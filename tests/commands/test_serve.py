"""``serve`` and ``--check``: which feeds are accepted."""

import pytest

pytestmark = pytest.mark.usefixtures("clean")


@pytest.mark.parametrize("check", [[], ["--check"]])
@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("nowhere", "nowhere: there is no recording."),
        ("demoo", "Did you mean 'demo'?"),
        ("nowhere", "Valid feeds are also coinbase, sandbox, demo and ws:// or wss:// URLs."),
        ("http://a", "'http://a' is not a feed."),
        ("ws://a:99999", "'ws://a:99999' is not a feed."),
    ],
)
def test_an_invalid_feed_is_refused(run_command, monkeypatch, check, where, says):
    """``--check`` finds the errors of a start; the status depends on the origin of the value."""
    monkeypatch.setenv("HEDGEHOGD_FEED_WHERE", where)
    for argv, expected in ((["--feed", where], 64), ([], 78)):
        status, out, err = run_command(*argv, *check)

        assert (status, out) == (expected, "")
        assert says in err


@pytest.mark.parametrize("where", ["coinbase", "sandbox", "demo", "ws://a/ws", "wss://a:1"])
def test_a_valid_configuration_is_reported(run_command, where):
    """The feed is not contacted."""
    assert run_command("--feed", where, "--check") == (0, "the configuration is valid\n", "")


def test_a_recording_that_exists_is_valid(run_command, tmp_path):
    """A file, or the directory of one."""
    (tmp_path / "feed.jsonl").touch()

    assert run_command("--feed", str(tmp_path), "--check")[0] == 0


def test_a_bad_file_is_78(run_command, tmp_path):
    """The error names the file."""
    assert run_command("--config", str(tmp_path / "x.toml"), "--check")[0] == 78


@pytest.mark.parametrize("value", ['["wss://u:s3cret@a"]', "{x = 'wss://u:s3cret@a/?t=s3cret'}"])
def test_a_wrong_value_in_the_file_is_named_without_its_secrets(run_command, tmp_path, value):
    """The key and the expected value are named nevertheless."""
    file = tmp_path / "x.toml"
    file.write_text(f"[feed]\nwhere = {value}\n")
    status, _, err = run_command("--config", str(file), "--check")

    assert status == 78
    assert "feed.where" in err
    assert "cret" not in err
