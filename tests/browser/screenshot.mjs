// Writes the README's picture of the page: node screenshot.mjs FILE

import { cluster } from "../clients/cluster.mjs";
import { browser } from "./chromium.mjs";

const here = await cluster(2);
const chromium = await browser();
const tabs = [];
for (const [instance, name] of [[0, "Cornet"], [1, "Viola"]]) {
  const context = await chromium.newContext({ viewport: { width: 1120, height: 580 }, deviceScaleFactor: 2 });
  const page = await context.newPage();
  await page.goto(`${here.instances[instance].page}#concert`);
  await page.locator('#state[data-state="open"]').waitFor();
  await page.locator("#name").fill(name);
  tabs.push(page);
}

/** One of the two says something, and both hear it. */
async function say(speaker, text) {
  await tabs[speaker].locator("#text").fill(text);
  await tabs[speaker].locator("#text").press("Enter");
  for (const page of tabs) await page.locator("#log li", { hasText: text }).waitFor();
}

await tabs[0].bringToFront();
await say(0, "I am on the first instance. Who else is here?");
await say(1, "Me, on the second one. Redis is between us.");
await say(0, "And in the same order for everybody?");
await say(1, "For everybody.");
await here.redis.cli("PUBLISH", "fanfare:channel:concert", "hello from redis-cli");
await tabs[0].locator("#log li", { hasText: "redis-cli" }).waitFor();
await say(0, "That was redis-cli PUBLISH. Any client will do.");

// A small audience in the lobby, so that the counts have something to count.
const audience = await tabs[1].context().newPage();
await audience.goto(here.instances[0].page);
await audience.evaluate(async () => {
  const address = `ws://${location.host}/ws/lobby`;
  const joined = Array.from({ length: 40 }, () => new Promise((done) => (new WebSocket(address).onopen = done)));
  await Promise.all(joined);
});
for (let step = 0; step < 24; step += 1) {
  const many = Math.round(60 + 50 * Math.sin(step / 2.5) + 20 * Math.sin(step));
  const script = `for number = 1, ${many} do redis.call("PUBLISH", "fanfare:channel:lobby", "x") end`;
  await tabs[0].waitForResponse((answer) => answer.url().endsWith("/instance"));
  await here.redis.cli("EVAL", script, "0");
}
await tabs[0].screenshot({ path: process.argv[2] });
await chromium.close();
await here.stop();
