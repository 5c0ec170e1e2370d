// Chromium's own EventSource, bare as it is: behind HAProxy, over TLS, from a page of another origin. It comes back by
// itself, to whatever instance there is, and has missed nothing.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { alone, balanced, cluster, eventually, freePort } from "../clients/cluster.mjs";
import { browser } from "./chromium.mjs";

const CONFIGURATION = `
api_keys = ["key"]
[channels]
may_subscribe = "anonymous"
may_publish = "anonymous"
[namespaces.kept]
may_subscribe = "anonymous"
may_publish = "anonymous"
history_size = 1000
recovery = "allow"
`;

let chromium, folder, flags;
before(async () => {
  chromium = await browser();
  folder = mkdtempSync(join(tmpdir(), "fanfare-events-"));
  writeFileSync(join(folder, "some.toml"), CONFIGURATION);
  flags = (internal) => ["--config", join(folder, "some.toml"), "--internal-listen", `127.0.0.1:${internal}`];
});
after(async () => {
  await chromium?.close();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

/** Runs on the page: listens, and keeps what comes, and how often it was open. */
function listen(url) {
  const source = new EventSource(url);
  window.heard = [];
  window.opened = 0;
  source.onopen = () => (window.opened += 1);
  const keep = ({ type, data, lastEventId }) => window.heard.push({ type, data, id: Number(lastEventId.split(":")[0]) });
  for (const type of ["message", "binary", "gap"]) source.addEventListener(type, keep);
  return new Promise((done, fail) => {
    source.addEventListener("open", done, { once: true });
    source.addEventListener("error", () => source.readyState === EventSource.CLOSED && fail(new Error("refused")));
  });
}

/** Publishes, and waits until it is out. */
async function publish(internal, publication) {
  const body = JSON.stringify({ channel: "kept:a", ...publication });
  const answer = await fetch(`http://127.0.0.1:${internal}/api/publish`, { method: "POST", headers: { "X-API-Key": "key" }, body });
  assert.ok((await answer.json()).result);
}

const heard = (page, count) => async () => {
  const all = await page.evaluate(() => window.heard);
  return all.length >= count && all;
};

test("an EventSource comes back to another instance, and has missed nothing", async () => {
  const internals = [await freePort(), await freePort()];
  const here = await cluster(2, (turn) => ["--drain-delay", "0s", "--drain-window", "0s", ...flags(internals[turn])]);
  const balancer = await balanced(here.instances);
  try {
    const page = await chromium.newPage();
    // Not the page, whose own WebSocket may be on the other instance and would count there.
    await page.goto(`http://127.0.0.1:${balancer.port}/instance`);
    await page.evaluate(listen, "/sse/kept:a");
    const [one, other] = here.instances;
    await publish(internals[1], { data: "first" });
    await publish(internals[1], { b64data: "AP8=" });
    const first = await eventually("both come", heard(page, 2));
    assert.deepEqual(first, [
      { type: "message", data: '"first"', id: 1 },
      { type: "binary", data: "AP8=", id: 2 },
    ]);
    // Whichever instance it is on, it has to leave one of them, and nobody is there while something is said.
    const stats = async (instance) => (await (await fetch(new URL("instance", instance.page))).json()).connections;
    const holder = (await stats(one)) > (await stats(other)) ? one : other;
    const stays = internals[holder === one ? 1 : 0];
    await holder.stop();
    for (let turn = 3; turn <= 20; turn += 1) await publish(stays, { data: turn });
    const all = await eventually("the rest comes", heard(page, 20));
    assert.deepEqual(all.map(({ id }) => id), Array.from({ length: 20 }, (_, turn) => turn + 1));
    assert.ok(all.every(({ type }) => type !== "gap"));
    assert.equal(await page.evaluate(() => window.opened), 2);
  } finally {
    await balancer.stop("SIGKILL");
    await here.stop();
  }
});

test("an EventSource over TLS, and one of another origin that may or may not", async () => {
  const [key, certificate] = [join(folder, "key.pem"), join(folder, "certificate.pem")];
  const subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"];
  const how = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
  execFileSync("openssl", [...how, "-keyout", key, "-out", certificate, ...subject], { stdio: "ignore" });
  const internals = [await freePort(), await freePort(), await freePort()];
  const secure = await alone([...flags(internals[0]), "--tls-cert", certificate, "--tls-key", key]);
  const open = await alone([...flags(internals[1]), "--allowed-origins", "*"]);
  const closed = await alone(flags(internals[2]));
  const context = await chromium.newContext({ ignoreHTTPSErrors: true, bypassCSP: true });
  try {
    const page = await context.newPage();
    await page.goto(secure.page);
    await page.evaluate(listen, "/sse/kept:a");
    await publish(internals[0], { data: 1 });
    assert.deepEqual(await eventually("it comes", heard(page, 1)), [{ type: "message", data: "1", id: 1 }]);
    // A page of one instance listens to another, which has another port and so another origin.
    const stranger = await context.newPage();
    await stranger.goto(closed.page);
    await stranger.evaluate(listen, `${open.page}sse/kept:a`);
    await publish(internals[1], { data: 2 });
    assert.deepEqual(await eventually("it comes", heard(stranger, 1)), [{ type: "message", data: "2", id: 1 }]);
    await stranger.goto(open.page);
    await assert.rejects(stranger.evaluate(listen, `${closed.page}sse/kept:a`), /refused/);
  } finally {
    await context.close();
    await Promise.all([secure, open, closed].map((instance) => instance.stop("SIGKILL")));
  }
});
