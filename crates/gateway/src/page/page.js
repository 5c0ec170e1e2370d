// The page that every instance serves: one channel, who said what and how long it took, and what the
// instances count. It keeps no history: what is shown is what this tab heard.

const MESSAGES_KEPT = 500;
const COUNTS_EVERY = 2_000;
const INSTANCE_FORGOTTEN = 30_000;
const SAMPLES_KEPT = 60;
const CHANNEL_BYTES = 255;
const RETRY = { first: 500, longest: 15_000 };

const by = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");
const clock = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

/** An element with a class and text; everything on this page that came over a network goes through here. */
function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// ---- Who is here ----------------------------------------------------------------------------------------

/** What `storage` holds under `key`, or `fresh`, which it then holds. A browser may forbid storage. */
function remembered(storage, key, fresh) {
  try {
    const value = window[storage].getItem(key) ?? fresh;
    window[storage].setItem(key, value);
    return value;
  } catch {
    return fresh;
  }
}

function remember(storage, key, value) {
  try {
    window[storage].setItem(key, value);
  } catch {
    // Then it is forgotten with the tab.
  }
}

const randomId = () => Array.from(crypto.getRandomValues(new Uint8Array(8)), hex).join("");
const INSTRUMENTS = ["Bassoon", "Bugle", "Cello", "Cornet", "Flute", "Harp", "Horn", "Lute", "Oboe", "Piccolo", "Viola"];
const someName = () => INSTRUMENTS[Math.floor(Math.random() * INSTRUMENTS.length)] + " " + Math.floor(10 + Math.random() * 90);

// Tabs of one browser share a clock, so a time on the way between them means something.
const browser = remembered("localStorage", "fanfare.browser", randomId());
const tab = randomId();

// ---- The connection -------------------------------------------------------------------------------------

let channel = "lobby";
let socket;
let attempts = 0;
let retry;
let sent = 0;
/** What this tab has sent and not heard yet: id → when. */
const unheard = new Map();

function socketAddress() {
  const address = new URL(`ws/${encodeURIComponent(channel)}`, document.baseURI);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  return address;
}

function connect() {
  clearTimeout(retry);
  leave();
  show("connecting", attempts === 0 ? "Connecting" : "Reconnecting");
  const address = socketAddress();
  address.searchParams.set("notices", "true");
  const mine = new WebSocket(address);
  socket = mine;
  mine.binaryType = "arraybuffer";
  mine.onopen = () => {
    attempts = 0;
    show("open", "Connected");
    notice(`Joined ${channel}`);
    look();
  };
  mine.onmessage = (event) => heard(event.data);
  mine.onclose = (event) => {
    if (socket === mine) ended(event);
  };
}

/** Ends the connection on this side, if there is one, without coming back. */
function leave() {
  const old = socket;
  socket = undefined;
  if (!old) return;
  old.onmessage = null;
  old.close(1000);
  unheard.clear();
}

function ended({ code, reason }) {
  socket = undefined;
  // 1006 is the browser's word for an end without a close frame.
  const why = code === 1006 ? "no answer" : [code, reason].filter(Boolean).join(" ");
  if (unheard.size > 0) notice(`${unheard.size} of your messages were not heard before the connection ended`);
  unheard.clear();
  if (attempts === 0) notice(`Connection closed: ${why}`);
  // An instance that restarts asks to be left at once: others are there. The spread keeps its clients apart.
  const bound = code === 1012 && attempts === 0 ? RETRY.first : Math.min(RETRY.longest, RETRY.first * 2 ** attempts);
  const wait = bound * (0.5 + Math.random() / 2);
  attempts += 1;
  show("closed", `Closed: ${why}. Reconnecting in ${Math.ceil(wait / 1000)} s`);
  retry = setTimeout(connect, wait);
}

function show(state, text) {
  by("state").dataset.state = state;
  by("state-text").textContent = text;
  by("reconnect").hidden = state !== "closed";
}

/** Why no browser could join a channel of this name, or "". */
function objection(name) {
  const bytes = new TextEncoder().encode(name).length;
  if (bytes > CHANNEL_BYTES) return `A channel name has at most ${CHANNEL_BYTES} bytes; this one has ${bytes}.`;
  if (name === "." || name === "..") return "A browser takes this name for a folder; choose another.";
  return "";
}

function join(name) {
  channel = name;
  attempts = 0;
  by("channel").value = channel;
  by("log").replaceChildren();
  by("empty").hidden = false;
  by("address").textContent = socketAddress();
  entitle();
  connect();
}

function channelOfHash() {
  try {
    const name = decodeURIComponent(location.hash.slice(1));
    return name !== "" && objection(name) === "" ? name : "lobby";
  } catch {
    return "lobby";
  }
}

// ---- What was said --------------------------------------------------------------------------------------

/** Turns what the channel said into a line. Frames of other programs are shown as they are. */
function heard(data) {
  const now = performance.now();
  const today = Date.now();
  if (data instanceof ArrayBuffer) return line({ raw: true, who: "someone", said: describe(data), today });
  const said = parse(data);
  if (said?.fanfare === "gap") return line({ gap: true, said: "Messages may have been missed here", today });
  if (typeof said?.from !== "string" || typeof said?.text !== "string") {
    return line({ raw: true, who: "someone", said: data, today });
  }
  const at = unheard.get(said.id);
  unheard.delete(said.id);
  line({ own: at !== undefined, who: said.from, said: said.text, took: took(said, at, now, today), today });
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** How long a message was on its way, and how that is known: [text, explanation]. */
function took(said, at, now, today) {
  if (at !== undefined) return [`${(now - at).toFixed(1)} ms there and back`, "From sending it to hearing it, by this tab's own clock"];
  if (!Number.isFinite(said.at)) return undefined;
  const way = Math.round(today - said.at);
  if (typeof said.id === "string" && said.id.startsWith(`${browser}-`)) {
    return [`${Math.max(way, 0)} ms one way`, "Sent by another tab of this browser, so by one clock, to a millisecond"];
  }
  if (way < 0 || way > 60_000) return ["clocks differ", `Its sender's clock and this one differ, by about ${way} ms`];
  return [`about ${way} ms one way`, "By two clocks, so only as true as they agree"];
}

function describe(buffer) {
  const start = Array.from(new Uint8Array(buffer, 0, Math.min(buffer.byteLength, 16)), hex).join(" ");
  const size = `${number.format(buffer.byteLength)} ${buffer.byteLength === 1 ? "byte" : "bytes"}`;
  return buffer.byteLength === 0 ? size : `${size}: ${start}${buffer.byteLength > 16 ? " …" : ""}`;
}

function hex(byte) {
  return byte.toString(16).padStart(2, "0");
}

function notice(said) {
  line({ notice: true, said, today: Date.now() });
}

// A busy channel says more in a frame of the screen than anybody can read: lines wait for the next frame,
// and only the last ones are ever made.
let waiting = [];
let unseen = 0;

function line(entry) {
  if (waiting.length === 0) requestAnimationFrame(draw);
  waiting.push(entry);
  if (waiting.length > 2 * MESSAGES_KEPT) waiting = waiting.slice(-MESSAGES_KEPT);
  if (document.hidden && !entry.notice) {
    unseen += 1;
    entitle();
  }
}

function draw() {
  const log = by("log");
  const following = atEnd();
  log.append(...waiting.slice(-MESSAGES_KEPT).map(row));
  waiting = [];
  while (log.childElementCount > MESSAGES_KEPT) log.firstElementChild.remove();
  by("empty").hidden = log.querySelector("li:not(.notice)") !== null;
  if (following) toEnd();
  else by("newest").hidden = false;
}

function row(entry) {
  const kinds = ["own", "raw"].filter((kind) => entry[kind]);
  if (entry.notice || entry.gap) kinds.push("notice");
  if (entry.gap) kinds.push("gap");
  const made = element("li", kinds.join(" "));
  const time = element("time", "", clock.format(entry.today));
  time.dateTime = new Date(entry.today).toISOString();
  const body = element("div", "body");
  if (entry.who !== undefined) {
    const who = element("span", "who", entry.who || "nameless");
    if (!entry.raw) who.dataset.hue = hue(entry.who);
    body.append(who, " ");
  }
  body.append(element("span", "said", entry.said));
  made.append(time, body);
  if (entry.took) {
    const way = element("span", "took", entry.took[0]);
    way.title = entry.took[1];
    made.append(way);
  }
  return made;
}

/** One of the eight hues of the style sheet, the same for a name wherever it is seen. */
function hue(name) {
  let sum = 0;
  for (const letter of name) sum = (sum * 31 + letter.codePointAt(0)) >>> 0;
  return sum % 8;
}

const atEnd = () => by("log").scrollHeight - by("log").scrollTop - by("log").clientHeight < 48;

function toEnd() {
  by("log").scrollTop = by("log").scrollHeight;
  by("newest").hidden = true;
}

function entitle() {
  document.title = `${unseen > 0 ? `(${number.format(unseen)}) ` : ""}${channel} · Fanfare`;
}

function send(text) {
  if (socket?.readyState !== WebSocket.OPEN) return false;
  sent += 1;
  const id = `${browser}-${tab}-${sent}`;
  unheard.set(id, performance.now());
  socket.send(JSON.stringify({ from: by("name").value.trim(), text, at: Date.now(), id }));
  return true;
}

// ---- What the instances count ---------------------------------------------------------------------------

const COUNTS = { connections: "Connections", channels: "Channels", publications: "Publications", deliveries: "Deliveries" };
/** Instance id → what its card shows. */
const instances = new Map();
let looking = false;

async function look() {
  if (document.hidden || looking) return;
  looking = true;
  try {
    const answer = await fetch("instance", { cache: "no-store", signal: AbortSignal.timeout(COUNTS_EVERY) });
    if (answer.ok) counted(await answer.json());
  } catch {
    // The instance is away: its card says so by growing pale.
  } finally {
    looking = false;
  }
  for (const [id, seen] of instances) {
    const silent = performance.now() - seen.at;
    seen.card.classList.toggle("late", silent > 4 * COUNTS_EVERY);
    if (silent > INSTANCE_FORGOTTEN && instances.size > 1) {
      seen.card.remove();
      instances.delete(id);
    }
  }
  by("instances-note").hidden = instances.size < 2;
}

function counted(now) {
  const seen = instances.get(now.instance) ?? newCard(now);
  const seconds = (performance.now() - seen.at) / 1000;
  if (seen.counts && seconds > 0.5) {
    seen.samples.push(Math.max(0, now.deliveries - seen.counts.deliveries) / seconds);
    seen.samples = seen.samples.slice(-SAMPLES_KEPT);
  }
  seen.at = performance.now();
  seen.counts = now;
  for (const name of Object.keys(COUNTS)) seen.values[name].textContent = number.format(now[name]);
  const broker = now.broker === "redis" ? `over Redis${now.broker_up ? "" : ", which is away"}` : `from ${now.broker}`;
  seen.health.textContent = `${now.ready ? "Ready" : "Not ready"}, ${broker}`;
  seen.health.dataset.ready = now.ready;
  pace(seen);
}

function newCard(now) {
  const card = element("li", "instance");
  const title = element("h3", "", now.instance.slice(0, 8));
  title.title = now.instance;
  title.append(element("small", "", now.version));
  const health = element("p", "health");
  const list = element("dl");
  const values = {};
  for (const [name, label] of Object.entries(COUNTS)) {
    const pair = element("div");
    values[name] = element("dd");
    pair.append(element("dt", "", label), values[name]);
    list.append(pair);
  }
  const drawing = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  drawing.setAttribute("viewBox", "0 0 100 100");
  drawing.setAttribute("preserveAspectRatio", "none");
  drawing.setAttribute("aria-hidden", "true");
  const curve = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  drawing.append(curve);
  const rate = element("p", "pace");
  card.append(title, health, list, drawing, rate);
  by("instances").append(card);
  const seen = { card, health, values, curve, rate, samples: [], at: performance.now() };
  instances.set(now.instance, seen);
  return seen;
}

function pace({ samples, curve, rate }) {
  const highest = Math.max(...samples, 1);
  const across = (at) => (100 * (SAMPLES_KEPT - samples.length + at)) / (SAMPLES_KEPT - 1);
  curve.setAttribute("points", samples.map((sample, at) => `${across(at)},${100 - (96 * sample) / highest}`).join(" "));
  rate.textContent = `${number.format(Math.round(samples.at(-1) ?? 0))} deliveries/s`;
}

// ---- Wiring ---------------------------------------------------------------------------------------------

by("join").addEventListener("submit", (event) => {
  event.preventDefault();
  const hash = `#${encodeURIComponent(by("channel").value)}`;
  // A new hash joins by the event below, so that back and forward do, too.
  if (location.hash === hash) join(channelOfHash());
  else location.hash = hash;
  by("text").focus();
});
by("channel").addEventListener("input", () => by("channel").setCustomValidity(objection(by("channel").value)));
by("name").addEventListener("input", () => {
  const name = by("name").value.trim();
  if (name !== "") remember("sessionStorage", "fanfare.name", name);
});
by("compose").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = by("text").value;
  if (text === "" || !send(text)) return;
  by("text").value = "";
  toEnd();
});
by("reconnect").addEventListener("click", connect);
by("newest").addEventListener("click", () => {
  toEnd();
  by("text").focus();
});
by("log").addEventListener("scroll", () => {
  if (atEnd()) by("newest").hidden = true;
});
addEventListener("hashchange", () => join(channelOfHash()));
addEventListener("online", () => socket || connect());
document.addEventListener("visibilitychange", () => {
  unseen = 0;
  entitle();
  look();
});

by("name").value = remembered("sessionStorage", "fanfare.name", someName());
join(channelOfHash());
setInterval(look, COUNTS_EVERY);
if (matchMedia("(pointer: fine)").matches) by("text").focus();
