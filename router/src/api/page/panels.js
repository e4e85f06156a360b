// The parts of the page around the heatmap. Each takes in an answer of the router and the samples so far.

import { Lines, sharp, span } from "./charts.js";
import { bytes, clock, duration, element, mean, number, plural, say, seconds } from "./format.js";

const WORDS = {
  serving: "Serving", loading: "Loading", slow: "Slow", quarantined: "Quarantined", leaving: "Leaving",
  drained: "Drained", refused: "Refused", unreachable: "Unreachable", dead: "Dead", left: "Left",
};
const ENDS = {
  stop: "by the model or a stop text", length: "at the length asked for", abort: "the client left", deadline: "the deadline passed", error: "failed",
};
const GONE = ["dead", "left"];

const points = (samples, value) => samples.map((sample) => [sample.unix_ms, value(sample)]);
const evenness = (sample) => mean(sample.balancedness);

export class Tiles {
  constructor(host) {
    this.tiles = {};
    for (const [name, title, lines] of [
      ["tokens", "Tokens per second", ["heat"]],
      ["requests", "Requests running", ["heat", "second"]],
      ["first", "First token, p95", ["heat"]],
      ["between", "Between tokens, p95", ["heat"]],
      ["balance", "Balancedness", ["heat"]],
      ["cache", "KV cache", []],
    ]) {
      const tile = element("div", "tile");
      const parts = { value: element("b"), unit: element("span", "unit"), note: element("p", "note") };
      const line = element("p", "value");
      line.append(parts.value, " ", parts.unit);
      tile.append(element("h2", "", title), line, parts.note);
      tile.dataset.tile = name;
      if (lines.length > 0) {
        parts.lines = new Lines(lines, { width: 200, height: 40, top: name === "balance" ? 1 : null });
        tile.append(parts.lines.svg);
      } else {
        parts.meter = element("i", "fill");
        const meter = element("div", "meter");
        meter.append(parts.meter);
        tile.append(meter);
      }
      host.append(tile);
      this.tiles[name] = parts;
    }
  }

  #set(name, value, unit, note) {
    const { value: number, unit: of, note: below } = this.tiles[name];
    say(number, value);
    say(of, unit);
    say(below, note);
  }

  show(live, samples) {
    const axis = [live.router.unix_ms, span(samples, live.router.unix_ms)];
    const last = samples.slice(-3);
    const rate = (value) => mean(last.map(value));
    const engine = live.engine;
    this.#set("tokens", number(Math.round(rate((of) => of.generated_per_second) ?? 0)), "", `${number(Math.round(rate((of) => of.prompt_per_second) ?? 0))}/s of prompts`);
    this.#set("requests", number(engine?.running ?? 0), "", `${number(engine?.waiting ?? 0)} waiting`);
    const { first_token: first, between_tokens: between } = live.latencies;
    this.#set("first", ...seconds(first?.p95), first ? `half within ${seconds(first.p50).join(" ")}` : "no request in the last minute");
    this.#set("between", ...seconds(between?.p95), between ? `half within ${seconds(between.p50).join(" ")}` : "no request in the last minute");
    this.#showBalance(live, samples);
    const used = engine && engine.kv_blocks > 0 ? engine.kv_blocks_used / engine.kv_blocks : 0;
    const found = engine && engine.prefix_queried_tokens > 0 ? engine.prefix_hit_tokens / engine.prefix_queried_tokens : null;
    this.#set("cache", (100 * used).toFixed(used < 0.1 ? 1 : 0), "%", found === null ? "no prefix looked up yet" : `${(100 * found).toFixed(0)} % of prompts found`);
    this.tiles.cache.meter.style.width = `${100 * used}%`;
    this.tiles.tokens.lines.draw([points(samples, (of) => of.generated_per_second)], ...axis);
    this.tiles.requests.lines.draw([points(samples, (of) => of.running), points(samples, (of) => of.waiting)], ...axis);
    this.tiles.first.lines.draw([points(samples, (of) => of.first_token_p95)], ...axis);
    this.tiles.between.lines.draw([points(samples, (of) => of.between_tokens_p95)], ...axis);
    this.tiles.balance.lines.draw([points(samples, evenness)], ...axis);
  }

  #showBalance(live, samples) {
    const now = samples.length > 0 ? evenness(samples.at(-1)) : null;
    const least = Math.min(...(samples.at(-1)?.balancedness ?? []).filter((of) => of !== null));
    const note = !live.router.name ? "one process computes all" : now === null ? "too little load to say" : `the worst layer ${least.toFixed(2)}`;
    this.#set("balance", now === null ? "–" : now.toFixed(2), "", note);
  }
}

// Balancedness by layer and time, what is uneven in the strongest colours, with the moments at which the placement changed.
export class Balance {
  constructor(host, note) {
    Object.assign(this, { host, note, canvas: element("canvas") });
    this.canvas.setAttribute("role", "img");
    host.append(this.canvas);
    new ResizeObserver(() => this.#draw()).observe(host);
  }

  show(live, samples, colours) {
    Object.assign(this, { live, samples, colours });
    document.getElementById("balance").hidden = !live.router.name;
    const state = live.balance?.state ? ` · the leader: ${live.balance.state}` : "";
    say(this.note, `mean over maximum of the nodes' load; 1 is best${state}`);
    const now = live.balance?.layers.map((of) => `layer ${of.layer} ${of.nodes.toFixed(2)}`) ?? [];
    this.canvas.setAttribute("aria-label", `Balancedness now: ${now.join(", ") || "unknown"}`);
    this.#draw();
  }

  #draw() {
    const layers = this.live?.balance?.layers ?? [];
    if (layers.length === 0 || this.host.clientWidth === 0) return;
    const height = layers.length <= 8 ? 26 : Math.max(8, Math.min(20, 360 / layers.length));
    const [left, right, width] = [34, 36, this.host.clientWidth];
    const context = sharp(this.canvas, width, height * layers.length + 1);
    const soft = getComputedStyle(this.host).getPropertyValue("--soft");
    const time = span(this.samples, this.live.router.unix_ms);
    const x = (at) => left + (width - left - right) * (1 - (this.live.router.unix_ms - at) / time);
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "middle";
    const every = Math.ceil(13 / height);
    layers.forEach((layer, row) => {
      this.#drawRow(context, row, height, x);
      if (row % every !== 0) return;
      context.fillStyle = soft;
      context.textAlign = "right";
      context.fillText(`L${layer.layer}`, left - 8, height * (row + 0.5));
      const last = this.samples.at(-1)?.balancedness[row] ?? null;
      context.fillText(last === null ? "–" : last.toFixed(2), width - 2, height * (row + 0.5));
    });
    context.strokeStyle = getComputedStyle(this.host).getPropertyValue("--mark");
    context.lineWidth = 1.5;
    for (const change of this.live.changes) {
      const at = x(change.unix_ms);
      if (change.kind !== "placement" || at < left) continue;
      context.beginPath();
      context.moveTo(at, 0);
      context.lineTo(at, height * layers.length);
      context.stroke();
    }
  }

  #drawRow(context, row, height, x) {
    let before = null;
    for (const sample of this.samples) {
      const value = sample.balancedness[row];
      // Whole pixels, so that neighbours meet without a seam.
      const at = Math.round(x(sample.unix_ms));
      const from = before ?? at - 1;
      before = at;
      if (value === null || value === undefined) continue;
      context.fillStyle = this.colours[Math.round(255 * Math.max(0, Math.min(1, 2 - 2 * value)))];
      context.fillRect(from, height * row + 1, at - from, height - 2);
    }
  }
}

export class Requests {
  constructor(host, table, ended) {
    Object.assign(this, { table, ended, charts: [] });
    for (const [title, names, keys, value, unit] of [
      ["Tokens per second", ["heat", "second"], ["generated", "of prompts"], [(of) => of.generated_per_second, (of) => of.prompt_per_second], (top) => number(top)],
      ["Requests", ["heat", "second"], ["running", "waiting"], [(of) => of.running, (of) => of.waiting], (top) => number(top)],
      ["Latency, p95", ["heat", "second"], ["first token", "between tokens"], [(of) => of.first_token_p95, (of) => of.between_tokens_p95], (top) => seconds(top).join(" ")],
    ]) {
      const chart = { lines: new Lines(names, { width: 400, height: 90 }), value, unit, top: element("span", "top-value") };
      const figure = element("figure");
      const caption = element("figcaption", "", title);
      keys.forEach((key, index) => caption.append(element("span", `of ${names[index]}`, key)));
      const plot = element("div", "plot");
      plot.append(chart.lines.svg, chart.top);
      const axis = element("p", "axis");
      axis.append(element("span", "ago"), element("span", "", "now"));
      figure.append(caption, plot, axis);
      host.append(figure);
      this.charts.push(chart);
    }
  }

  show(live, samples) {
    const axis = [live.router.unix_ms, span(samples, live.router.unix_ms)];
    for (const { lines, value, unit, top } of this.charts) {
      say(top, unit(lines.draw(value.map((of) => points(samples, of)), ...axis)));
    }
    const rows = [["First token", live.latencies.first_token], ["Between tokens", live.latencies.between_tokens], ["Whole request", live.latencies.whole_request]];
    this.table.replaceChildren(this.#row("th", ["", "p50", "p95", "p99", "count"]));
    for (const [name, of] of rows) {
      const times = ["p50", "p95", "p99"].map((which) => seconds(of?.[which]).join(" "));
      this.table.append(this.#row("td", [name, ...times, number(of?.count ?? 0)]));
    }
    const rate = mean(samples.slice(-10).map((of) => of.ended_per_second)) ?? 0;
    this.ended.replaceChildren(this.#row("th", ["Ended since the start", `${number(rate)}/s now`]));
    for (const [why, count] of Object.entries(live.ended)) this.ended.append(this.#row("td", [ENDS[why] ?? why, number(count)]));
  }

  #row(tag, texts) {
    const row = element("tr");
    texts.forEach((text, index) => row.append(element(index === 0 ? "th" : tag, "", text)));
    return row;
  }
}

export class Nodes {
  // onOnly is told the node whose experts alone are to be shown, or null.
  constructor(host, note, onOnly) {
    Object.assign(this, { host, note, onOnly, cards: new Map(), only: null });
  }

  show(live, samples) {
    if (!live.router.name) {
      say(this.note, "This router computes the experts itself, so there are none.");
    } else {
      const well = live.nodes.filter((of) => of.state === "serving").length;
      say(this.note, `${plural(live.nodes.length, "node")} · ${well} serving`);
    }
    const named = new Set(live.nodes.map((of) => of.node));
    for (const [name, card] of this.cards) {
      if (!named.has(name)) {
        card.item.remove();
        this.cards.delete(name);
      }
    }
    for (const node of live.nodes) {
      if (!this.cards.has(node.node)) this.#add(node.node);
      this.#fill(this.cards.get(node.node), node, live, samples);
    }
  }

  #add(name) {
    const parts = {
      item: element("li", "card node"), name: element("h3", "", name), state: element("span", "badge"), why: element("p", "why"),
      facts: element("p", "note"), experts: element("span", "right"), memory: element("span", "right"), fill: element("i", "fill"), meter: element("div", "meter"), speed: element("span", "right"),
      call: element("div", "call"), callNote: element("p", "note"), calls: element("p", "note"), lines: new Lines(["heat"], { width: 240, height: 34 }),
      button: element("button", "", "Show its experts"),
    };
    const head = element("div", "head");
    head.append(parts.name, parts.state);
    const pair = (title, value) => {
      const made = element("p", "pair");
      made.append(element("span", "", title), value);
      return made;
    };
    parts.meter.append(parts.fill);
    parts.parts = ["queue", "compute", "network"].map((part) => element("i", part));
    parts.call.append(...parts.parts);
    parts.button.type = "button";
    parts.button.setAttribute("aria-pressed", "false");
    parts.button.addEventListener("click", () => this.#toggle(name));
    parts.item.dataset.node = name;
    parts.item.append(head, parts.why, parts.facts, pair("Experts", parts.experts), pair("Memory", parts.memory), parts.meter, pair("Load", parts.speed), parts.lines.svg, parts.call, parts.callNote, parts.calls, parts.button);
    this.host.append(parts.item);
    this.cards.set(name, parts);
  }

  #toggle(name) {
    this.only = this.only === name ? null : name;
    for (const [other, { button }] of this.cards) button.setAttribute("aria-pressed", String(other === this.only));
    this.onOnly(this.only);
  }

  #fill(card, node, live, samples) {
    const isGone = GONE.includes(node.state);
    card.item.dataset.state = node.state;
    card.state.dataset.state = node.state;
    say(card.state, WORDS[node.state] ?? node.state);
    const age = duration((live.router.unix_ms - node.since_unix_ms) / 1000);
    say(card.why, node.state === "serving" ? "" : `${node.reason ? `${node.reason}, ` : ""}${isGone ? `${age} ago` : `for ${age}`}`);
    say(card.facts, [node.device, node.instruction_set, node.zone && `zone ${node.zone}`, node.address].filter(Boolean).join(" · "));
    const capacity = node.capacity_bytes > 0 ? ` of ${bytes(node.capacity_bytes)}` : "";
    const isWhole = node.resident_experts === node.assigned_experts;
    say(card.experts, `${isWhole ? "" : `${node.resident_experts} of `}${node.assigned_experts}`);
    say(card.memory, `${bytes(node.resident_bytes)}${capacity}`);
    card.fill.style.width = `${node.capacity_bytes > 0 ? Math.min(100, (100 * node.resident_bytes) / node.capacity_bytes) : 0}%`;
    say(card.speed, isGone ? "none" : `${number(node.pairs_per_second)} pairs/s`);
    card.lines.draw([points(samples, (of) => of.pairs_per_second[node.node] ?? null)], live.router.unix_ms, span(samples, live.router.unix_ms));
    this.#fillCalls(card, node);
    const troubles = [node.failures > 0 && plural(node.failures, "failure"), node.hedges > 0 && `late ${plural(node.hedges, "time")}`].filter(Boolean);
    const slowness = node.slowness === null ? "speed not compared yet" : `${node.slowness.toFixed(2)}× the time of the middle node`;
    say(card.calls, [isGone ? "" : slowness, ...troubles].filter(Boolean).join(" · "));
  }

  #fillCalls(card, node) {
    const isKnown = node.call_ms !== null && !GONE.includes(node.state);
    card.call.hidden = !isKnown;
    const whole = isKnown ? node.call_ms.reduce((sum, part) => sum + part, 0) : 0;
    card.parts.forEach((part, index) => {
      part.style.width = whole > 0 ? `${(100 * node.call_ms[index]) / whole}%` : "0";
    });
    const [queue, compute, network] = node.call_ms ?? [];
    const text = isKnown ? `${number(whole)} ms a call: ${number(queue)} queue, ${number(compute)} computing, ${number(network)} network` : "no call in the last 10 s";
    say(card.callNote, text);
  }
}

export class Changes {
  constructor(host, note) {
    Object.assign(this, { host, note, shown: "" });
  }

  show(live) {
    say(this.note, live.changes.length > 0 ? "since this router started, the last hundred at most" : "Nothing has changed since this router started.");
    // Rebuilt only when there is news, so that what is opened stays open and the focus stays where it is.
    const shown = JSON.stringify(live.changes);
    if (shown === this.shown) return;
    this.shown = shown;
    const open = new Set([...this.host.querySelectorAll("details[open]")].map((of) => of.dataset.epoch));
    this.host.replaceChildren(...live.changes.map((change) => this.#item(change, open)));
  }

  #item(change, open) {
    const item = element("li");
    item.dataset.kind = change.kind;
    item.append(element("time", "", clock(change.unix_ms)));
    const body = element("div");
    if (change.kind === "placement") this.#placement(body, change, open);
    else this.#node(body, item, change);
    item.append(body);
    return item;
  }

  #placement(body, change, open) {
    const counts = [change.loads > 0 && plural(change.loads, "load"), change.drops > 0 && plural(change.drops, "drop")].filter(Boolean).join(", ");
    const more = change.more ? "at least " : "";
    const steps = change.steps > 1 ? ` · ${change.steps} steps` : "";
    body.append(element("strong", "", `Placement ${change.epoch}`), ` ${counts ? `${more}${counts}` : "the next step of a roll-out"}${steps}`);
    if (change.reasons.length === 0) return;
    const details = element("details");
    details.dataset.epoch = change.epoch;
    details.open = open.has(String(change.epoch));
    details.append(element("summary", "", change.reasons[0]));
    const list = element("ul");
    list.append(...change.reasons.slice(1).map((reason) => element("li", "", reason)));
    const left = change.loads + change.drops - change.reasons.length;
    if (left > 0) list.append(element("li", "note", `and ${number(left)} more`));
    details.append(list);
    body.append(details);
  }

  #node(body, item, change) {
    item.dataset.state = change.to;
    const badge = element("span", "badge", WORDS[change.to] ?? change.to);
    badge.dataset.state = change.to;
    body.append(element("strong", "", change.node), " ", badge);
    const from = change.from ? `was ${(WORDS[change.from] ?? change.from).toLowerCase()}` : "is new";
    body.append(element("span", "note", ` ${[from, change.reason].filter(Boolean).join(" · ")}`));
  }
}
