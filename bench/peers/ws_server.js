// A peer of the fan-out benchmark: ws, the usual WebSocket server of Node.
//
// client.send to each subscriber, as its documentation shows. Defaults: no compression,
// and ws sets TCP_NODELAY itself. Node's timers keep time to a millisecond.
//
//     node ws_server.js PORT SCHEDULE        (NODE_PATH names the folder that holds ws)
"use strict";

const fs = require("fs");
const { WebSocketServer } = require("ws");

const [port, path] = process.argv.slice(2);

function load(path) {
  const data = fs.readFileSync(path);
  const messages = [];
  for (let at = 0; at < data.length; ) {
    const dueMs = Number(data.readBigUInt64LE(at)) / 1000;
    const length = data.readUInt32LE(at + 8);
    messages.push([dueMs, data.subarray(at + 12, at + 12 + length)]);
    at += 12 + length;
  }
  return messages;
}

const messages = load(path);
const server = new WebSocketServer({ host: "127.0.0.1", port: Number(port), backlog: 4096 });

function play() {
  const origin = performance.now();
  let next = 0;
  function step() {
    while (next < messages.length && messages[next][0] <= performance.now() - origin) {
      const payload = messages[next++][1];
      for (const client of server.clients) client.send(payload, { binary: false });
    }
    if (next === messages.length) console.log("done");
    else setTimeout(step, Math.max(0, messages[next][0] - (performance.now() - origin)));
  }
  step();
}

server.on("connection", (client) => client.on("message", () => {}));
server.on("listening", () => console.log("ready"));
process.stdin.on("data", play);
process.stdin.on("end", () => process.exit(0));
