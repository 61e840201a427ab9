"""Errors have the form that the clients of a path read."""

import pytest

from hedgehogd.protocol.refusal import error_object

OURS = {"error": {"code": "not_found", "message": "no"}}
COINBASES = {"message": "no"}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/products", COINBASES),
        ("/products/BTC-USD/book", COINBASES),
        ("/products/", COINBASES),
        ("/currencies/BTC", COINBASES),
        ("/time", COINBASES),
        ("/time/", COINBASES),
        ("/timeline", OURS),
        ("/productsx", OURS),
        ("/api/v1/products", OURS),
        ("/", OURS),
        ("", OURS),
    ],
)
def test_the_path_decides_the_form_of_an_error(path, expected):
    """Coinbase's clients read ``message`` and nothing else."""
    assert error_object(path, "not_found", "no") == expected
