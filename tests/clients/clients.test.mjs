// Ordinary clients in one channel across two instances: wscat, Python's websockets, ws for Node, Chromium and
// redis-cli. Each says something, and every other hears it as it was said, compressed or not.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import WebSocket from "ws";

import { browser, open } from "../browser/chromium.mjs";
import { cluster, eventually } from "./cluster.mjs";

const file = (name) => fileURLToPath(new URL(name, import.meta.url));
const PYTHON = process.env.CLIENTS_PYTHON ?? "python3";

let here;
const clients = new Map();
const ends = [];

before(async () => {
  here = await cluster(2, ["--compression", "--compression-threshold", "1"]);
  const [one, other] = here.instances;
  clients.set("wscat", await wscat(one));
  clients.set("Python websockets", await python(other.url("lobby")));
  clients.set("ws for Node", await ws(other.url("lobby"), true));
  clients.set("ws without compression", await ws(one.url("lobby"), false));
  clients.set("Chromium", await page(one.page));
  // It can only publish.
  clients.set("redis-cli", { say: (text) => here.redis.cli("PUBLISH", "fanfare:channel:lobby", text) });
});
after(async () => {
  for (const end of ends) await end();
  await here?.stop();
});

/** A child whose output is collected and whose input can be written. */
function child(command, args) {
  const made = spawn(command, args, { stdio: ["pipe", "pipe", "inherit"] });
  let output = "";
  made.stdout.on("data", (data) => (output += data));
  const failed = new Promise((_, no) => made.once("error", no));
  failed.catch(() => {});
  ends.push(() => made.kill());
  return { write: (text) => made.stdin.write(text), output: () => output, failed };
}

async function wscat(instance) {
  const args = [file("node_modules/wscat/bin/wscat"), "-c", instance.url("lobby")];
  const { write, output, failed } = child(process.execPath, args);
  // Without a terminal it prints messages and nothing else, so the instance is asked whether it has come.
  const connected = async () => (await (await fetch(new URL("instance", instance.page))).json()).connections > 0;
  await Promise.race([failed, eventually("wscat connects", connected)]);
  return {
    say: (text) => write(`${text}\n`),
    // After each line that was typed it prints a prompt, here before what comes next.
    hears: (text) => output().replaceAll("> ", "").split("\n").includes(text),
    mentions: (part) => output().includes(part),
  };
}

async function python(url) {
  const { write, output, failed } = child(PYTHON, [file("talk.py"), url]);
  const lines = () => output().split("\n").slice(0, -1).map((line) => JSON.parse(line));
  await Promise.race([failed, eventually("Python connects", () => lines().length > 0)]);
  return {
    say: (text) => write(`${JSON.stringify({ text })}\n`),
    hears: (text) => lines().some((line) => line.text === text),
    mentions: (part) => lines().some((line) => line.text?.includes(part)),
    sayBytes: (hex) => write(`${JSON.stringify({ hex })}\n`),
    hearsBytes: (hex) => lines().some((line) => line.hex === hex),
  };
}

async function ws(url, perMessageDeflate) {
  const socket = new WebSocket(url, { perMessageDeflate: perMessageDeflate && { threshold: 0 } });
  const heard = [];
  socket.on("message", (data, binary) => heard.push(binary ? { hex: data.toString("hex") } : { text: data.toString() }));
  await new Promise((done, fail) => socket.once("open", done).once("error", fail));
  assert.equal(socket.extensions.includes("permessage-deflate"), perMessageDeflate);
  ends.push(() => socket.terminate());
  return {
    say: (text) => socket.send(text),
    hears: (text) => heard.some((message) => message.text === text),
    mentions: (part) => heard.some((message) => message.text?.includes(part)),
    sayBytes: (hex) => socket.send(Buffer.from(hex, "hex")),
    hearsBytes: (hex) => heard.some((message) => message.hex === hex),
  };
}

async function page(address) {
  const chromium = await browser();
  ends.push(() => chromium.close());
  const { page } = await open(await chromium.newContext(), `${address}#lobby`);
  await page.locator('#state[data-state="open"]').waitFor();
  return {
    say: async (text) => {
      await page.locator("#text").fill(text);
      await page.locator("#text").press("Enter");
    },
    hears: async (text) => (await page.locator("#log .said").allTextContents()).includes(text),
    hearsBytes: async (hex) => {
      const shown = `${hex.length / 2} bytes: ${hex.match(/../g).join(" ")}`;
      return (await page.locator("#log .said").allTextContents()).includes(shown);
    },
  };
}

const SPEAKERS = ["wscat", "Python websockets", "ws for Node", "ws without compression", "redis-cli"];

for (const speaker of SPEAKERS) {
  test(`everybody hears ${speaker}`, async () => {
    // Long enough to become shorter.
    const text = `${"žluťoučký kůň ".repeat(20)}says ${speaker}`;
    await clients.get(speaker).say(text);
    for (const [name, client] of clients) {
      if (client.hears) await eventually(`${name} hears ${speaker}`, () => client.hears(text));
    }
  });
}

test("everybody hears Chromium", async () => {
  // What the page sends is JSON around the text: the others hear that, the page shows the text.
  await clients.get("Chromium").say("from the page");
  for (const [name, client] of clients) {
    if (client.mentions) await eventually(`${name} hears Chromium`, () => client.mentions('"text":"from the page"'));
  }
  await eventually("the page hears itself", () => clients.get("Chromium").hears("from the page"));
});

for (const speaker of ["Python websockets", "ws for Node", "ws without compression"]) {
  test(`binary from ${speaker} stays binary`, async () => {
    // Not UTF-8, and as much as the page shows in full.
    const hex = `00ff10${Buffer.from(speaker.slice(-4)).toString("hex")}`;
    await clients.get(speaker).sayBytes(hex);
    for (const [name, client] of clients) {
      if (client.hearsBytes) await eventually(`${name} hears bytes of ${speaker}`, () => client.hearsBytes(hex));
    }
  });
}

test("what was said was compressed, once for all who could take it", async () => {
  for (const instance of here.instances) {
    const metrics = await (await fetch(new URL("metrics", instance.page))).text();
    const value = (name) => Number(metrics.match(new RegExp(`^${name} (\\S+)$`, "m"))[1]);
    assert.ok(value("fanfare_compressed_subscriptions") > 0);
    assert.ok(value("fanfare_deflated_frame_bytes_total") < value("fanfare_deflated_payload_bytes_total") / 2);
  }
});
