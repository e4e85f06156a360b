// The live page: asks the router once a second what is new, and hands it to the parts of the page.

import { drawScale, palette, span } from "./charts.js";
import { clock, duration, say } from "./format.js";
import { Heatmap } from "./heatmap.js";
import { Balance, Changes, Nodes, Requests, Tiles } from "./panels.js";

const EVERY_MS = 1000;
const PATIENCE_MS = 5000;
const SAMPLES = 300;
const KEY = "guildhall-admin-key";

const $ = (id) => document.getElementById(id);
const dark = matchMedia("(prefers-color-scheme: dark)");

// What the page remembers between two answers.
const memory = { key: null, samples: [], since: 0, holders: null, started: null, expert: null, answered: null, polls: 0 };
let timer = null;
let colours = palette(dark.matches);

const heatmap = new Heatmap($("heat"), $("tip"), $("said"), (expert) => {
  const isNew = expert !== null && String(expert) !== String(memory.expert);
  memory.expert = expert;
  if (isNew) soon(120);
});
const nodes = new Nodes($("nodes"), $("nodes-note"), (node) => heatmap.only(node));
const parts = [new Tiles($("tiles")), new Balance($("strip"), $("balance-note")), new Requests($("charts"), $("latencies"), $("ended")), nodes, new Changes($("changes"), $("changes-note"))];

// A key that was typed into the address may have a bare percent sign.
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

// The key of the address, which then forgets it, or the one of this tab.
function findKey() {
  const [name, text] = location.hash.split(/=(.*)/s);
  if (name === "#key" && text) {
    const given = decoded(text);
    history.replaceState(null, "", location.pathname + location.search);
    sessionStorage.setItem(KEY, given);
  }
  return sessionStorage.getItem(KEY);
}

function ask(why) {
  memory.key = null;
  sessionStorage.removeItem(KEY);
  clearTimeout(timer);
  $("live").hidden = true;
  $("banner").hidden = true;
  $("ask").hidden = false;
  say($("why"), why);
  document.body.dataset.state = "locked";
  $("key").value = "";
  $("key").focus();
}

function unlock(key) {
  memory.key = key;
  $("ask").hidden = true;
  poll();
}

function soon(wait) {
  clearTimeout(timer);
  if (memory.key !== null) timer = setTimeout(poll, wait);
}

function address() {
  const query = new URLSearchParams({ since: memory.since, window: document.querySelector("#window input:checked").value });
  if (memory.holders) query.set("holders", memory.holders.version);
  if (memory.expert) {
    query.set("layer", memory.expert[0]);
    query.set("expert", memory.expert[1]);
  }
  return `live.json?${query}`;
}

async function poll() {
  clearTimeout(timer);
  const [begun, number] = [performance.now(), (memory.polls += 1)];
  try {
    const headers = { authorization: `Bearer ${memory.key}` };
    const answer = await fetch(address(), { headers, cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    // Another question was asked meanwhile.
    if (number !== memory.polls || memory.key === null) return;
    if (answer.status === 401) return ask("This key is not accepted.");
    if (!answer.ok) throw new Error(`the router answered ${answer.status}`);
    take(await answer.json());
  } catch (error) {
    if (number === memory.polls) complain(error);
  }
  if (!document.hidden && number === memory.polls) soon(Math.max(200, EVERY_MS - (performance.now() - begun)));
}

// Takes an answer in. That of a router which was started anew says nothing about the past of the old one.
function take(live) {
  if (memory.started !== null && memory.started !== live.router.started_unix_ms) {
    Object.assign(memory, { samples: [], since: 0, holders: null, started: null });
    return;
  }
  memory.started = live.router.started_unix_ms;
  memory.samples = memory.samples.concat(live.samples).slice(-SAMPLES);
  memory.since = live.next;
  if (live.experts?.holders) memory.holders = live.experts.holders;
  memory.answered = live.router.unix_ms;
  memory.live = live;
  $("live").hidden = false;
  $("banner").hidden = true;
  document.body.dataset.state = "live";
  show();
}

function show() {
  const { live, samples, holders } = memory;
  header(live);
  for (const part of parts) part.show(live, samples, colours);
  const ago = `${duration(span(samples, live.router.unix_ms) / 1000)} ago`;
  for (const label of document.querySelectorAll(".ago")) say(label, ago);
  if (live.experts) {
    heatmap.show(live.experts, holders, colours);
    const seconds = Math.round(live.experts.seconds);
    say($("experts-note"), `${live.experts.layers.length} layers × ${live.experts.n_experts} experts · load of the last ${duration(seconds)}, as this router sent it`);
  } else {
    say($("experts-note"), "The model is being loaded.");
  }
}

function header({ router, engine, experts }) {
  $("model").hidden = !engine;
  if (engine) say($("model"), `${engine.model} · ${engine.family}`);
  $("health").hidden = false;
  const isWell = router.takes_traffic && router.missing_experts === 0;
  $("health").dataset.state = isWell ? "serving" : router.takes_traffic ? "slow" : "dead";
  const lacking = `${router.missing_experts} experts are nowhere`;
  say($("health"), isWell ? "Serving" : router.takes_traffic ? lacking : router.reason || "not ready");
  const facts = [`up ${duration(router.uptime_seconds)}`];
  if (router.name) {
    facts.push(`placement ${router.epoch}`, router.leader === router.name ? "leads" : router.leader ? `led by ${router.leader}` : "no leader");
    if (router.routers > 1) facts.push(`${router.routers} routers`);
    if (!router.connected) facts.push("store out of reach");
  } else if (experts) {
    facts.push("computes the experts itself");
  }
  say($("facts"), facts.join(" · "));
  say($("beat").querySelector("span"), "Live");
  document.title = `${isWell ? "" : "⚠ "}Guildhall${engine ? ` · ${engine.model}` : ""}`;
}

function complain(error) {
  const since = memory.answered === null ? "" : ` What you see is of ${clock(memory.answered)}.`;
  const what = error instanceof TypeError || error.name === "TimeoutError" ? "The router does not answer." : `${error.message}.`;
  say($("banner"), `${what}${since} Trying again every second.`);
  $("banner").hidden = false;
  document.body.dataset.state = "lost";
  say($("beat").querySelector("span"), "Not connected");
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = $("key").value.trim();
  sessionStorage.setItem(KEY, key);
  unlock(key);
});
$("window").addEventListener("change", () => soon(0));
document.addEventListener("visibilitychange", () => document.hidden || soon(0));
window.addEventListener("hashchange", () => {
  const key = findKey();
  if (key !== memory.key && key) unlock(key);
});
dark.addEventListener("change", () => {
  colours = palette(dark.matches);
  paint();
  if (memory.live) show();
});

function paint() {
  drawScale($("scale"), colours);
  drawScale($("even-scale"), colours);
}

paint();
const key = findKey();
if (key) unlock(key);
else ask("");
