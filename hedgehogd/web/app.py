"""The control plane's routes.

Each connection carries one request (``hypercorn_config``): the next request of a browser or proxy
opens a connection and passes the door again, so no stream request reaches this app.
"""

from prometheus_client.registry import Collector
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from hedgehogd.domain import limits
from hedgehogd.domain.errors import SubscriberError
from hedgehogd.fanout.instance import Instance
from hedgehogd.fanout.turns import TOO_MANY_QUERIES
from hedgehogd.protocol.access import CrossOrigins
from hedgehogd.protocol.refusal import is_coinbase_path
from hedgehogd.relay.peers import Peers
from hedgehogd.web.control import SESSION_HEADER, add_control
from hedgehogd.web.exchange import EXPOSED_HEADERS, Companion, add_exchange
from hedgehogd.web.health import add_health
from hedgehogd.web.history import AFTER_HEADER, GAPS_HEADER, add_history
from hedgehogd.web.instances import add_instances
from hedgehogd.web.lines import add_lines
from hedgehogd.web.metrics import RestCollector, exposition
from hedgehogd.web.openapi import DOCUMENT, OPENAPI_PATH
from hedgehogd.web.page import status_page
from hedgehogd.web.parameters import add_parameters
from hedgehogd.web.responses import error_response, json_response

# Request headers that a page may send only with permission; an EventSource that is implemented with
# fetch sends the first two.
_READ_HEADERS = ("Cache-Control", "Last-Event-ID", "Accept", "Content-Type", SESSION_HEADER)
_SENT_HEADERS = (SESSION_HEADER, AFTER_HEADER, GAPS_HEADER, *EXPOSED_HEADERS)


def make_app(
    instance: Instance,
    cors_origins: tuple[str, ...] = (),
    companion: Companion = Companion(),  # noqa: B008  # frozen
    peers: Peers | None = None,
    *,
    serves_operators: bool = False,
) -> QuartTrio:
    """Return the app that serves ``instance``'s control plane, and its REST companion.

    Without ``peers`` the app answers for this instance alone. The app for peer instances is made
    like that, so that no request is forwarded twice. Only an app that ``serves_operators`` has
    the routes for metrics, lines and instances. The listener selects the app: with a proxy on this
    machine every request has a local address, so an address proves nothing. Web pages of
    ``cors_origins`` may read the answers.
    """
    app = QuartTrio("hedgehogd", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = limits.BODY_BYTES_MAX
    app.config["BODY_TIMEOUT"] = limits.HEAD_TIMEOUT_S / 2
    _add_errors(app, instance)
    _add_bodies(app)
    add_parameters(app)
    _add_cors(app, CrossOrigins(cors_origins))
    add_health(app, instance)
    _add_page(app, instance, serves_operators=serves_operators)
    add_control(app, instance, peers)
    _add_description(app)
    if serves_operators:
        _add_metrics(app, instance, RestCollector(companion.rest, companion.backfill))
        add_instances(app, instance, peers)
        add_lines(app, instance)
    add_history(app, instance)
    add_exchange(app, instance, companion)
    return app


def _add_errors(app: QuartTrio, instance: Instance) -> None:
    @app.errorhandler(SubscriberError)
    async def refused(error: SubscriberError) -> Response:
        instance.counts.refusals[error.code] += 1
        response = error_response(error.code, str(error), error.status)
        if error.code == TOO_MANY_QUERIES:
            response.headers["Retry-After"] = "1"
        return response

    @app.errorhandler(HTTPException)
    async def http_error(error: HTTPException) -> Response:
        status = error.code or 500
        code = error.name.lower().replace(" ", "_")
        instance.counts.refusals[code] += 1
        message = error.description or error.name
        if status == 404:
            is_coinbases = is_coinbase_path(request.path)
            ours = f"{request.path} is not served here"
            message = "NotFound" if is_coinbases else ours
        response = error_response(code, message, status)
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
        return response

    @app.errorhandler(Exception)
    async def bug(error: Exception) -> Response:
        instance.counts.refusals["bug"] += 1
        app.logger.error("bug while answering a request", exc_info=error)
        return error_response("bug", "an internal error; it has been logged", 500)


def _add_bodies(app: QuartTrio) -> None:
    @app.before_request
    async def read_body() -> None:
        """Read the body before the route runs.

        Hypercorn refuses a malformed body; if the answer had begun, the refusal would truncate
        the answer.
        """
        await request.get_data(cache=True, as_text=False, parse_form_data=False)


def _add_cors(app: QuartTrio, origins: CrossOrigins) -> None:
    @app.after_request
    async def cors(response: Response) -> Response:
        allowed = origins.answer(request.headers.get("Origin", ""))
        if allowed:
            headers = response.headers
            headers["Access-Control-Allow-Origin"] = allowed
            headers["Access-Control-Allow-Methods"] = "GET, HEAD, POST, DELETE, OPTIONS"
            headers["Access-Control-Allow-Headers"] = ", ".join(_READ_HEADERS)
            headers["Access-Control-Expose-Headers"] = ", ".join(_SENT_HEADERS)
            headers["Access-Control-Max-Age"] = f"{limits.PREFLIGHT_KEEP_S:.0f}"
            headers["Vary"] = "Origin"
        return response


def _add_metrics(app: QuartTrio, instance: Instance, rest_metrics: Collector) -> None:
    @app.get("/metrics")
    async def metrics() -> Response:
        body, content_type = exposition(instance, rest_metrics)
        return Response(body, 200, content_type=content_type)


def _add_page(app: QuartTrio, instance: Instance, *, serves_operators: bool) -> None:
    @app.get("/")
    async def page() -> Response:
        text = status_page(instance, request.host, serves_operators=serves_operators)
        return Response(text, 200, content_type="text/html; charset=utf-8")


def _add_description(app: QuartTrio) -> None:
    @app.get(OPENAPI_PATH)
    async def openapi() -> Response:
        return json_response(DOCUMENT)
