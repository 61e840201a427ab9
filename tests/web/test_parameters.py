"""Every route of both planes accepts exactly the query parameters of the OpenAPI document."""

import pytest

from hedgehogd.protocol.query import PEER_PARAMETERS
from hedgehogd.streaming.request import parameters_of
from hedgehogd.web.app import make_app
from hedgehogd.web.openapi import PATHS
from hedgehogd.web.parameters import described_parameters

STREAMS = ["/", "/ws-feed", "/ws", "/api/v1/stream", "/api/v1/subscribe/{pair}"]
ROUTES = [(path, method) for path, methods in PATHS.items() for method in methods]


def spelled(path):
    """Return ``path`` with a value for each of its names."""
    return path.format(pair="BTC-USD", session_id="1.x", currency="BTC")


@pytest.mark.parametrize("path", STREAMS)
def test_streams_accept_the_parameters_of_the_document(path):
    """The control plane reads the document; the streaming plane has a table of its own."""
    assert parameters_of(spelled(path)) - PEER_PARAMETERS == described_parameters(path, "get")


@pytest.mark.parametrize(("path", "method"), ROUTES)
async def test_an_unknown_parameter_is_refused_everywhere(instance, path, method):
    """An answer that ignores the parameter would look right."""
    client = make_app(instance, serves_operators=True).test_client()
    answer = await client.open(f"{spelled(path)}?verbose=1", method=method.upper())
    error = await answer.get_json()
    message = error["message"] if "message" in error else error["error"]["message"]

    assert answer.status_code == 400
    assert message.startswith("'verbose' is not a parameter of this path, which has ")
    if "error" in error:
        assert error["error"]["code"] == "unknown_parameter"
    assert ("message" in error) == path.startswith(("/products", "/currencies", "/time"))
    if method == "get":
        assert (await client.head(f"{spelled(path)}?verbose=1")).status_code == 400


@pytest.mark.parametrize(
    ("path", "method", "name"),
    [(*route, name) for route in ROUTES for name in sorted(described_parameters(*route))],
)
async def test_a_documented_parameter_is_accepted(instance, path, method, name):
    """Its value may be refused, but never its name."""
    client = make_app(instance, serves_operators=True).test_client()
    answer = await client.open(f"{spelled(path)}?{name}=x", method=method.upper())

    assert b"is not a parameter of this path" not in await answer.get_data()


@pytest.mark.parametrize("path", ["/time", "/products", "/products/BTC-USD/trades"])
async def test_a_read_ignores_no_cache(instance, path):
    """copra sends it with each request; the answer is that of a request without it."""
    client = make_app(instance).test_client()
    answer = await client.get(f"{path}?no-cache=1700000000.5")
    without = await client.get(path)

    assert b"is not a parameter of this path" not in await answer.get_data()
    assert answer.status_code == without.status_code != 400


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("/products/BTC-USD/trades?limits=1", "limit"),
        ("/products/BTC-USD/candles?granulariy=60", "granularity"),
        ("/api/v1/history/BTC-USD?channels=ticker", "channel"),
        ("/api/v1/stream?pair=BTC-USD", "pairs"),
    ],
)
async def test_the_most_similar_name_is_suggested(instance, path, nearest):
    """Most wrong names are typing errors."""
    answer = await make_app(instance).test_client().get(path)

    assert f"did you mean {nearest}?" in (await answer.get_data()).decode()


async def test_the_query_of_a_preflight_is_not_checked(instance):
    """A browser sends the query of the request that will follow."""
    answer = await make_app(instance).test_client().options("/products/BTC-USD/book?level=2&x=1")

    assert answer.status_code == 200
