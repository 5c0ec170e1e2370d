// The npm package `centrifuge` in Chromium over the transports that are no WebSocket, from a page of another origin:
// its stream is at one instance, what it says goes to the other. And those who only listen, with what a browser has.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { alone, cluster, eventually } from "../clients/cluster.mjs";
import { browser } from "./chromium.mjs";

const LIBRARY = fileURLToPath(new URL("../clients/node_modules/centrifuge/dist/centrifuge.js", import.meta.url));
const CONFIGURATION = `
allow_anonymous = true
[channels]
may_subscribe = "anonymous"
may_publish = "anonymous"
`;

let chromium, folder, here, closed, context;
before(async () => {
  chromium = await browser();
  folder = mkdtempSync(join(tmpdir(), "fanfare-streams-"));
  const file = join(folder, "some.toml");
  writeFileSync(file, CONFIGURATION);
  here = await cluster(2, ["--config", file, "--allowed-origins", "*"]);
  closed = await alone(["--config", file]);
  // The page's own policy lets it go nowhere else.
  context = await chromium.newContext({ bypassCSP: true });
});
after(async () => {
  await chromium?.close();
  await here?.stop();
  await closed?.stop("SIGKILL");
  if (folder) rmSync(folder, { recursive: true, force: true });
});

/** A page of an origin that is neither instance's. */
async function stranger() {
  const page = await context.newPage();
  await page.goto(closed.page);
  await page.addScriptTag({ path: LIBRARY });
  return page;
}

/** Runs on the page: subscribes over one transport, publishes, and gives what it heard. */
function converse([transport, stream, uplink]) {
  const endpoint = `${stream}connection/${transport}`;
  const client = new Centrifuge([{ transport, endpoint }], { emulationEndpoint: `${uplink}emulation` });
  const heard = [];
  const sub = client.newSubscription(`news ${transport}`);
  sub.on("publication", ({ data }) => heard.push(data.n));
  sub.subscribe();
  return new Promise((done, fail) => {
    client.on("error", (context) => fail(new Error(JSON.stringify(context))));
    sub.on("publication", () => heard.length === 20 && done(heard));
    sub.on("subscribed", async () => {
      for (let n = 0; n < 20; n += 1) await sub.publish({ n });
    });
    client.connect();
  }).finally(() => client.disconnect());
}

for (const transport of ["sse", "http_stream"]) {
  test(`${transport} from a page of another origin, spoken to by way of another instance`, async () => {
    const page = await stranger();
    const [one, other] = here.instances;
    const heard = await page.evaluate(converse, [transport, one.page, other.page]);
    assert.deepEqual(heard, Array.from({ length: 20 }, (_, n) => n));
    // Whoever is not let in by its origin is not let in this way either.
    await page.goto(one.page);
    await page.addScriptTag({ path: LIBRARY });
    await assert.rejects(page.evaluate(converse, [transport, closed.page, closed.page]), /transport/);
    await page.close();
  });
}

test("an EventSource and a fetch only listen, from a page of another origin", async () => {
  const page = await stranger();
  const [one, other] = here.instances;
  await page.evaluate((url) => {
    window.heard = { uni_sse: [], uni_http_stream: [] };
    const request = JSON.stringify({ subs: { quiet: {} } });
    const source = new EventSource(`${url}connection/uni_sse?cf_connect=${encodeURIComponent(request)}`);
    source.onmessage = ({ data }) => window.heard.uni_sse.push(JSON.parse(data));
    const headers = { "Content-Type": "application/json" };
    fetch(`${url}connection/uni_http_stream`, { method: "POST", headers, body: request }).then(async (answer) => {
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        window.heard.uni_http_stream.push(...lines.map((line) => JSON.parse(line)));
      }
    });
  }, one.page);
  const said = () => page.evaluate(() => window.heard);
  const both = async (what, count) => {
    const heard = () => said().then((all) => Object.values(all).every((pushes) => pushes.length >= count) && all);
    return eventually(what, heard);
  };
  await both("both are let in", 1);
  const socket = await stranger();
  await socket.evaluate((url) => {
    const socket = new WebSocket(url);
    socket.onopen = () => [1, 2, 3].forEach((n) => socket.send(`${n}`));
  }, other.url("quiet"));
  for (const pushes of Object.values(await both("both hear", 4))) {
    assert.ok(pushes[0].connect.client);
    assert.deepEqual(pushes.slice(1), [1, 2, 3].map((data) => ({ channel: "quiet", pub: { data } })));
  }
});
