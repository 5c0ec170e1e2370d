// The page in headless Chromium, two tabs on two instances over a real Redis.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { cluster } from "../clients/cluster.mjs";
import { browser, open } from "./chromium.mjs";

let chromium;
let here;

before(async () => {
  chromium = await browser();
  here = await cluster(2, ["--drain-delay", "0s", "--drain-window", "0s"]);
});
after(async () => {
  await chromium?.close();
  await here?.stop();
});

/** A tab of a browser of its own, unless it is given one, connected to `channel`. */
async function join(instance, channel, options = {}) {
  const context = options.context ?? (await chromium.newContext({ viewport: { width: 1100, height: 700 }, ...options }));
  const tab = await open(context, `${instance.page}#${encodeURIComponent(channel)}`);
  await state(tab.page, "open");
  return { ...tab, context };
}

const state = (page, name) => page.locator(`#state[data-state="${name}"]`).waitFor();
const said = (page, text) => page.locator("#log li", { hasText: text });

async function say(page, text) {
  await page.locator("#text").fill(text);
  await page.locator("#text").press("Enter");
}

async function leave(...tabs) {
  for (const { page, wrong } of tabs) {
    assert.deepEqual(wrong, []);
    await page.close();
  }
}

test("two tabs on two instances hear each other, and how long it took", async () => {
  const [one, other] = [await join(here.instances[0], "tabs"), await join(here.instances[1], "tabs")];
  await one.page.locator("#name").fill("Cornet");
  await other.page.locator("#name").fill("Viola");
  await say(one.page, "Is anybody there?");
  await said(other.page, "Is anybody there?").waitFor();
  await say(other.page, "Here.");
  for (const { page } of [one, other]) {
    await said(page, "Here.").waitFor();
    assert.deepEqual(await page.locator("#log .who").allTextContents(), ["Cornet", "Viola"]);
    assert.deepEqual(await page.locator("#log .said").allTextContents().then((all) => all.slice(-2)), [
      "Is anybody there?",
      "Here.",
    ]);
  }
  const took = (page, text) => said(page, text).locator(".took").textContent();
  assert.match(await took(one.page, "Is anybody there?"), /^\d+\.\d ms there and back$/);
  // Two origins are two clocks for all that a page can know.
  assert.match(await took(one.page, "Here."), /^about \d+ ms one way$|^clocks differ$/);
  await leave(one, other);
});

test("a tab of the same browser is timed by one clock", async () => {
  const one = await join(here.instances[0], "clock");
  const other = await join(here.instances[0], "clock", { context: one.context });
  await say(one.page, "tick");
  assert.match(await said(other.page, "tick").locator(".took").textContent(), /^\d+ ms one way$/);
  await leave(one, other);
});

test("what other programs say is shown as it is, and nothing is HTML", async () => {
  const tab = await join(here.instances[0], "raw");
  const wild = '<img src="x" onerror="alert(1)"> &amp; <b>bold</b>';
  await here.redis.cli("PUBLISH", "fanfare:channel:raw", "hello from redis-cli");
  await here.redis.cli("PUBLISH", "fanfare:channel:raw", wild);
  await here.redis.cli("PUBLISH", "fanfare:channel:raw", JSON.stringify({ from: "<i>me</i>", text: wild, at: Date.now() }));
  await here.redis.cli("EVAL", String.raw`return redis.call("PUBLISH", "fanfare:channel:raw", "\255\1\2")`, "0");
  await said(tab.page, "3 bytes").waitFor();
  const lines = await tab.page.locator("#log li:not(.notice)").evaluateAll((all) =>
    all.map((line) => [line.querySelector(".who").textContent, line.querySelector(".said").textContent]),
  );
  assert.deepEqual(lines, [
    ["someone", "hello from redis-cli"],
    ["someone", wild],
    ["<i>me</i>", wild],
    ["someone", "3 bytes: ff 01 02"],
  ]);
  assert.equal(await tab.page.locator("#log img, #log b, #log i").count(), 0);
  await leave(tab);
});

test("it can be used with the keyboard alone", async () => {
  const tab = await join(here.instances[0], "keys");
  const { page } = tab;
  const go = async (key) => {
    await page.keyboard.press(key);
    const [name, outline] = await page.evaluate(() => {
      const at = document.activeElement;
      return [at.id || at.textContent.trim(), getComputedStyle(at).outlineStyle];
    });
    assert.notEqual(outline, "none", `focus cannot be seen on ${name}`);
    return name;
  };
  const walk = async (key, steps) => {
    const visited = [];
    while (visited.length < steps) visited.push(await go(key));
    return visited;
  };
  // It begins where one writes, and goes in the order in which it is read.
  assert.equal(await page.evaluate(() => document.activeElement.id), "text");
  assert.deepEqual(await walk("Tab", 1), ["Send"]);
  assert.deepEqual(await walk("Shift+Tab", 5), ["text", "log", "Join", "name", "channel"]);
  // Another channel, a name and a message, without a pointer.
  await page.keyboard.press("Control+A");
  await page.keyboard.type("café ☕");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Control+A");
  await page.keyboard.type("Keys");
  await page.keyboard.press("Enter");
  await said(page, "Joined café ☕").waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.id), "text");
  await state(page, "open");
  await page.keyboard.type("typed");
  await page.keyboard.press("Enter");
  await said(page, "typed").waitFor();
  assert.equal(await said(page, "typed").locator(".who").textContent(), "Keys");
  assert.equal(new URL(page.url()).hash, "#caf%C3%A9%20%E2%98%95");
  // Each field has a name that is said, and what arrives is said.
  for (const label of ["Channel", "Your name", "Message"]) assert.equal(await page.getByLabel(label, { exact: true }).count(), 1);
  assert.equal(await page.getByRole("log").getAttribute("aria-live"), "polite");
  await leave(tab);
});

test("it fits a phone, in light and dark", async () => {
  for (const colorScheme of ["light", "dark"]) {
    const tab = await join(here.instances[0], "phone", {
      viewport: { width: 360, height: 640 },
      isMobile: true,
      hasTouch: true,
      colorScheme,
    });
    await say(tab.page, `${"long".repeat(200)} and some words more`);
    await said(tab.page, "longlong").waitFor();
    const wide = await tab.page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.equal(wide, 0, `it scrolls sideways by ${wide}`);
    for (const id of ["#channel", "#name", "#text", "#log"]) {
      const box = await tab.page.locator(id).boundingBox();
      assert.ok(box.x >= 0 && box.x + box.width <= 360 && box.y + box.height <= 640, `${id} at ${JSON.stringify(box)}`);
    }
    const small = await tab.page.locator("button:visible, input").evaluateAll((all) =>
      all.filter((each) => each.getBoundingClientRect().height < 40).map((each) => each.id || each.textContent),
    );
    assert.deepEqual(small, [], "too small for a finger");
    const faint = await tab.page.evaluate(contrasts);
    assert.deepEqual(faint, [], `too faint in ${colorScheme}`);
    await leave(tab);
  }
});

/** In the page: texts whose contrast with what is behind them is under 4.5 to 1 (WCAG 2.2, 1.4.3). */
function contrasts() {
  const channels = (color) => color.match(/[\d.]+/g).map(Number);
  const luminance = ([red, green, blue]) => {
    const linear = [red, green, blue].map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(channels(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, [red, green, blue, alpha = 1]) =>
      [red, green, blue].map((part, index) => part * alpha + below[index] * (1 - alpha)), [255, 255, 255]);
  };
  return [...document.querySelectorAll("h1, p, label, input, button, li span, time, dt, dd, h3, small")]
    .filter((element) => element.checkVisibility() && element.textContent.trim() !== "")
    .map((element) => {
      const [text, paper] = [luminance(channels(getComputedStyle(element).color)), luminance(behind(element))];
      const ratio = (Math.max(text, paper) + 0.05) / (Math.min(text, paper) + 0.05);
      return [element.className || element.tagName, Number(ratio.toFixed(2))];
    })
    .filter(([, ratio]) => ratio < 4.5);
}

test("the counts are the instance's, and go on", async () => {
  const tab = await join(here.instances[1], "counts");
  const count = async (label) =>
    Number((await tab.page.locator(".instance div", { hasText: label }).locator("dd").textContent()).replaceAll(",", ""));
  await tab.page.locator(".instance").waitFor();
  const before = await count("Deliveries");
  for (let number = 0; number < 10; number += 1) await say(tab.page, `count ${number}`);
  await said(tab.page, "count 9").waitFor();
  await tab.page.waitForFunction((least) => {
    const shown = [...document.querySelectorAll(".instance div")].find((pair) => pair.textContent.startsWith("Deliveries"));
    return Number(shown.querySelector("dd").textContent.replaceAll(",", "")) >= least;
  }, before + 10);
  const about = await (await fetch(new URL("instance", here.instances[1].page))).json();
  assert.equal(await tab.page.locator(".instance h3").getAttribute("title"), about.instance);
  assert.match(await tab.page.locator(".instance .health").textContent(), /^Ready, over Redis$/);
  await leave(tab);
});

test("it comes back by itself when its instance restarts", async () => {
  const tab = await join(here.instances[0], "restart");
  await say(tab.page, "before");
  await said(tab.page, "before").waitFor();
  await here.instances[0].stop("SIGTERM");
  await state(tab.page, "closed");
  await said(tab.page, "Connection closed: 1012 service restart").waitFor();
  assert.equal(await tab.page.getByRole("button", { name: "Connect now" }).isVisible(), true);
  // What is typed meanwhile is kept, and not lost by Enter.
  await say(tab.page, "after");
  assert.equal(await tab.page.locator("#text").inputValue(), "after");
  await here.instances[0].begin();
  await state(tab.page, "open");
  await tab.page.locator("#text").press("Enter");
  await said(tab.page, "after").locator(".took").waitFor();
  // The browser itself says on the console that it could not connect while nobody was there.
  const unexpected = tab.wrong.filter((text) => !/ERR_CONNECTION_(REFUSED|RESET)/.test(text));
  assert.deepEqual(unexpected, []);
  await tab.page.close();
});

test("what may have been missed is said", async () => {
  const tab = await join(here.instances[1], "gaps");
  await here.redis.stop("SIGKILL");
  await here.redis.begin();
  await tab.page.locator("#log li.gap").first().waitFor();
  assert.equal(await tab.page.locator("#log li.gap .said").first().textContent(), "Messages may have been missed here");
  await leave(tab);
});

test("a flood leaves the last 500 lines, and the newest in sight", async () => {
  const tab = await join(here.instances[0], "flood");
  const flood = 'for number = 1, 3000 do redis.call("PUBLISH", "fanfare:channel:flood", "line " .. number) end';
  await here.redis.cli("EVAL", flood, "0");
  await said(tab.page, "line 3000").waitFor();
  assert.equal(await tab.page.locator("#log li").count(), 500);
  assert.equal(await said(tab.page, "line 3000").isVisible(), true);
  await leave(tab);
});

test("the policy keeps everything else out", async () => {
  const tab = await join(here.instances[0], "policy");
  const elsewhere = here.instances[1].page;
  const refused = await tab.page.evaluate(async (address) => {
    const violations = [];
    addEventListener("securitypolicyviolation", (event) => violations.push(event.effectiveDirective));
    const fails = async (attempt) => {
      try {
        await attempt();
        return false;
      } catch {
        return true;
      }
    };
    const script = document.createElement("script");
    const inline = await fails(() => {
      script.textContent = "document.title = 'taken over'";
      document.head.append(script);
    });
    const fetched = await fails(() => fetch(address));
    const html = await fails(() => (document.body.innerHTML += "<p>"));
    document.body.setAttribute("style", "display: none");
    // They are reported in their own time.
    const due = ["connect-src", "style-src-attr"];
    for (let frame = 0; frame < 600 && !due.every((one) => violations.includes(one)); frame += 1) {
      await new Promise((done) => requestAnimationFrame(done));
    }
    return { violations: [...new Set(violations)].sort(), fetched, html, inline, title: document.title };
  }, elsewhere);
  assert.ok(refused.fetched && refused.html && refused.inline, JSON.stringify(refused));
  assert.notEqual(refused.title, "taken over");
  assert.ok(refused.violations.includes("connect-src") && refused.violations.includes("style-src-attr"), `${refused.violations}`);
  await tab.page.close();
});
