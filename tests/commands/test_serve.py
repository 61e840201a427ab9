"""``serve`` and ``--check``: which feeds are accepted."""

import pytest

pytestmark = pytest.mark.usefixtures("clean")


@pytest.mark.parametrize("check", [[], ["--check"]])
@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("nowhere", "nowhere: there is no recording."),
        ("demoo", "Did you mean 'demo'?"),
        ("nowhere", "Other feeds are coinbase, sandbox, demo and ws:// or wss:// URLs."),
        ("http://a", "'http://a' is not a feed."),
        ("ws://a:99999", "'ws://a:99999' is not a feed."),
    ],
)
def test_a_feed_that_cannot_be_is_refused(said, monkeypatch, check, where, says):
    """``--check`` finds what starting would find; whose fault it is follows from its origin."""
    monkeypatch.setenv("HEDGEHOGD_FEED_WHERE", where)
    for argv, expected in ((["--feed", where], 64), ([], 78)):
        status, out, err = said(*argv, *check)

        assert (status, out) == (expected, "")
        assert says in err


@pytest.mark.parametrize("where", ["coinbase", "sandbox", "demo", "ws://a/ws", "wss://a:1"])
def test_a_sound_configuration_is_said_to_be(said, where):
    """Whether the feed answers is another question."""
    assert said("--feed", where, "--check") == (0, "the configuration is sound\n", "")


def test_a_recording_that_is_there_is_sound(said, tmp_path):
    """A file, or the directory of one."""
    (tmp_path / "feed.jsonl").touch()

    assert said("--feed", str(tmp_path), "--check")[0] == 0


def test_a_bad_file_is_78(said, tmp_path):
    """And names itself."""
    assert said("--config", str(tmp_path / "x.toml"), "--check")[0] == 78


@pytest.mark.parametrize("value", ['["wss://u:s3cret@a"]', "{x = 'wss://u:s3cret@a/?t=s3cret'}"])
def test_a_wrong_value_in_the_file_is_named_without_its_secrets(said, tmp_path, value):
    """The key and what was expected are named all the same."""
    file = tmp_path / "x.toml"
    file.write_text(f"[feed]\nwhere = {value}\n")
    status, _, err = said("--config", str(file), "--check")

    assert status == 78
    assert "feed.where" in err
    assert "cret" not in err
