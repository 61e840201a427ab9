"""A peer of the fan-out benchmark: uWebSockets (C++), through the bindings of socketify.

``app.publish`` to a topic; all fan-out is uWebSockets' own. The feeder publishes over one
WebSocket, so that messages arrive at the times of an exchange's: uWebSockets joins the messages
of one turn of its loop into one write per subscriber.

Its libuv loop runs alone, without socketify's asyncio loop, which polls. Defaults otherwise:
no compression, TCP_NODELAY; the backpressure limit is raised from 64 KiB to 4 MiB, or it would
drop messages in bursts.

    uwebsockets_server.py PORT
"""

import sys

from socketify import App, OpCode

app = App()
app.ws(
    "/ws-feed",
    {
        "max_backpressure": 4 * 1024 * 1024,
        "open": lambda socket: socket.subscribe("feed"),
        "message": lambda _socket, _message, _code: None,
    },
)
app.ws(
    "/publish",
    {"message": lambda _socket, message, _code: app.publish("feed", message, OpCode.TEXT)},
)
app.get("/*", lambda response, _request: response.write_status(404).end(""))
app.listen({"port": int(sys.argv[1]), "host": "127.0.0.1"}, lambda _: None)
app.loop.uv_loop.run()
