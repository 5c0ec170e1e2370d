// A relay of channels with `ws` and nothing else, for comparison: `fanfare bench` measures it as it measures Fanfare.
// It does what the documentation of `ws` shows for a broadcast: one `send` for each client. No limits, no Redis.
//
//   npm ci && node relay.mjs PORT [plain | deflate | deflate-alone]
//
// plain          no compression, which is the default of `ws`
// deflate        its compression with all of its defaults: level, threshold of 1024 bytes, context takeover
// deflate-alone  the same without context takeover, as Fanfare does it by default

import { WebSocketServer } from "ws";

const KINDS = {
  plain: false,
  deflate: true,
  "deflate-alone": { serverNoContextTakeover: true, clientNoContextTakeover: true },
};

const [port, kind = "plain"] = process.argv.slice(2);
if (!(Number(port) >= 0) || !(kind in KINDS)) {
  console.error(`usage: node relay.mjs PORT [${Object.keys(KINDS).join(" | ")}]`);
  process.exit(2);
}

const channels = new Map();
const server = new WebSocketServer({ host: "127.0.0.1", port: Number(port), perMessageDeflate: KINDS[kind] });

server.on("listening", () => console.log(`ws://127.0.0.1:${server.address().port}/ws/bench ${kind}, process ${process.pid}`));
server.on("connection", (socket, request) => {
  const { pathname, searchParams } = new URL(request.url, "ws://relay");
  const echo = searchParams.get("echo") !== "false";
  const members = channels.get(pathname) ?? new Set();
  channels.set(pathname, members.add(socket));
  socket.on("message", (data, binary) => {
    for (const member of members) {
      if (echo || member !== socket) member.send(data, { binary });
    }
  });
  socket.on("error", () => socket.terminate());
  socket.on("close", () => members.delete(socket));
});
