// Lines over the last minutes, and the colours of heatmaps.

const SVG = "http://www.w3.org/2000/svg";
const [SHORTEST_MS, LONGEST_MS] = [60_000, 300_000];
// A pause this long between samples is a gap.
const GAP_MS = 5_000;

// The time that charts show, in milliseconds: what is known, in five minutes at most. Pure.
export function span(samples, now) {
  const known = samples.length > 0 ? now - samples[0].unix_ms : 0;
  return Math.max(SHORTEST_MS, Math.min(LONGEST_MS, known));
}

// Points of one line, [unix milliseconds, value or null], as the data of an SVG path over { now, span, top }. Gaps stay
// gaps. Pure.
export function path(points, { now, span, top }, width, height) {
  let data = "";
  let last = null;
  for (const [at, value] of points) {
    const isKnown = value !== null && value !== undefined;
    if (isKnown) {
      const x = width * (1 - (now - at) / span);
      const y = height - 1.5 - (height - 3) * Math.min(1, value / (top || 1));
      data += `${last !== null && at - last < GAP_MS ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
      last = at;
    } else {
      last = null;
    }
  }
  return data;
}

// The least of 1, 2, 5, 10, … that is not below a value. Pure.
export function roundedUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

export class Lines {
  // names: a class for each line, which says its colour. The first one is filled below unless it is told not to.
  constructor(names, { width = 300, height = 60, top = null, filled = true } = {}) {
    Object.assign(this, { width, height, top });
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.svg.setAttribute("aria-hidden", "true");
    this.area = filled ? this.#path(`area ${names[0]}`) : null;
    this.lines = names.map((name) => this.#path(`line ${name}`));
  }

  #path(className) {
    const made = document.createElementNS(SVG, "path");
    made.setAttribute("class", className);
    this.svg.append(made);
    return made;
  }

  // series: a list of points for each line. Returns the value at the top.
  draw(series, now, span) {
    const most = Math.max(0, ...series.flat().map(([, value]) => value ?? 0));
    const top = this.top ?? roundedUp(most);
    series.forEach((points, index) => {
      this.lines[index].setAttribute("d", path(points, { now, span, top }, this.width, this.height));
    });
    if (this.area) this.#fill(series[0], { now, span, top });
    return top;
  }

  #fill(points, axis) {
    const pieces = path(points, axis, this.width, this.height).split("M").filter(Boolean);
    const closed = pieces.map((piece) => {
      const xs = piece.split("L").map((point) => point.split(" ")[0]);
      return `M${xs[0]} ${this.height}L${piece}L${xs.at(-1)} ${this.height}Z`;
    });
    this.area.setAttribute("d", closed.join(""));
  }
}

// A colour of OKLCH as [red, green, blue] from 0 to 255. Pure.
function fromOklch(lightness, chroma, hue) {
  const angle = (hue * Math.PI) / 180;
  const [a, b] = [chroma * Math.cos(angle), chroma * Math.sin(angle)];
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  const gamma = (x) => (x <= 0.0031308 ? 12.92 * x : 1.055 * x ** (1 / 2.4) - 0.055);
  return linear.map((x) => Math.round(255 * gamma(Math.min(1, Math.max(0, x)))));
}

// 256 colours of evenly growing contrast to the page: lightness goes one way only, so the order can be seen by anybody.
export function palette(isDark) {
  return Array.from({ length: 256 }, (_, index) => {
    const t = index / 255;
    const lightness = isDark ? 0.25 + 0.66 * t : 0.965 - 0.64 * t;
    const hue = isDark ? 265 - 175 * t ** 1.15 : 110 + 165 * t ** 0.8;
    const chroma = isDark ? 0.035 + 0.125 * t ** 0.8 : 0.02 + 0.13 * Math.sin(Math.PI * Math.min(1, 0.12 + 0.75 * t));
    return `rgb(${fromOklch(lightness, chroma, hue).join(" ")})`;
  });
}

export function drawScale(canvas, colours) {
  const context = canvas.getContext("2d");
  for (let x = 0; x < canvas.width; x += 1) {
    context.fillStyle = colours[Math.floor((255 * x) / (canvas.width - 1))];
    context.fillRect(x, 0, 1, canvas.height);
  }
}

// A canvas whose pixels are those of the screen. Returns its context in CSS pixels.
export function sharp(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) {
    [canvas.width, canvas.height] = [w, h];
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}
