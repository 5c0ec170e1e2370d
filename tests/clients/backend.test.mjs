// Python's cent, unmodified, against the HTTP API of one instance that serves from memory, one with Redis, and two
// behind HAProxy; what it publishes is heard by WebSockets of every instance. What is asked of it is in backend.py. And
// what a back end wants of clients, wherever they are, heard by the npm package `centrifuge`.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createHmac } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { Centrifuge } from "centrifuge";
import WebSocket from "ws";

import { alone, balanced, cluster, eventually, freePort } from "./cluster.mjs";

const PYTHON = process.env.CLIENTS_PYTHON ?? "python3";
const KEY = "a key that only the tests have";
const SECRET = "a secret that only the tests have";
const CONFIGURATION = `
api_keys = ["${KEY}"]
token_secrets = ["${SECRET}"]
allow_anonymous = true
[channels]
may_subscribe = "anonymous"
[namespaces.kept]
may_subscribe = "anonymous"
history_size = 10
presence = true
`;

let home;
before(() => {
  home = mkdtempSync(join(tmpdir(), "fanfare-api-"));
  writeFileSync(join(home, "some.toml"), CONFIGURATION);
});
after(() => rmSync(home, { recursive: true, force: true }));

const flags = (internal) => ["--config", join(home, "some.toml"), "--internal-listen", `127.0.0.1:${internal}`];
const call = (port, instances) => {
  const sockets = instances.map((instance) => instance.url("kept:a"));
  const script = fileURLToPath(new URL("backend.py", import.meta.url));
  return promisify(execFile)(PYTHON, [script, `http://127.0.0.1:${port}/api`, KEY, ...sockets], { timeout: 60_000 });
};

test("cent against one instance in memory", async () => {
  const internal = await freePort();
  const instance = await alone(flags(internal));
  try {
    await call(internal, [instance, instance]);
  } finally {
    await instance.stop("SIGKILL");
  }
});

for (const count of [1, 2]) {
  test(`cent against ${count === 1 ? "one instance with Redis" : "two instances behind HAProxy"}`, async () => {
    const internals = [await freePort(), await freePort()].slice(0, count);
    const here = await cluster(count, (turn) => flags(internals[turn]));
    const balancer = count > 1 && (await balanced(internals.map((port) => ({ port }))));
    try {
      await call(balancer ? balancer.port : internals[0], here.instances);
    } finally {
      if (balancer) await balancer.stop("SIGKILL");
      await here.stop();
    }
  });
}

const token = (user) => {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part({ sub: user })}`;
  return `${signed}.${createHmac("sha256", SECRET).update(signed).digest("base64url")}`;
};

test("what a back end wants of a user reaches its clients on every instance, in order", async () => {
  const internals = [await freePort(), await freePort()];
  const here = await cluster(2, (turn) => flags(internals[turn]));
  const open = [];
  try {
    const api = async (method, request, turn = 0) => {
      const headers = { "X-API-Key": KEY };
      const body = JSON.stringify(request);
      const answer = await fetch(`http://127.0.0.1:${internals[turn]}/api/${method}`, { method: "POST", headers, body });
      const { result, error } = await answer.json();
      assert.equal(error, undefined, `${method} ${body}`);
      return result;
    };
    const join = async (instance, user) => {
      const made = new Centrifuge(`ws://127.0.0.1:${instance.port}/connection/websocket`, {
        websocket: WebSocket,
        token: token(user),
        getToken: async () => token(user),
        minReconnectDelay: 10,
        maxReconnectDelay: 100,
      });
      const heard = [];
      for (const event of ["subscribed", "unsubscribed"]) made.on(event, ({ channel, data }) => heard.push({ event, channel, data }));
      made.on("publication", ({ channel, data }) => heard.push({ event: "publication", channel, data }));
      made.on("connecting", ({ code }) => code && heard.push({ event: "connecting", code }));
      made.on("disconnected", ({ code, reason }) => heard.push({ event: "disconnected", code, reason }));
      const connected = new Promise((done) => made.once("connected", (context) => done(context.client)));
      made.connect();
      open.push(made);
      return { made, heard, id: await connected };
    };
    const [one, other, stranger] = [
      await join(here.instances[0], "42"),
      await join(here.instances[1], "42"),
      await join(here.instances[1], "7"),
    ];
    const all = (heard, expected) => heard.length >= expected.length && assert.deepEqual(heard, expected) === undefined;
    const everywhere = async (what, expected) => {
      for (const { heard } of [one, other]) {
        await eventually(what, () => all(heard, expected));
        heard.length = 0;
      }
    };

    const channel = "kept:x";
    await api("subscribe", { user: "42", channel, data: { n: 1 } });
    await eventually("both are subscribed", async () => (await api("channels", {})).channels[channel]?.num_clients === 2);
    await api("publish", { channel, data: { n: 2 } }, 1);
    await everywhere("subscribed", [
      { event: "subscribed", channel, data: { n: 1 } },
      { event: "publication", channel, data: { n: 2 } },
    ]);
    const present = await api("presence", { channel }, 1);
    assert.deepEqual(Object.keys(present.presence).sort(), [one.id, other.id].sort());
    assert.ok(Object.values(present.presence).every(({ user, client }) => user === "42" && [one.id, other.id].includes(client)));
    assert.deepEqual(await api("presence_stats", { channel }), { num_clients: 2, num_users: 1 });
    await api("unsubscribe", { user: "42", channel });
    await everywhere("unsubscribed", [{ event: "unsubscribed", channel, data: undefined }]);

    const turns = [];
    for (let turn = 0; turn < 20; turn += 1) {
      const event = turn % 2 ? "unsubscribed" : "subscribed";
      await api(event.slice(0, -1), { user: "42", channel, data: { turn } });
      turns.push({ event, channel, data: turn % 2 ? undefined : { turn } });
    }
    await everywhere("each in its turn", turns);

    await api("refresh", { user: "42", client: one.id, expired: true });
    await eventually("the one comes back", () => all(one.heard, [{ event: "connecting", code: 3005 }]));
    one.heard.length = 0;
    await one.made.ready();
    await api("disconnect", { user: "42", whitelist: [other.id] }, 1);
    await eventually("the one goes", () => all(one.heard, [{ event: "disconnected", code: 3503, reason: "force disconnect" }]));
    await api("disconnect", { user: "42", disconnect: { code: 4500, reason: "bye" } });
    await eventually("the other goes", () => all(other.heard, [{ event: "disconnected", code: 4500, reason: "bye" }]));
    assert.deepEqual(stranger.heard, [], "and nobody else");
    await eventually("both instances are known", async () => (await api("info", {})).nodes.length === 2);
  } finally {
    open.forEach((client) => client.disconnect());
    await here.stop();
  }
});
