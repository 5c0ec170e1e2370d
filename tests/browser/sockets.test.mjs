// Chromium's own WebSocket, plain, compressed and over TLS: what goes to and fro, and what DevTools reads of it.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { alone } from "../clients/cluster.mjs";
import { browser } from "./chromium.mjs";

let chromium;
let folder;

before(async () => {
  chromium = await browser();
  folder = mkdtempSync(join(tmpdir(), "fanfare-keys-"));
});
after(async () => {
  await chromium?.close();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

/** The flags for a certificate that nobody has signed. */
function tls() {
  const [key, certificate] = [join(folder, "key.pem"), join(folder, "certificate.pem")];
  const subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"];
  const how = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
  execFileSync("openssl", [...how, "-keyout", key, "-out", certificate, ...subject], { stdio: "ignore" });
  return ["--tls-cert", certificate, "--tls-key", key];
}

/** Runs on the page: two sockets in one channel, each says a text and bytes, and both hear all of it. */
async function converse({ url, text, bytes }) {
  const heard = [];
  const sockets = [new WebSocket(url), new WebSocket(url)];
  await Promise.all(sockets.map((socket) => new Promise((open, fail) => Object.assign(socket, { onopen: open, onerror: fail }))));
  const all = sockets.map((socket, place) => {
    socket.binaryType = "arraybuffer";
    return new Promise((done) => {
      socket.onmessage = ({ data }) => {
        heard.push([place, typeof data === "string" ? data : [...new Uint8Array(data)]]);
        if (heard.filter(([other]) => other === place).length === 4) done();
      };
    });
  });
  for (const socket of sockets) {
    socket.send(text);
    socket.send(new Uint8Array(bytes));
  }
  await Promise.all(all);
  const extensions = sockets.map((socket) => socket.extensions);
  const closed = sockets.map((socket) => new Promise((done) => (socket.onclose = ({ code, wasClean }) => done([code, wasClean]))));
  sockets.forEach((socket) => socket.close(1000));
  return { heard, extensions, closed: await Promise.all(closed) };
}

const DEFLATE = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
const COMPRESSING = ["--compression", "--compression-threshold", "1"];

for (const { name, flags, extension } of [
  { name: "plain", flags: () => [], extension: "" },
  { name: "compressed", flags: () => COMPRESSING, extension: DEFLATE },
  {
    name: "compressed with context takeover",
    flags: () => [...COMPRESSING, "--compression-context", "both"],
    extension: "permessage-deflate",
  },
  { name: "over TLS", flags: tls, extension: "" },
  { name: "compressed and over TLS", flags: () => [...tls(), ...COMPRESSING], extension: DEFLATE },
]) {
  test(`Chromium converses ${name}`, async () => {
    const instance = await alone(flags());
    try {
      const context = await chromium.newContext({ ignoreHTTPSErrors: true });
      const page = await context.newPage();
      const devtools = await context.newCDPSession(page);
      const answers = [];
      devtools.on("Network.webSocketHandshakeResponseReceived", ({ response }) => answers.push(response));
      await devtools.send("Network.enable");
      // Not the page, which has a WebSocket of its own.
      await page.goto(`${instance.page}instance`);
      const text = "the same words over and over, žluťoučký kůň; ".repeat(40);
      const bytes = [...Buffer.from("00ff10fa".repeat(300), "hex")];
      const { heard, extensions, closed } = await page.evaluate(converse, { url: instance.url("sockets"), text, bytes });
      const whole = [text, text, bytes, bytes].map((said) => JSON.stringify(said)).sort();
      for (const place of [0, 1]) {
        const its = heard.filter(([other]) => other === place).map(([, said]) => JSON.stringify(said));
        assert.deepEqual(its.sort(), whole);
      }
      assert.deepEqual(extensions, [extension, extension]);
      assert.deepEqual(closed, [
        [1000, true],
        [1000, true],
      ]);
      assert.equal(answers.length, 2);
      for (const { status, headers } of answers) {
        const named = Object.entries(headers).find(([key]) => key.toLowerCase() === "sec-websocket-extensions");
        assert.deepEqual([status, named?.[1] ?? ""], [101, extension]);
      }
      await context.close();
    } finally {
      await instance.stop("SIGKILL");
    }
  });
}
