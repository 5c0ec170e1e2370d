// The npm package `centrifuge` over each of its transports, and the PyPI package `centrifuge-python`, unmodified, in
// JSON and in Protobuf, against one instance that serves from memory, one with Redis, and two behind HAProxy. Each test
// is one thing that the package's users rely on. And those who only listen, with no library at all.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createHmac, randomUUID } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { Centrifuge } from "centrifuge";
import { Centrifuge as CentrifugeProtobuf } from "centrifuge/build/protobuf";
import { EventSource } from "eventsource";
import WebSocket from "ws";

import { alone, balanced, cluster, eventually } from "./cluster.mjs";

const run = promisify(execFile);
const SECRET = "a secret that only the tests have";
const CONFIGURATION = `
token_secrets = ["${SECRET}"]
allow_anonymous = true
refresh_grace = "5s"
personal_channel = "own:#"
[channels]
may_subscribe = "anonymous"
may_publish = "anonymous"
[namespaces.chat]
may_subscribe = "anonymous"
may_publish = "subscriber"
may_read_history = "subscriber"
may_read_presence = "subscriber"
history_size = 100
recovery = "allow"
positioning = "allow"
presence = true
join_leave = "force"
delta = true
[namespaces.own]
may_subscribe = "token"
user_limited = true
history_size = 10
recovery = "force"
`;

const token = (claims) => {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
  return `${signed}.${createHmac("sha256", SECRET).update(signed).digest("base64url")}`;
};
const now = () => Math.floor(Date.now() / 1000);

const SETTINGS = {
  "one instance in memory": async (flags) => {
    const instance = await alone(flags);
    return { port: instance.port, stop: () => instance.stop("SIGKILL") };
  },
  "one instance with Redis": async (flags) => {
    const here = await cluster(1, flags);
    return { port: here.instances[0].port, stop: () => here.stop() };
  },
  "two instances behind HAProxy": async (flags) => {
    const here = await cluster(2, flags);
    const balancer = await balanced(here.instances);
    const stop = async () => {
      await balancer.stop("SIGKILL");
      await here.stop();
    };
    return { port: balancer.port, stop };
  },
};

const ENCODINGS = {
  JSON: { make: Centrifuge, write: (value) => value, read: (value) => value },
  Protobuf: {
    make: CentrifugeProtobuf,
    write: (value) => new TextEncoder().encode(JSON.stringify(value)),
    read: (bytes) => JSON.parse(new TextDecoder().decode(bytes)),
  },
};

/** How a client is made that uses no other. Server-sent events are text, so nothing else is said in them. */
const TRANSPORTS = {
  websocket: (make, place, options) => new make(`ws://${place}/connection/websocket`, options),
  sse: (make, place, options) => emulated(make, "sse", place, options),
  http_stream: (make, place, options) => emulated(make, "http_stream", place, options),
};

const emulated = (make, transport, place, options) => {
  const endpoint = `http://${place}/connection/${transport}`;
  const ways = { emulationEndpoint: `http://${place}/emulation`, eventsource: EventSource };
  return new make([{ transport, endpoint }], { ...ways, ...options });
};

// Most of the time they wait for tokens to expire, so the settings do that together.
describe("everywhere", { concurrency: 3 }, () => Object.entries(SETTINGS).forEach(([setting, begin]) => tests(setting, begin)));

function tests(setting, begin) {
  describe(setting, { concurrency: 1 }, () => {
    let place, home;
    before(async () => {
      home = mkdtempSync(join(tmpdir(), "centrifuge-"));
      const file = join(home, "fanfare.toml");
      writeFileSync(file, CONFIGURATION);
      place = await begin(["--config", file]);
    });
    after(async () => {
      await place?.stop();
      rmSync(home, { recursive: true, force: true });
    });
    for (const [encoding, words] of Object.entries(ENCODINGS)) {
      for (const transport of Object.keys(TRANSPORTS)) {
        if (transport === "sse" && encoding !== "JSON") continue;
        describe(`${encoding}, ${transport}`, () => conversations(() => place.port, words, transport));
      }
      test(`centrifuge-python in ${encoding}`, () => python(place.port, encoding.toLowerCase()));
    }
    describe("for those who only listen", () => monologues(() => place.port));
  });
}

/** Its checks are its own; what failed is on standard error. */
async function python(port, encoding) {
  const url = `ws://127.0.0.1:${port}/connection/websocket`;
  const script = fileURLToPath(new URL("centrifuge_python.py", import.meta.url));
  const { stdout } = await run(process.env.CENTRIFUGE_PYTHON ?? "python3", [script, url, encoding, SECRET]);
  assert.equal(stdout.trim().split("\n").length, 7, stdout);
}

/** No library: a bare WebSocket, an EventSource, and a fetch whose body does not end. */
function monologues(port) {
  const LISTENERS = {
    uni_websocket: (request) => {
      const heard = [];
      const socket = new WebSocket(`ws://127.0.0.1:${port()}/connection/uni_websocket`);
      socket.on("open", () => socket.send(JSON.stringify(request)));
      socket.on("message", (data) => heard.push(JSON.parse(data)));
      socket.on("error", (error) => heard.push(error));
      return [heard, () => socket.close()];
    },
    uni_sse: (request) => {
      const heard = [];
      const query = new URLSearchParams({ cf_connect: JSON.stringify(request) });
      const source = new EventSource(`http://127.0.0.1:${port()}/connection/uni_sse?${query}`);
      source.onmessage = ({ data }) => heard.push(JSON.parse(data));
      return [heard, () => source.close()];
    },
    uni_http_stream: (request) => {
      const [heard, stop] = [[], new AbortController()];
      const read = async () => {
        const body = JSON.stringify(request);
        const url = `http://127.0.0.1:${port()}/connection/uni_http_stream`;
        const answer = await fetch(url, { method: "POST", body, signal: stop.signal });
        let rest = "";
        for await (const text of answer.body.pipeThrough(new TextDecoderStream())) {
          const lines = (rest + text).split("\n");
          rest = lines.pop();
          heard.push(...lines.map((line) => JSON.parse(line)));
        }
      };
      read().catch((error) => error.name === "AbortError" || heard.push(error));
      return [heard, () => stop.abort()];
    },
  };
  for (const [transport, listen] of Object.entries(LISTENERS)) {
    test(`${transport} brings all that is published, from wherever`, async () => {
      const channel = `chat:${randomUUID()}`;
      const user = randomUUID();
      const [heard, stop] = listen({ token: token({ sub: user, channels: [channel] }) });
      const speaker = new Centrifuge(`ws://127.0.0.1:${port()}/connection/websocket`, { websocket: WebSocket });
      try {
        const { connect } = await eventually("it is let in", () => heard[0]);
        assert.deepEqual(Object.keys(connect.subs).sort(), [channel, `own:#${user}`].sort());
        speaker.connect();
        const sub = speaker.newSubscription(channel);
        sub.subscribe();
        await sub.ready(5000);
        for (let n = 0; n < 20; n += 1) await sub.publish({ n, text: "grüße\n" });
        const said = () => heard.filter((push) => push.pub).map((push) => push.pub.data);
        await eventually("all is heard", () => said().length === 20);
        assert.deepEqual(said(), Array.from({ length: 20 }, (_, n) => ({ n, text: "grüße\n" })));
      } finally {
        stop();
        speaker.disconnect();
      }
    });
  }
}

function conversations(port, { make, write, read }, transport) {
  const open = [];
  after(() => open.forEach((client) => client.disconnect()));

  const client = (options = {}) => {
    const made = TRANSPORTS[transport](make, `127.0.0.1:${port()}`, {
      websocket: WebSocket,
      minReconnectDelay: 10,
      maxReconnectDelay: 100,
      ...options,
    });
    open.push(made);
    return made;
  };
  const connected = async (options) => {
    const made = client(options);
    made.connect();
    await made.ready(5000);
    return made;
  };
  /** A subscription that is there, with all that it heard. */
  const subscribed = async (connection, channel, options) => {
    const sub = connection.newSubscription(channel, { minResubscribeDelay: 10, maxResubscribeDelay: 100, ...options });
    const heard = { publications: [], joined: [], left: [], contexts: [] };
    sub.on("publication", (context) => heard.publications.push(context));
    sub.on("join", (context) => heard.joined.push(context.info));
    sub.on("leave", (context) => heard.left.push(context.info));
    sub.on("subscribed", (context) => heard.contexts.push(context));
    sub.subscribe();
    await sub.ready(5000);
    return [sub, heard];
  };
  const room = (namespace) => `${namespace}${randomUUID()}`;
  const said = (heard) => heard.publications.map((context) => read(context.data));
  /** Cuts the transport, as a network does. */
  const cut = (connection) => connection._transport.close();

  test("what one publishes, all who are subscribed hear in order", async () => {
    const [one, other] = [await connected(), await connected()];
    const channel = room("");
    const [, first] = await subscribed(one, channel);
    const [, second] = await subscribed(other, channel);
    const all = Array.from({ length: 20 }, (_, n) => ({ n, text: "grüße\n" }));
    // In one frame, or in one request: what is said in several requests may overtake itself on the way.
    one.startBatching();
    const published = Promise.all(all.map((data) => one.publish(channel, write(data))));
    one.stopBatching();
    await published;
    for (const heard of [first, second]) {
      await eventually("all is heard", () => heard.publications.length >= all.length);
      assert.deepEqual(said(heard), all);
    }
    assert.equal(second.publications[0].info.client, one._client ?? second.publications[0].info.client);
  });

  test("a token says who it is, and others are told", async () => {
    const channel = room("chat:");
    const info = { name: "Ann" };
    const one = await connected({ token: token({ sub: "ann", info }) });
    const other = await connected({ token: token({ sub: "bob" }) });
    const [sub, heard] = await subscribed(one, channel);
    await eventually("it hears of itself", () => heard.joined.length === 1);
    const [, second] = await subscribed(other, channel);
    await eventually("it hears of the other", () => heard.joined.length === 2);
    assert.deepEqual(heard.joined.map((who) => who.user), ["ann", "bob"]);
    const presence = await sub.presence();
    assert.deepEqual(Object.values(presence.clients).map((who) => who.user).sort(), ["ann", "bob"]);
    const ann = Object.values(presence.clients).find((who) => who.user === "ann");
    assert.deepEqual(read(ann.connInfo), info);
    assert.deepEqual(await sub.presenceStats(), { numClients: 2, numUsers: 2 });
    await sub.publish(write({ hello: 1 }));
    await eventually("it is heard", () => second.publications.length === 1);
    assert.equal(second.publications[0].info.user, "ann");
    other.disconnect();
    await eventually("it hears that the other has left", () => heard.left.length === 1);
    assert.equal(heard.left[0].user, "bob");
    await eventually("one is left", async () => (await sub.presenceStats()).numClients === 1);
  });

  test("a client that was away gets what it has missed", async () => {
    const channel = room("chat:");
    const [one, other] = [await connected(), await connected()];
    const [, heard] = await subscribed(one, channel, { recoverable: true, positioned: true });
    const [speaker] = await subscribed(other, channel);
    await speaker.publish(write({ n: 0 }));
    await eventually("the first is heard", () => heard.publications.length === 1);
    cut(one);
    for (let n = 1; n <= 5; n += 1) await speaker.publish(write({ n }));
    await eventually("all is heard", () => heard.publications.length === 6);
    assert.deepEqual(said(heard).map(({ n }) => n), [0, 1, 2, 3, 4, 5]);
    await eventually("it is subscribed again", () => heard.contexts.length === 2);
    const again = heard.contexts[1];
    assert.deepEqual([again.wasRecovering, again.recovered], [true, true]);
  });

  test("history is read forward, backward and from a position", async () => {
    const channel = room("chat:");
    const [sub] = await subscribed(await connected(), channel);
    for (let n = 1; n <= 5; n += 1) await sub.publish(write({ n }));
    const numbers = ({ publications }) => publications.map((publication) => read(publication.data).n);
    const all = await sub.history({ limit: 100 });
    assert.deepEqual([numbers(all), all.offset], [[1, 2, 3, 4, 5], 5]);
    const { epoch } = all;
    assert.deepEqual(numbers(await sub.history({ limit: 2, since: { offset: 2, epoch } })), [3, 4]);
    assert.deepEqual(numbers(await sub.history({ limit: 2, since: { offset: 4, epoch }, reverse: true })), [3, 2]);
    assert.deepEqual(numbers(await sub.history({ limit: 0 })), []);
    await assert.rejects(sub.history({ limit: 2, since: { offset: 2, epoch: "other" } }), { code: 112 });
  });

  test("what is not allowed is an error with its code", async () => {
    const one = await connected();
    await assert.rejects(one.rpc("anything", write({})), { code: 108 });
    await assert.rejects(one.publish("chat:elsewhere", write({})), { code: 103 });
    await assert.rejects(one.publish("nowhere:a", write({})), { code: 102 });
    await assert.rejects(one.history("lobby"), { code: 108 });
    for (const [channel, code] of [["$private", 103], ["own:#ann", 103], ["nowhere:a", 102]]) {
      const sub = one.newSubscription(channel);
      const ended = new Promise((done) => sub.once("unsubscribed", done));
      sub.subscribe();
      assert.equal((await ended).code, code, channel);
    }
  });

  test("who unsubscribes is there no more", async () => {
    const channel = room("chat:");
    const [one, other] = [await connected(), await connected()];
    // With a position, what was published before and is still on its way does not come.
    const [sub, heard] = await subscribed(one, channel, { positioned: true });
    const [speaker] = await subscribed(other, channel);
    await eventually("both are there", async () => (await speaker.presenceStats()).numClients === 2);
    sub.unsubscribe();
    await eventually("one is there", async () => (await speaker.presenceStats()).numClients === 1);
    const count = heard.publications.length;
    await speaker.publish(write({}));
    sub.subscribe();
    await sub.ready(5000);
    await speaker.publish(write({ again: true }));
    await eventually("it hears again", () => heard.publications.length === count + 1);
    assert.deepEqual(said(heard).at(-1), { again: true });
  });

  test("a token subscribes to channels from the start, and a user has one of its own", async () => {
    const user = randomUUID();
    const channel = room("chat:");
    const claims = { sub: user, subs: { [channel]: { data: { hello: true } } } };
    const one = client({ token: token(claims) });
    const [subs, heard] = [[], []];
    one.on("subscribed", (context) => subs.push(context));
    one.on("publication", (context) => heard.push(context));
    one.connect();
    await one.ready(5000);
    await eventually("both are there", () => subs.length === 2);
    assert.deepEqual(subs.map((context) => context.channel).sort(), [channel, `own:#${user}`].sort());
    assert.deepEqual(read(subs.find((context) => context.channel === channel).data), { hello: true });
    const other = await connected();
    const [speaker] = await subscribed(other, channel);
    await speaker.publish(write({ n: 1 }));
    await eventually("it hears", () => heard.length === 1);
    assert.deepEqual([heard[0].channel, read(heard[0].data)], [channel, { n: 1 }]);
    // Of its own channel it is told what it has missed.
    cut(one);
    await eventually("it is back", () => subs.length === 4);
    assert.ok(subs.slice(2).find((context) => context.channel === `own:#${user}`).recovered);
  });

  test("a private channel is for the holder of a token", async () => {
    const channel = room("$");
    const one = await connected({ token: token({ sub: "ann" }) });
    const [sub] = await subscribed(one, channel, {
      getToken: async ({ channel }) => token({ sub: "ann", channel, exp: now() + 1000 }),
    });
    assert.equal(sub.state, "subscribed");
  });

  test("a connection and a subscription outlive their tokens, when they bring new ones", async () => {
    // Seconds. A token that is over before it has arrived would be a client's own mistake, however slow the machine is.
    const SHORT = 4;
    const channel = room("$");
    let [connections, subscriptions] = [0, 0];
    const one = await connected({
      getToken: async () => {
        connections += 1;
        return token({ sub: "ann", exp: now() + SHORT });
      },
    });
    const ended = [];
    one.on("connecting", (context) => ended.push(context));
    const [sub] = await subscribed(one, channel, {
      getToken: async () => {
        subscriptions += 1;
        return token({ sub: "ann", channel, exp: now() + SHORT });
      },
    });
    await eventually("both were refreshed", () => connections >= 3 && subscriptions >= 3);
    assert.deepEqual([one.state, sub.state, ended], ["connected", "subscribed", []]);
  });

  test("deltas come together to what was said", async () => {
    const channel = room("chat:");
    const [one, other] = [await connected(), await connected()];
    const [, heard] = await subscribed(one, channel, { delta: "fossil", recoverable: true });
    const [speaker] = await subscribed(other, channel);
    const text = "so long that a delta is worth its while, as it says a small part of it ".repeat(3);
    const all = Array.from({ length: 8 }, (_, n) => ({ n, text }));
    for (const data of all.slice(0, 4)) await speaker.publish(write(data));
    await eventually("four are heard", () => heard.publications.length === 4);
    cut(one);
    for (const data of all.slice(4, 7)) await speaker.publish(write(data));
    await eventually("seven are heard", () => heard.publications.length === 7);
    await speaker.publish(write(all[7]));
    await eventually("eight are heard", () => heard.publications.length === 8);
    assert.deepEqual(said(heard), all);
  });

  test("many subscriptions in one frame are all answered", async () => {
    const one = client();
    const channels = Array.from({ length: 60 }, () => room("chat:"));
    const subs = channels.map((channel) => one.newSubscription(channel, { recoverable: true }));
    subs.forEach((sub) => sub.subscribe());
    one.connect();
    await Promise.all(subs.map((sub) => sub.ready(5000)));
    // It may be away for less time than passes between two looks.
    let again = 0;
    subs.forEach((sub) => sub.once("subscribed", () => again++));
    cut(one);
    await eventually("all are subscribed again", () => again === subs.length);
  });
}
