// The heatmap of layers and experts: a canvas, with one cell of a grid over it that takes the focus and the arrow keys.

import { Lines, sharp } from "./charts.js";
import { duration, element, number, say } from "./format.js";

const LABELS = 34;
const HEAD = 16;
const HOT = 4;
const LEAST_CELL = 4;

// Load of an expert over its layer's mean. Pure.
export function shares(pairs) {
  return pairs.map((layer) => {
    const sum = layer.reduce((all, count) => all + count, 0);
    return layer.map((count) => (sum === 0 ? null : (count * layer.length) / sum));
  });
}

// The place of a share in a palette of 256; four times the fair share is the last. Pure.
export function colourOf(share) {
  return Math.round((255 * Math.log2(1 + Math.min(share ?? 0, HOT))) / Math.log2(1 + HOT));
}

// Where a key leads from a cell [row, column]; null if it is none of ours. Pure.
export function moved([row, column], key, isControl, rows, columns) {
  const clamp = (value, most) => Math.max(0, Math.min(most - 1, value));
  const to = {
    ArrowUp: [row - 1, column],
    ArrowDown: [row + 1, column],
    ArrowLeft: [row, column - 1],
    ArrowRight: [row, column + 1],
    PageUp: [row - 10, column],
    PageDown: [row + 10, column],
    Home: [isControl ? 0 : row, 0],
    End: [isControl ? rows - 1 : row, columns - 1],
  }[key];
  return to ? [clamp(to[0], rows), clamp(to[1], columns)] : null;
}

export class Heatmap {
  // onSelect is told [layer, expert] of the model, or null, whenever another cell is looked at.
  constructor(host, tip, said, onSelect) {
    Object.assign(this, { host, tip, said, onSelect, at: [0, 0], looked: null, node: null });
    this.canvas = element("canvas");
    this.canvas.setAttribute("aria-hidden", "true");
    this.grid = element("div", "grid");
    this.grid.setAttribute("role", "grid");
    this.grid.setAttribute("aria-label", "Load by layer and expert");
    const row = element("div");
    row.setAttribute("role", "row");
    this.row = row;
    this.cell = element("div", "cell");
    this.cell.setAttribute("role", "gridcell");
    this.cell.setAttribute("aria-describedby", "tip");
    this.cell.tabIndex = 0;
    row.append(this.cell);
    this.grid.append(row);
    host.append(this.canvas, this.grid);
    this.chart = new Lines(["heat"], { width: 220, height: 36 });
    this.#listen();
  }

  #listen() {
    this.cell.addEventListener("keydown", (event) => this.#key(event));
    this.cell.addEventListener("focus", () => this.#look(this.at));
    this.cell.addEventListener("blur", () => this.#look(null));
    this.canvas.addEventListener("pointermove", (event) => {
      if (event.pointerType === "mouse") this.#look(this.#cellAt(event));
    });
    this.canvas.addEventListener("pointerleave", () => this.#look(this.#isFocused() ? this.at : null));
    this.canvas.addEventListener("click", (event) => {
      const cell = this.#cellAt(event);
      if (!cell) return;
      this.at = cell;
      this.#place();
      this.cell.focus({ preventScroll: true });
      this.#look(cell);
    });
    this.host.addEventListener("scroll", () => this.looked && this.#placeTip());
    new ResizeObserver(() => this.draw()).observe(this.host);
  }

  #isFocused() {
    return document.activeElement === this.cell;
  }

  #key(event) {
    if (!this.experts) return;
    if (event.key === "Escape") {
      this.#look(null);
      return;
    }
    const [rows, columns] = [this.experts.layers.length, this.experts.n_experts];
    const to = moved(this.at, event.key, event.ctrlKey, rows, columns);
    if (!to) return;
    event.preventDefault();
    this.at = to;
    this.#place();
    this.cell.scrollIntoView({ block: "nearest", inline: "nearest" });
    this.#look(to);
    say(this.said, this.#title(to));
  }

  #cellAt(event) {
    if (!this.experts) return null;
    const box = this.canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left - LABELS) / this.size);
    const row = Math.floor((event.clientY - box.top - HEAD) / this.height);
    const isInside = column >= 0 && column < this.experts.n_experts && row >= 0 && row < this.experts.layers.length;
    return isInside ? [row, column] : null;
  }

  // Takes in what the router says of the experts, and who holds them.
  show(experts, holders, colours) {
    Object.assign(this, { experts, holders, colours, shares: shares(experts.pairs) });
    this.at = [Math.min(this.at[0], experts.layers.length - 1), Math.min(this.at[1], experts.n_experts - 1)];
    this.grid.setAttribute("aria-rowcount", experts.layers.length);
    this.grid.setAttribute("aria-colcount", experts.n_experts);
    this.draw();
    if (this.looked) this.#fillTip();
  }

  // Leaves only the experts of a node in full colour; null: all.
  only(node) {
    this.node = node;
    this.draw();
  }

  draw() {
    if (!this.experts || this.host.clientWidth === 0) return;
    const { layers, n_experts: columns } = this.experts;
    this.size = Math.max(LEAST_CELL, (this.host.clientWidth - LABELS - 1) / columns);
    this.height = layers.length <= 8 ? 38 : Math.max(9, Math.min(30, 460 / layers.length));
    const context = sharp(this.canvas, LABELS + this.size * columns + 1, HEAD + this.height * layers.length + 1);
    const style = getComputedStyle(this.host);
    const ink = { soft: style.getPropertyValue("--soft"), hot: style.getPropertyValue("--hot") };
    this.#drawLabels(context, ink);
    layers.forEach((_, row) => {
      for (let column = 0; column < columns; column += 1) this.#drawCell(context, row, column, ink);
    });
    this.#place();
  }

  #drawLabels(context, ink) {
    const { layers, n_experts: columns } = this.experts;
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = ink.soft;
    context.textBaseline = "middle";
    context.textAlign = "right";
    const everyRow = Math.ceil(13 / this.height);
    layers.forEach((layer, row) => {
      if (row % everyRow === 0) context.fillText(`L${layer}`, LABELS - 8, HEAD + this.height * (row + 0.5));
    });
    context.textAlign = "center";
    const everyColumn = [1, 2, 4, 8, 16, 32, 64].find((step) => step * this.size >= 26) ?? 64;
    for (let column = 0; column < columns; column += everyColumn) {
      context.fillText(String(column), LABELS + this.size * (column + 0.5), HEAD / 2 - 1);
    }
  }

  #drawCell(context, row, column, ink) {
    const share = this.shares[row][column];
    const gap = this.size >= 12 ? 1.5 : this.size >= 6 ? 0.75 : 0;
    const [x, y] = [LABELS + this.size * column + gap, HEAD + this.height * row + gap];
    const [width, height] = [this.size - 2 * gap, this.height - 2 * gap];
    const round = Math.min(4, width / 5);
    context.globalAlpha = this.node === null || this.#holdersOf([row, column]).includes(this.node) ? 1 : 0.14;
    context.fillStyle = this.colours[colourOf(share)];
    context.beginPath();
    context.roundRect(x, y, width, height, round);
    context.fill();
    if (share !== null && share >= HOT) {
      context.strokeStyle = ink.hot;
      context.lineWidth = Math.min(2, gap + 1);
      context.stroke();
    } else if (share === 0 && width >= 8) {
      context.fillStyle = ink.soft;
      context.beginPath();
      context.arc(x + width / 2, y + height / 2, 1.5, 0, 7);
      context.fill();
    }
    context.globalAlpha = 1;
  }

  // Puts the cell that can have the focus where it belongs.
  #place() {
    const [row, column] = this.at;
    const style = this.cell.style;
    style.left = `${LABELS + this.size * column}px`;
    style.top = `${HEAD + this.height * row}px`;
    style.width = `${this.size}px`;
    style.height = `${this.height}px`;
    this.row.setAttribute("aria-rowindex", row + 1);
    this.cell.setAttribute("aria-colindex", column + 1);
    this.cell.setAttribute("aria-label", this.#title(this.at));
  }

  #title([row, column]) {
    const share = this.shares[row][column];
    const load = share === null ? "no load" : `${share.toFixed(2)} times its fair share`;
    return `Layer ${this.experts.layers[row]}, expert ${column}: ${load}`;
  }

  #holdersOf([row, column]) {
    return (this.holders?.of[row]?.[column] ?? []).map((slot) => this.holders.nodes[slot]);
  }

  #look(cell) {
    const isSame = cell && this.looked && cell[0] === this.looked[0] && cell[1] === this.looked[1];
    this.looked = cell;
    if (!cell || !this.experts) {
      this.tip.hidden = true;
      this.onSelect(null);
      return;
    }
    if (!isSame) {
      this.experts.over_time = null;
      this.onSelect([this.experts.layers[cell[0]], cell[1]]);
    }
    this.#fillTip();
  }

  #fillTip() {
    const [row, column] = this.looked;
    const share = this.shares[row][column];
    const count = this.experts.pairs[row][column];
    const title = element("strong", "", `Layer ${this.experts.layers[row]} · expert ${column}`);
    const load = share === null ? "no load in this time" : `${share.toFixed(2)}× its fair share`;
    const rate = this.experts.seconds > 0 ? ` · ${number(count / this.experts.seconds)}/s` : "";
    const nodes = this.#holdersOf(this.looked);
    const where = nodes.length > 0 ? `on ${nodes.join(", ")}` : this.holders?.nodes.length > 0 ? "on no node now" : "in the router";
    this.tip.replaceChildren(title, element("span", "", load), element("span", "note", `${number(count)} tokens${rate}`), element("span", "note", where));
    const rates = this.experts.over_time;
    if (rates && rates.length > 1) {
      const points = rates.map((value, index) => [-(rates.length - 1 - index) * 2000, value]);
      const top = this.chart.draw([points], 0, 2000 * (rates.length - 1));
      this.tip.append(this.chart.svg, element("span", "note", `last ${duration(2 * (rates.length - 1))}, up to ${number(top)}/s`));
    }
    this.tip.hidden = false;
    this.#placeTip();
  }

  #placeTip() {
    const box = this.canvas.getBoundingClientRect();
    const [row, column] = this.looked;
    const [x, y] = [box.left + LABELS + this.size * (column + 0.5), box.top + HEAD + this.height * row];
    const { offsetWidth: width, offsetHeight: height } = this.tip;
    const left = Math.max(8, Math.min(document.documentElement.clientWidth - width - 8, x - width / 2));
    const above = y - height - 8;
    this.tip.style.left = `${left}px`;
    this.tip.style.top = `${above > 8 ? above : y + this.height + 8}px`;
  }
}
