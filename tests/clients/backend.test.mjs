// Python's cent, unmodified, against the HTTP API of one instance that serves from memory, one with Redis, and two behind HAProxy;
// what it publishes is heard by WebSockets of every instance. What is asked of it is in backend.py.

import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { alone, balanced, cluster, freePort } from "./cluster.mjs";

const PYTHON = process.env.CLIENTS_PYTHON ?? "python3";
const KEY = "a key that only the tests have";
const CONFIGURATION = `
api_keys = ["${KEY}"]
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
