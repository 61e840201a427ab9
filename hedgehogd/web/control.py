"""REST control: start and stop pairs on an open stream, which is named by its session id.

The id begins with the number of the instance that has the stream, its owner. An instance that
receives a command for another instance's stream forwards it to the owner and returns the
owner's answer unchanged; only the owner validates the command.
"""

from typing import Any
from urllib.parse import quote

import msgspec
from quart import Response, request
from quart_trio import QuartTrio

from hedgehogd.domain.channel import TICKER
from hedgehogd.domain.errors import SubscriberError
from hedgehogd.domain.product import is_product_id
from hedgehogd.fanout.instance import Instance
from hedgehogd.fanout.session import Session
from hedgehogd.fanout.sessions import owner_of
from hedgehogd.protocol.coinbase import subscription_rows
from hedgehogd.protocol.commands import (
    DEFAULT_CHANNELS,
    ChannelRequest,
    Command,
    channel_requests,
    drop_pair,
)
from hedgehogd.protocol.query import split_list
from hedgehogd.relay.peers import PeerGone, Peers, PeerSilent
from hedgehogd.web.parameters import query
from hedgehogd.web.responses import error_response, json_response

SESSION_HEADER = "Hedgehog-Session"


def add_control(app: QuartTrio, instance: Instance, peers: Peers | None) -> None:
    """Add the routes for commands and sessions, and those that refuse misdirected streams.

    Commands for streams of other instances are forwarded to ``peers``; none is if it is None.
    """

    @app.post("/api/v1/subscribe/<pair>")
    async def start(pair: str) -> Response:
        pair = _product_id(pair)
        if (owner := _remote_owner(_session_id(), peers)) is not None:
            return await _forward(instance, *owner)
        names, policy = await _channels_and_policy()
        requests = channel_requests(names or DEFAULT_CHANNELS, (pair,), policy)
        instance.check(requests)
        session = _session(instance, _session_id())
        return await _carry_out(instance, session, Command(True, requests))

    @app.delete("/api/v1/subscribe/<pair>")
    async def stop(pair: str) -> Response:
        pair = _product_id(pair)
        if (owner := _remote_owner(_session_id(), peers)) is not None:
            return await _forward(instance, *owner)
        names, _ = await _channels_and_policy()
        requests = channel_requests(names, (pair,))
        session = _session(instance, _session_id())
        if all(pair not in held for held in session.subscription.state.values()):
            # A pair that the stream holds may be stopped even if it is no longer listed.
            instance.check((ChannelRequest(TICKER, (pair,)),))
        command = Command(False, requests) if names else drop_pair(pair)
        return await _carry_out(instance, session, command)

    @app.get("/api/v1/sessions/<session_id>")
    async def show(session_id: str) -> Response:
        if (owner := _remote_owner(session_id, peers)) is not None:
            return await _forward(instance, *owner)
        session = _session(instance, session_id)
        about = {"address": session.address, **session.statistics()._asdict()}
        return json_response({**_state(session), **about})

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


def _product_id(pair: str) -> str:
    """Return the product that a path names, in upper case.

    Raises:
        SubscriberError: 404; it is no product id. ``..``, for example, would become another path
            when the request is forwarded.
    """
    product_id = pair.upper()
    if not is_product_id(product_id):
        raise SubscriberError("unknown_pair", f"{product_id} is not a pair listed here", 404)
    return product_id


def _session_id() -> str:
    """Return the session id in the header or the query of a command; empty when it has none."""
    return request.headers.get(SESSION_HEADER) or query().get("session", "")


def _remote_owner(session_id: str, peers: Peers | None) -> tuple[Peers, int] | None:
    """Return the peers and the owner's number; None when this instance answers the command.

    It does so for its own streams, for an id without an instance's number, and without ``peers``.
    """
    owner = owner_of(session_id)
    if peers is None or owner is None or owner == peers.number:
        return None
    return peers, owner


async def _forward(instance: Instance, peers: Peers, owner: int) -> Response:
    """Forward this request to the owner of the stream, count the result, return the answer.

    Raises:
        SubscriberError: the owner has stopped (404), or it has not answered (504).
    """
    headers = [  # unchanged: a header may have bytes that are not ASCII
        (name.encode(), value.encode("latin-1"))
        for name in (SESSION_HEADER, "Content-Type")
        if (value := request.headers.get(name)) is not None
    ]
    body = await request.get_data(cache=True, as_text=False, parse_form_data=False)
    try:
        answer = await peers.ask(owner, request.method, _target(), headers, body)
    except PeerGone:
        instance.counts.forwards["gone"] += 1
        raise SubscriberError(
            "unknown_session",
            f"instance {owner}, which had this stream, has stopped, and its streams have ended",
            404,
        ) from None
    except PeerSilent as silent:
        instance.counts.forwards["silent"] += 1
        raise SubscriberError("instance_silent", f"{silent}; ask again", 504) from None
    instance.counts.forwards["answered"] += 1
    response = Response(answer.body, answer.status, content_type=answer.content_type)
    response.headers["Cache-Control"] = "no-store"
    return response


def _target() -> str:
    """Return path and query of this request, encoded again to be sent to the owner."""
    query = request.query_string.decode("latin-1")
    return quote(request.path) + (f"?{query}" if query else "")


def _session(instance: Instance, session_id: str) -> Session:
    if not session_id:
        raise SubscriberError(
            "no_session", f"name your stream by the header {SESSION_HEADER} or ?session="
        )
    session = instance.sessions.get(session_id)
    if session is None:
        raise _unknown_session()
    return session


def _unknown_session() -> SubscriberError:
    return SubscriberError(
        "unknown_session", "no open stream has this session id; it may have ended", 404
    )


async def _channels_and_policy() -> tuple[list[str], str | None]:
    """Return the channel names and the backlog policy of a request; only their types are checked.

    The query takes precedence over the JSON body. A request may name no channel, and no policy
    (None).

    Raises:
        SubscriberError: 400; the body or a value in it has the wrong form.
    """
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
    if "channels" in query():
        names = split_list(query()["channels"])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SubscriberError("bad_request", "channels is a list of names")
    policy = query().get("policy", body.get("policy"))
    if policy is not None and not isinstance(policy, str):
        raise SubscriberError("bad_request", "policy is close or conflate")
    return names, policy


async def _carry_out(instance: Instance, session: Session, command: Command) -> Response:
    """Wait for the command's turn, carry out all of it, and return the stream's subscription.

    Raises:
        SubscriberError: nothing is carried out: the stream has ended meanwhile (404), or the
            command exceeds its limit of topics (429).
    """
    async with instance.turns.turn(session.share, session.weight(command)):
        if session.is_closed:
            raise _unknown_session()
        if not session.subscription.room_for(command):
            raise SubscriberError(
                "too_many_subscriptions",
                "the stream would have too many subscriptions; nothing has changed",
                429,
            )
        session.apply(command)
        return json_response(_state(session))


def _state(session: Session) -> dict[str, object]:
    return {"session": session.id, "channels": subscription_rows(session.subscription.state)}
