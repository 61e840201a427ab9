"""Every route of the control plane, and every error that it returns."""

import pytest

from hedgehogd.engine.health import FeedState
from hedgehogd.web import app as module
from hedgehogd.web.app import make_app
from hedgehogd.web.openapi import PATHS, resolved
from tests.web.answers import body, refused

SUBSCRIBE = "/api/v1/subscribe/"


@pytest.fixture
def client(instance):
    return make_app(instance, serves_operators=True).test_client()


# Health


@pytest.mark.parametrize(
    ("state", "reason", "status", "expected"),
    [
        (FeedState.IDLE, "", 200, "idle"),
        (FeedState.CONNECTING, "", 503, "connecting"),
        (FeedState.LIVE, "", 200, "live"),
        (FeedState.STALE, "closed: 1006", 503, "stale: closed: 1006"),
        (FeedState.ENDED, "", 200, "recording ended"),
    ],
)
async def test_readyz_follows_the_feed(client, instance, state, reason, status, expected):
    """A load balancer sends subscribers to instances with a live feed only."""
    instance.health.become(state, reason)
    answer = await client.get("/readyz")

    assert answer.status_code == status
    assert await body(answer) == {"ready": status == 200, "reason": expected}


async def test_a_draining_instance_is_neither_ready_nor_healthy(client, instance):
    """HAProxy must stop sending streams before the door closes."""
    assert (await client.get("/healthz")).status_code == 200
    instance.is_draining = True
    ready, healthy = await client.get("/readyz"), await client.get("/healthz")

    assert (ready.status_code, healthy.status_code) == (503, 503)
    assert (await body(ready))["reason"] == "draining"
    assert await body(healthy) == {"status": "draining"}


async def test_healthz_is_well_while_the_feed_is_not(client, instance):
    """A restart of the instance would not repair the exchange."""
    instance.health.become(FeedState.STALE, "closed")

    assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    ("path", "content_type"),
    [("/", "text/html; charset=utf-8"), ("/metrics", "text/plain"), ("/readyz", "application/")],
)
async def test_pages_answer_get_and_head(client, path, content_type):
    """Monitoring sends HEAD requests."""
    got, asked = await client.get(path), await client.head(path)

    assert (got.status_code, asked.status_code) == (200, 200)
    assert got.content_type.startswith(content_type)
    assert asked.content_type == got.content_type


READS = sorted(path for path, methods in PATHS.items() if "get" in methods)


def spelled(path):
    return path.format(pair="BTC-USD", session_id="1.key", currency="BTC")


@pytest.mark.parametrize("path", READS)
async def test_every_get_route_answers_head_with_the_same_head(client, session, path):
    """The OpenAPI document promises it; for streams the door answers."""
    got, asked = await client.get(spelled(path)), await client.head(spelled(path))
    changing = {"date"} | ({"content-length"} if path in {"/metrics", "/time"} else set())
    heads = [
        {(name, value) for name, value in each.headers if name.lower() not in changing}
        for each in (got, asked)
    ]

    assert (asked.status_code, heads[1]) == (got.status_code, heads[0])


@pytest.mark.parametrize("path", sorted(PATHS))
async def test_an_unsupported_method_is_refused_and_allow_names_the_supported_ones(client, path):
    """``Allow`` is required (RFC 9110 §15.5.6)."""
    answer = await client.patch(spelled(path))
    has = {method.upper() for method in PATHS[path]} | {"OPTIONS"}

    assert answer.status_code == 405
    assert set(answer.headers["Allow"].split(", ")) == has | ({"HEAD"} if "GET" in has else set())


@pytest.mark.parametrize(
    ("prefix", "is_coinbases"),
    [("/products", True), ("/currencies", True), ("/time", True), ("/api/v1", False)],
)
async def test_every_error_has_the_form_of_its_path(
    client, instance, monkeypatch, prefix, is_coinbases
):
    """It does not matter whether the route, the framework or a bug causes the error."""

    def broken(*_):
        raise ZeroDivisionError

    route = {"/products": "/products", "/currencies": "/currencies", "/time": "/time"}.get(
        prefix, "/api/v1/openapi.json"
    )
    answers = {
        404: await client.get(f"{prefix}/no/such/path"),
        405: await client.patch(route),
        400: await client.get(f"{route}?verbose=1"),
        413: await client.post(route, data=b"x" * 100_000),
    }
    monkeypatch.setattr("hedgehogd.web.parameters.read_query", broken)
    answers[500] = await client.get(route)

    for status, answer in answers.items():
        error = await answer.get_json()
        assert answer.status_code == status
        assert list(error) == (["message"] if is_coinbases else ["error"])
        text = error["message"] if is_coinbases else error["error"]["message"]
        assert isinstance(text, str)


async def test_metrics_and_page_are_served_as_their_modules_make_them(client, instance):
    """The routes add nothing."""
    assert b"hedgehogd_feed_state" in await (await client.get("/metrics")).get_data()
    page = await (await client.get("/", headers={"Host": "relay:8001"})).get_data()
    assert b"http://relay:8001/api/v1/subscribe/BTC-USD" in page


async def test_operator_paths_are_served_to_operators_alone(instance):
    """With a proxy every request has a local address, so each listener has its own app."""
    public, private = make_app(instance), make_app(instance, serves_operators=True)
    ours = {rule.rule for rule in private.url_map.iter_rules()}
    theirs = {rule.rule for rule in public.url_map.iter_rules()}

    assert ours - theirs == {"/metrics", "/api/v1/lines", "/api/v1/instances"}
    assert theirs < ours
    for path in (*(ours - theirs), "/debug", "/debug/tasks"):
        assert await refused(await public.test_client().get(path)) == (404, "not_found")
    page = await (await public.test_client().get("/")).get_data()
    assert b"metrics" not in page
    assert b'href="/metrics"' in await (await private.test_client().get("/")).get_data()


# Errors


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/api/v1/sessions/", 404, "not_found"),
        ("POST", SUBSCRIBE, 404, "not_found"),
        ("PUT", SUBSCRIBE + "BTC-USD", 405, "method_not_allowed"),
        ("POST", "/readyz", 405, "method_not_allowed"),
        ("DELETE", "/api/v1/sessions/1.key", 405, "method_not_allowed"),
        ("GET", SUBSCRIBE + "BTC-USD", 421, "misdirected"),
        ("GET", "/api/v1/stream", 421, "misdirected"),
    ],
)
async def test_requests_that_are_not_served_get_an_error_with_a_code(
    client, method, path, status, code
):
    """The framework's own errors have the same form as all errors."""
    answer = await client.open(path, method=method)

    assert await refused(answer) == (status, code)


async def test_a_bug_is_logged_and_not_shown_to_the_client(client, instance, monkeypatch):
    """One request fails; the next request is served."""

    def broken(instance):
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(module, "exposition", broken)
    answer = await client.get("/metrics")

    assert await refused(answer) == (500, "bug")
    assert b"secret" not in await answer.get_data()
    assert instance.counts.refusals == {"bug": 1}
    assert (await client.get("/healthz")).status_code == 200


# CORS


@pytest.mark.parametrize(
    ("allowed", "origin", "expected"),
    [
        ((), "https://a.example", None),
        (("https://a.example",), "https://a.example", "https://a.example"),
        (("https://a.example",), "https://b.example", None),
        (("https://a.example",), None, None),
        (("*",), "https://b.example", "*"),
        (("*",), None, "*"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
async def test_pages_of_allowed_origins_may_read_responses(
    instance, allowed, origin, expected, method
):
    """A page of another origin must not control the relay of its visitor."""
    client = make_app(instance, allowed).test_client()
    headers = {"Origin": origin} if origin else {}
    answer = await client.open("/readyz", method=method, headers=headers)

    assert answer.headers.get("Access-Control-Allow-Origin") == expected
    exposed = answer.headers.get("Access-Control-Expose-Headers")
    assert bool(exposed) == bool(expected)


@pytest.mark.parametrize("path", sorted(PATHS))
async def test_a_preflight_allows_the_headers_of_the_openapi_document(instance, path):
    """A page may send every header that a route reads, and read every header that it sends."""
    client = make_app(instance, ("https://a.example",), serves_operators=True).test_client()
    target = path.format(pair="BTC-USD", session_id="1.x", currency="BTC")
    answer = await client.options(target, headers={"Origin": "https://a.example"})
    methods, allowed, exposed = (
        set(answer.headers[f"Access-Control-{name}"].lower().split(", "))
        for name in ("Allow-Methods", "Allow-Headers", "Expose-Headers")
    )
    operations = PATHS[path].values()

    assert answer.status_code == 200
    assert PATHS[path].keys() <= methods
    assert {"content-type", "accept", "cache-control", "last-event-id"} <= allowed
    for operation in operations:
        parameters = map(resolved, operation.get("parameters", ()))
        read = [each for each in parameters if each["in"] == "header"]
        sent = [each.get("headers", {}) for each in map(resolved, operation["responses"].values())]
        assert {each["name"].lower() for each in read} <= allowed
        assert {name.lower() for headers in sent for name in headers} <= exposed
    assert answer.headers["Access-Control-Max-Age"] == "3600"
    assert answer.headers["Vary"] == "Origin"


async def test_a_page_can_read_errors_too(instance):
    """Without the header a browser hides even the status."""
    client = make_app(instance, ("*",)).test_client()
    answer = await client.post(SUBSCRIBE + "NO-SUCH", headers={"Origin": "https://a.example"})

    assert answer.status_code == 404
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
