// The README's chat page as a newcomer follows it: its two files as they are written there, the library from npm, in
// Chromium. Only the ports are others. What else the README says is held by the tests of what it is about.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { alone } from "../clients/cluster.mjs";
import { browser } from "./chromium.mjs";

const at = (path) => fileURLToPath(new URL(path, import.meta.url));
const README = readFileSync(at("../../README.md"), "utf8");
const LIBRARY = readFileSync(at("../clients/node_modules/centrifuge/dist/centrifuge.js"));
const BINARY = process.env.FANFARE_BIN ?? at("../../target/debug/fanfare");

/** The first block of this kind in which this stands. */
function block(kind, holds) {
  const blocks = [...README.matchAll(/^```(\w*)\n([\s\S]*?)^```$/gm)];
  const found = blocks.find(([, of, text]) => of === kind && text.includes(holds));
  assert.ok(found, `README.md has no ${kind} with ${holds}`);
  return found[2];
}

/** The same text with one thing in another's place, which has to be there. */
function instead(text, what, other) {
  assert.ok(text.includes(what), `no ${what} in ${text}`);
  return text.replaceAll(what, other);
}

let chromium, folder, site, origin;
before(async () => {
  chromium = await browser();
  folder = mkdtempSync(join(tmpdir(), "fanfare-readme-"));
  site = createServer((request, answer) => {
    const files = { "/chat.html": () => site.page, "/node_modules/centrifuge/dist/centrifuge.js": () => LIBRARY };
    const file = files[request.url];
    answer.writeHead(file ? 200 : 404, { "Content-Type": request.url.endsWith(".js") ? "text/javascript" : "text/html" });
    answer.end(file?.());
  });
  await new Promise((done) => site.listen(0, "localhost", done));
  origin = `http://localhost:${site.address().port}`;
});
after(async () => {
  await chromium?.close();
  site?.close();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

/** An instance with the README's file and more keys before it, and the page that knows it. */
async function begin(keys = "") {
  const file = join(folder, "fanfare.toml");
  writeFileSync(file, keys + instead(block("toml", "allowed_origins"), "http://localhost:8000", origin));
  const instance = await alone(["--config", file]);
  site.page = instead(block("html", "Centrifuge"), "127.0.0.1:8080", `127.0.0.1:${instance.port}`);
  return instance;
}

async function open(token = "") {
  const context = await chromium.newContext();
  const page = await context.newPage();
  page.wrong = [];
  page.on("pageerror", (error) => page.wrong.push(String(error)));
  await page.goto(`${origin}/chat.html#${token}`);
  return page;
}

const is = (page, state) => page.locator("p", { hasText: state }).waitFor();
const lines = (page, count) => page.locator(`li:nth-child(${count})`).waitFor().then(() => page.locator("li").allTextContents());

async function say(page, text) {
  await page.locator("input").fill(text);
  await page.locator("input").press("Enter");
  await page.waitForFunction(() => document.querySelector("input").value === "");
}

test("two windows hear each other, and what one has missed comes by itself", async () => {
  assert.ok(block("html", "Centrifuge").trim().split("\n").length <= 36, "it is about thirty lines");
  const instance = await begin();
  try {
    const [one, other] = [await open(), await open()];
    for (const page of [one, other]) await is(page, "connected");
    await one.waitForFunction(() => chat.state === "subscribed");
    await other.waitForFunction(() => chat.state === "subscribed");
    await say(one, "<b>hello</b>");
    for (const page of [one, other]) assert.deepEqual(await lines(page, 1), ["somebody: <b>hello</b>"]);
    await one.evaluate(() => client.disconnect());
    await is(one, "disconnected");
    await say(other, "first");
    await say(other, "second");
    await one.evaluate(() => client.connect());
    assert.deepEqual(await lines(one, 3), ["somebody: second", "somebody: first", "somebody: <b>hello</b>"]);
    for (const page of [one, other]) assert.deepEqual(page.wrong, []);
  } finally {
    await instance.stop("SIGKILL");
  }
});

test("with a secret nobody gets in without a token, and each line says whose it is", async () => {
  const secret = "a secret that only the tests have";
  const instance = await begin(`token_secrets = ["${secret}"]\n`);
  const token = async (user) => {
    const env = { PATH: process.env.PATH, FANFARE_TOKEN_SECRETS: secret };
    const arguments_ = ["token", "create", "--user", user, "--expires-in", "1h"];
    return (await promisify(execFile)(BINARY, arguments_, { env })).stdout.trim();
  };
  try {
    await is(await open(), "disconnected bad request");
    const [ann, bob] = [await open(await token("ann")), await open(await token("bob"))];
    for (const page of [ann, bob]) await page.waitForFunction(() => chat.state === "subscribed");
    await say(ann, "I am Ann");
    await say(bob, "I am not");
    for (const page of [ann, bob]) assert.deepEqual(await lines(page, 2), ["bob: I am not", "ann: I am Ann"]);
  } finally {
    await instance.stop("SIGKILL");
  }
});
