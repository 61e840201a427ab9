"""The control plane's routes.

Every answer is one request on its own connection (``hypercorn_config``), so that the next
request of a browser or proxy meets the door again and a stream can never land here.
"""

from typing import Any

import msgspec
from prometheus_client.registry import Collector
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from hedgehogd.domain import limits
from hedgehogd.domain.channel import TICKER
from hedgehogd.domain.errors import SubscriberError
from hedgehogd.engine.instance import Instance
from hedgehogd.engine.session import Session
from hedgehogd.protocol.coinbase import subscription_rows
from hedgehogd.protocol.commands import (
    DEFAULT_CHANNELS,
    ChannelRequest,
    Command,
    channel_requests,
    drop_pair,
)
from hedgehogd.web.exchange import COINBASE_PREFIXES, EXPOSED_HEADERS, Companion, add_exchange
from hedgehogd.web.lines import add_lines
from hedgehogd.web.metrics import RestCollector, exposition
from hedgehogd.web.openapi import OPENAPI_PATH, description
from hedgehogd.web.page import status_page
from hedgehogd.web.responses import error_response, json_response

SESSION_HEADER = "Hedgehog-Session"


def make_app(
    instance: Instance,
    cors_origins: tuple[str, ...] = (),
    companion: Companion = Companion(),  # noqa: B008  # frozen
) -> QuartTrio:
    """Return the app that serves ``instance``'s control plane, and its REST companion."""
    app = QuartTrio("hedgehogd", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = limits.BODY_BYTES_MAX
    app.config["BODY_TIMEOUT"] = limits.HEAD_TIMEOUT_S / 2  # Hypercorn's end comes unexplained
    _add_errors(app, instance)
    _add_cors(app, frozenset(cors_origins))
    _add_health(app, instance, RestCollector(companion.rest, companion.backfill))
    _add_control(app, instance)
    _add_description(app)
    add_lines(app, instance)
    add_exchange(app, instance, companion)
    return app


def _add_errors(app: QuartTrio, instance: Instance) -> None:
    @app.errorhandler(SubscriberError)
    async def refused(error: SubscriberError) -> Response:
        instance.counts.refusals[error.code] += 1
        return error_response(error.code, str(error), error.status)

    @app.errorhandler(HTTPException)
    async def http_error(error: HTTPException) -> Response:
        status = error.code or 500
        code = error.name.lower().replace(" ", "_")
        instance.counts.refusals[code] += 1
        if status == 404 and request.path.startswith(COINBASE_PREFIXES):
            return json_response({"message": "NotFound"}, status)
        said = f"{request.method} {request.path} is not served here" if status == 404 else ""
        return error_response(code, said or error.description or error.name, status)

    @app.errorhandler(Exception)
    async def bug(error: Exception) -> Response:
        instance.counts.refusals["bug"] += 1
        app.logger.error("bug while answering a request", exc_info=error)
        return error_response("bug", "something is wrong here; it has been logged", 500)


def _add_cors(app: QuartTrio, origins: frozenset[str]) -> None:
    @app.after_request
    async def cors(response: Response) -> Response:
        origin = request.headers.get("Origin", "")
        if origins & {"*", origin}:
            headers = response.headers
            headers["Access-Control-Allow-Origin"] = "*" if "*" in origins else origin
            headers["Access-Control-Allow-Methods"] = "GET, POST, DELETE, OPTIONS"
            headers["Access-Control-Allow-Headers"] = f"Content-Type, {SESSION_HEADER}"
            headers["Access-Control-Expose-Headers"] = ", ".join((SESSION_HEADER, *EXPOSED_HEADERS))
            headers["Vary"] = "Origin"
        return response


def _add_health(app: QuartTrio, instance: Instance, rest_metrics: Collector) -> None:
    @app.get("/healthz")
    async def healthz() -> Response:
        alive = not instance.is_draining
        return json_response({"status": "alive" if alive else "draining"}, 200 if alive else 503)

    @app.get("/readyz")
    async def readyz() -> Response:
        ready, reason = instance.readiness()
        return json_response({"ready": ready, "reason": reason}, 200 if ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        body, content_type = exposition(instance, rest_metrics)
        return Response(body, 200, content_type=content_type)

    @app.get("/")
    async def page() -> Response:
        return Response(
            status_page(instance, request.host), 200, content_type="text/html; charset=utf-8"
        )


def _add_description(app: QuartTrio) -> None:
    document = description()

    @app.get(OPENAPI_PATH)
    async def openapi() -> Response:
        return json_response(document)


def _add_control(app: QuartTrio, instance: Instance) -> None:
    @app.post("/api/v1/subscribe/<pair>")
    async def start(pair: str) -> Response:
        pair = pair.upper()
        names, policy = await _wishes()
        requests = channel_requests(names or DEFAULT_CHANNELS, (pair,), policy)
        instance.check(requests)
        return _carry_out(_named_session(instance), Command(True, requests))

    @app.delete("/api/v1/subscribe/<pair>")
    async def stop(pair: str) -> Response:
        pair = pair.upper()
        names, _ = await _wishes()
        requests = channel_requests(names, (pair,))
        session = _named_session(instance)
        if all(pair not in held for held in session.subscription.state.values()):
            # What is held may be stopped, listed or not.
            instance.check((ChannelRequest(TICKER, (pair,)),))
        return _carry_out(session, Command(False, requests) if names else drop_pair(pair))

    @app.get("/api/v1/sessions/<session_id>")
    async def show(session_id: str) -> Response:
        session = _session(instance, session_id)
        return json_response({**_state(session), **session.statistics()._asdict()})

    @app.get("/api/v1/subscribe/<pair>")
    @app.get("/api/v1/stream")
    async def misdirected(pair: str = "") -> Response:  # noqa: ARG001
        return error_response("misdirected", "a stream needs a connection of its own", 421)

    @app.get("/ws")
    @app.get("/ws-feed")
    async def not_upgraded() -> Response:
        response = error_response(
            "upgrade_required", "a WebSocket handshake with the header Upgrade is expected", 426
        )
        response.headers["Upgrade"] = "websocket"
        return response


def _session(instance: Instance, session_id: str) -> Session:
    session = instance.sessions.get(session_id)
    if session is None:
        raise SubscriberError(
            "unknown_session", "no open stream has this session id; it may have ended", 404
        )
    return session


async def _wishes() -> tuple[list[str], str | None]:
    """Return the channels and the policy that a request asks for, by query or JSON body."""
    body: Any = {}
    raw = await request.get_data()
    if raw:
        try:
            body = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise SubscriberError("bad_request", f"the body is not JSON: {error}") from None
        if not isinstance(body, dict):
            raise SubscriberError("bad_request", "the body is a JSON object, or empty")
        unknown = sorted(body.keys() - {"channels", "policy"})
        if unknown:
            raise SubscriberError(
                "bad_request", f"the body has channels and policy, not {', '.join(unknown)}"
            )
    names = body.get("channels", [])
    if "channels" in request.args:
        names = [name.strip() for name in request.args["channels"].split(",") if name.strip()]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SubscriberError("bad_request", "channels is a list of names")
    policy = request.args.get("policy", body.get("policy"))
    if policy is not None and not isinstance(policy, str):
        raise SubscriberError("bad_request", "policy is close or conflate")
    return names, policy


def _named_session(instance: Instance) -> Session:
    session_id = request.headers.get(SESSION_HEADER) or request.args.get("session", "")
    if not session_id:
        raise SubscriberError(
            "no_session", f"name your stream by the header {SESSION_HEADER} or ?session="
        )
    return _session(instance, session_id)


def _carry_out(session: Session, command: Command) -> Response:
    """Carry out all of ``command`` or, when there is no room for all of it, nothing."""
    if not session.subscription.room_for(command):
        raise SubscriberError(
            "too_many_subscriptions", "the stream has no room for that; nothing has changed", 429
        )
    session.apply(command)
    return json_response(_state(session))


def _state(session: Session) -> dict[str, object]:
    return {"session": session.id, "channels": subscription_rows(session.subscription.state)}
