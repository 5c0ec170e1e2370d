// Two instances over a Redis, for tests that are written in JavaScript. Everything here is a child process
// that ends with the test; nothing of it looks at what is said.

import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const BINARY = resolve(process.env.FANFARE_BIN ?? fileURLToPath(new URL("../../target/debug/fanfare", import.meta.url)));
const DEADLINE = 20_000;
const run = promisify(execFile);

/** Waits until `condition` gives something, and gives that. */
export async function eventually(what, condition, deadline = DEADLINE) {
  const end = Date.now() + deadline;
  for (;;) {
    const found = await condition();
    if (found) return found;
    if (Date.now() > end) throw new Error(`not within ${deadline} ms: ${what}`);
    await pause(20);
  }
}

/** A port that no outgoing connection takes, so that a server can have it again. */
export async function freePort() {
  for (;;) {
    const port = 12_000 + Math.floor(Math.random() * 20_000);
    const server = createServer();
    const free = await new Promise((done) => {
      server.once("error", () => done(false));
      server.listen(port, "127.0.0.1", () => server.close(() => done(true)));
    });
    if (free) return port;
  }
}

class Process {
  start(command, args, options = {}) {
    this.child = spawn(command, args, { stdio: "ignore", ...options });
    this.failed = new Promise((_, no) => this.child.once("error", no));
    this.failed.catch(() => {});
    this.ended = once(this.child, "exit").catch(() => {});
    return this;
  }

  async stop(signal = "SIGTERM") {
    if (!this.child || this.child.exitCode !== null || this.child.signalCode !== null) return;
    this.child.kill(signal);
    await this.ended;
  }
}

class Redis extends Process {
  constructor(port) {
    super();
    this.port = port;
  }

  get url() {
    return `redis://127.0.0.1:${this.port}`;
  }

  async begin() {
    this.start("redis-server", ["--bind", "127.0.0.1", "--port", `${this.port}`, "--save", "", "--appendonly", "no"]);
    await Promise.race([this.failed, eventually("redis-server answers", () => accepts(this.port))]);
    return this;
  }

  async cli(...args) {
    const { stdout } = await run("redis-cli", ["-h", "127.0.0.1", "-p", `${this.port}`, ...args]);
    return stdout.trim();
  }
}

class Instance extends Process {
  constructor(port, flags) {
    super();
    this.port = port;
    this.flags = flags;
  }

  get page() {
    return `http${this.secure}://127.0.0.1:${this.port}/`;
  }

  url(channel) {
    return `ws${this.secure}://127.0.0.1:${this.port}/ws/${channel}`;
  }

  get secure() {
    return this.flags.includes("--tls-cert") ? "s" : "";
  }

  async begin() {
    const home = mkdtempSync(join(tmpdir(), "fanfare-"));
    const flags = ["serve", "--listen", `127.0.0.1:${this.port}`, "--log-format", "json", ...this.flags];
    const env = Object.fromEntries(Object.entries(process.env).filter(([key]) => !key.startsWith("FANFARE_")));
    this.start(BINARY, flags, { cwd: home, env, stdio: ["ignore", "ignore", "pipe"] });
    this.ended.then(() => rmSync(home, { recursive: true, force: true }));
    const log = [];
    const listening = new Promise((done, fail) => {
      const lines = createInterface(this.child.stderr);
      lines.on("line", (line) => {
        log.push(line);
        if (line.includes('"listening"')) done();
      });
      lines.on("close", () => fail(new Error(`${BINARY} ended:\n${log.join("\n")}`)));
    });
    await Promise.race([this.failed, listening]);
    return this;
  }
}

/** A HAProxy in front of instances: round robin, no stickiness. */
class Balancer extends Process {
  constructor(port, instances) {
    super();
    this.port = port;
    this.instances = instances;
  }

  async begin() {
    const home = mkdtempSync(join(tmpdir(), "haproxy-"));
    const servers = this.instances.map(({ port }, turn) => `  server gw${turn} 127.0.0.1:${port}`);
    const lines = [
      "defaults",
      "  mode http",
      "  timeout connect 5s",
      "  timeout client 60s",
      "  timeout server 60s",
      "  timeout tunnel 1h",
      // As in deploy/haproxy: an EventSource takes a 503 for the end.
      "  retries 3",
      "  option redispatch 1",
      "  retry-on conn-failure empty-response 503",
      "listen gateway",
      `  bind 127.0.0.1:${this.port}`,
      "  balance roundrobin",
      // Who leaves a body that does not end is gone at once, and not at the next ping.
      "  option abortonclose",
      // What is written there is sent at once, and not when more has come or 200 ms have passed.
      "  option http-no-delay",
      "  http-request disable-l7-retry unless METH_GET",
      ...servers,
      "",
    ];
    writeFileSync(join(home, "haproxy.cfg"), lines.join("\n"));
    const path = existsSync("/usr/sbin/haproxy") ? "/usr/sbin/haproxy" : "haproxy";
    this.start(path, ["-db", "-f", join(home, "haproxy.cfg")]);
    this.ended.then(() => rmSync(home, { recursive: true, force: true }));
    await Promise.race([this.failed, eventually("haproxy answers", () => accepts(this.port))]);
    return this;
  }
}

/** A balancer in front of these instances. */
export async function balanced(instances) {
  return new Balancer(await freePort(), instances).begin();
}

/** Whether something listens there. */
const accepts = (port) =>
  new Promise((done) => {
    const socket = connect(port, "127.0.0.1", () => done(true) && socket.destroy());
    socket.once("error", () => done(false));
  });

/** One instance that serves from memory. */
export async function alone(flags = []) {
  return new Instance(await freePort(), flags).begin();
}

/** A Redis and `count` instances over it; `flags` go to each of them, or are asked for by its turn. */
export async function cluster(count, flags = []) {
  const redis = await new Redis(await freePort()).begin();
  const instances = [];
  for (let turn = 0; turn < count; turn += 1) {
    instances.push(await new Instance(await freePort(), ["--redis", redis.url, ...(typeof flags === "function" ? flags(turn) : flags)]).begin());
  }
  return {
    redis,
    instances,
    async stop() {
      await Promise.all(instances.map((instance) => instance.stop("SIGKILL")));
      await redis.stop("SIGKILL");
    },
  };
}
