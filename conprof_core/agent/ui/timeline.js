// The timeline: a line of stacked bars over the range shown; dragging selects a part of it.
import { category, isDark } from "./colors.js";
import { css, h, prepareCanvas } from "./dom.js";
import * as format from "./format.js";

const HEIGHT = 92;
const FOOT = 18;
const STEPS = [1, 5, 10, 15, 30, 60, 300, 600, 900, 1800, 3600, 10800, 21600, 43200, 86400, 604800];

/** The step that gives bars of about four pixels, not shorter than the windows that are uploaded. */
export function stepFor(span, width, window_s) {
  const wanted = Math.max(span / Math.max(60, width / 5), Math.min(window_s, span / 20));
  return STEPS.find((step) => step >= wanted) ?? STEPS.at(-1);
}

/**
 * Scale the buckets that windows cover only in part, first and last, to what they are where covered.
 * Otherwise the newest bar, hardly begun, looks like a drop.
 */
export function scaleEnds(d) {
  if (!d.covered) return d;
  const bucketOf = (ms) => Math.floor((ms - d.start_ms) / d.step_ms);
  for (const i of new Set([bucketOf(d.covered[0]), bucketOf(d.covered[1] - 1)])) {
    const [left, right] = coveredPart(d, i);
    const part = Math.max(0.02, (right - left) / d.step_ms);
    if (part < 1) for (const line of d.lines) if (line.values[i]) line.values[i] /= part;
  }
  return d;
}

/** The part of a bucket, from 0 to 1, that windows cover: outside, a zero says nothing. */
export function coveredShare(d, i) {
  const [left, right] = coveredPart(d, i);
  return Math.max(0, right - left) / d.step_ms;
}

/** From when to when, in ms, windows cover a bucket. */
function coveredPart(d, i) {
  const left = d.start_ms + i * d.step_ms;
  const [from, to] = d.covered ?? [left, Infinity];
  return [Math.max(left, from), Math.min(left + d.step_ms, to)];
}

export class Timeline {
  /** events: select(fromMs, toMs, isBase), clear(). */
  constructor(events) {
    this.events = events;
    this.data = null;
    this.range = [0, 1];
    this.selection = null;
    this.base = null;
    this.canvas = h("canvas", { height: HEIGHT });
    this.tip = h("div", { class: "tip timeline-tip", hidden: true });
    this.element = h("div", {
      class: "timeline", tabindex: 0, role: "group",
      "aria-label": "Timeline. Drag to select a time range; arrow keys move a selection, Escape clears it.",
    }, this.canvas, this.tip);
    this.listen();
  }

  listen() {
    const el = this.element;
    el.addEventListener("pointerdown", (e) => {
      if (e.button !== 0) return;
      el.setPointerCapture(e.pointerId);
      this.drag = { start: this.timeAt(e), isBase: e.shiftKey, x: e.clientX };
    });
    el.addEventListener("pointermove", (e) => this.onMove(e));
    el.addEventListener("pointerup", (e) => this.onUp(e));
    el.addEventListener("pointercancel", () => { this.drag = null; this.draw(); });
    el.addEventListener("pointerleave", () => { this.hover = null; this.tip.hidden = true; this.draw(); });
    el.addEventListener("keydown", (e) => this.onKey(e));
    new ResizeObserver(() => this.draw()).observe(el);
  }

  set(data, range, selection, base) {
    Object.assign(this, { data, range, selection, base });
    this.draw();
  }

  timeAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    return this.range[0] + share * (this.range[1] - this.range[0]);
  }

  onMove(event) {
    const at = this.timeAt(event);
    if (this.drag && Math.abs(event.clientX - this.drag.x) > 3) {
      this.drag.now = at;
    }
    this.hover = at;
    this.showTip(event);
    this.draw();
  }

  onUp() {
    const drag = this.drag;
    this.drag = null;
    if (!drag) return;
    if (drag.now === undefined) {
      if (this.selection) this.events.clear();
      return;
    }
    const [from, to] = [drag.start, drag.now].sort((a, b) => a - b);
    const least = Math.max(1000, this.data?.step_ms ?? 1000);
    this.events.select(Math.round(from), Math.round(Math.max(to, from + least)), drag.isBase);
    this.draw();
  }

  onKey(event) {
    const [from, to] = this.range;
    const step = (to - from) / 24;
    let [a, b] = this.selection ?? [to - step * 4, to - step * 2];
    if (event.key === "Escape" && this.selection) this.events.clear();
    else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      const by = event.key === "ArrowLeft" ? -step : step;
      if (event.shiftKey) b = Math.max(a + step, b + by);
      else [a, b] = [a + by, b + by];
      if (a >= from - 1 && b <= to + step) this.events.select(Math.round(a), Math.round(Math.min(b, to)), false);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  showTip(event) {
    const d = this.data;
    if (!d?.lines.length) {
      this.tip.hidden = true;
      return;
    }
    const bucket = Math.floor((this.hover - d.start_ms) / d.step_ms);
    const rows = d.lines
      .map((line, n) => ({ name: line.value, value: line.values[bucket] ?? 0, n }))
      .filter((row) => row.value > 0);
    const total = rows.reduce((sum, row) => sum + row.value, 0);
    const start = d.start_ms + bucket * d.step_ms;
    this.tip.replaceChildren(
      h("div", { class: "tip-head" }, format.clock(start), h("b", {}, format.rate(total, d.unit, d.instant))),
      ...rows.sort((a, b) => b.value - a.value).slice(0, 5).map((row) =>
        h("div", { class: "tip-row" },
          h("i", { class: "dot", style: { background: category(row.n, isDark()) } }),
          h("span", {}, row.name === null ? "others" : row.name || "no route"),
          h("span", {}, format.rate(row.value, d.unit, d.instant)))),
    );
    this.tip.hidden = !total;
    const box = this.element.getBoundingClientRect();
    const x = event.clientX - box.left;
    const width = this.tip.offsetWidth;
    this.tip.style.left = `${Math.max(0, Math.min(box.width - width, x + 14 > box.width - width ? x - width - 14 : x + 14))}px`;
  }

  draw() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.paint());
  }

  paint() {
    const width = this.element.clientWidth;
    if (!width) return;
    const c = prepareCanvas(this.canvas, width, HEIGHT);
    const [from, to] = this.range;
    const x = (ms) => ((ms - from) / (to - from)) * width;
    const floor = HEIGHT - FOOT;
    c.clearRect(0, 0, width, HEIGHT);
    this.axis(c, x, width, floor);
    const d = this.data;
    const dark = isDark();
    if (d?.lines.length) {
      const sums = new Array(d.buckets).fill(0);
      for (const line of d.lines) line.values.forEach((v, i) => { sums[i] += v; });
      const peak = Math.max(...sums) || 1;
      const below = new Array(d.buckets).fill(0);
      const inset = (d.step_ms / (to - from)) * width > 4 ? 1 : 0;
      d.lines.forEach((line, n) => {
        c.fillStyle = line.value === null ? category(9, dark) : d.lines.length === 1 ? css("--plain-bar") : category(n, dark);
        line.values.forEach((value, i) => {
          if (!value) return;
          const height = (value / peak) * (floor - 8);
          const top = floor - ((below[i] + value) / peak) * (floor - 8);
          const [left, right] = coveredPart(d, i);
          c.fillRect(x(left), top, Math.max(1, x(right) - x(left) - inset), height);
          below[i] += value;
        });
      });
      this.caption(c, peak, d);
    }
    const drag = this.drag?.now !== undefined ? [this.drag.start, this.drag.now].sort((a, b) => a - b) : null;
    const chosen = drag && !this.drag.isBase ? drag : this.selection;
    const base = drag && this.drag.isBase ? drag : this.base;
    if (chosen) this.brush(c, x(chosen[0]), x(chosen[1]), width, floor, "--accent", !base);
    if (base) this.brush(c, x(base[0]), x(base[1]), width, floor, "--base", false);
    if (this.hover && !drag) {
      c.fillStyle = css("--faint");
      c.fillRect(Math.round(x(this.hover)), 0, 1, floor);
    }
  }

  caption(c, peak, d) {
    c.font = "11px system-ui, sans-serif";
    c.textBaseline = "top";
    const text = format.rate(peak, d.unit, d.instant);
    c.fillStyle = css("--panel");
    c.globalAlpha = 0.75;
    c.fillRect(0, 0, c.measureText(text).width + 8, 15);
    c.globalAlpha = 1;
    c.fillStyle = css("--muted");
    c.fillText(text, 4, 2);
  }

  axis(c, x, width, floor) {
    const [from, to] = this.range;
    const wanted = ((to - from) / 1000 / width) * 110;
    const step = (STEPS.find((s) => s >= wanted) ?? STEPS.at(-1)) * 1000;
    const shift = new Date(from).getTimezoneOffset() * 60000;
    c.font = "11px system-ui, sans-serif";
    c.textBaseline = "alphabetic";
    for (let at = Math.ceil((from - shift) / step) * step + shift; at < to; at += step) {
      c.fillStyle = css("--hair");
      c.fillRect(Math.round(x(at)), 0, 1, floor + 4);
      c.fillStyle = css("--muted");
      const text = step >= 86400000
        ? new Date(at).toLocaleDateString(undefined, { day: "numeric", month: "short" })
        : format.clock(at, step < 60000);
      if (x(at) + 4 + c.measureText(text).width < width) c.fillText(text, x(at) + 4, HEIGHT - 4);
    }
    c.fillStyle = css("--line");
    c.fillRect(0, floor, width, 1);
  }

  brush(c, left, right, width, floor, colour, veil) {
    if (veil) {
      c.fillStyle = css("--panel");
      c.globalAlpha = 0.62;
      c.fillRect(0, 0, left, floor);
      c.fillRect(right, 0, width - right, floor);
    }
    c.globalAlpha = veil ? 0.07 : 0.16;
    c.fillStyle = css(colour);
    c.fillRect(left, 0, right - left, floor);
    c.globalAlpha = 1;
    c.fillRect(left, 0, 1.5, floor + 1);
    c.fillRect(right - 1.5, 0, 1.5, floor + 1);
    c.fillRect(left, floor, right - left, 2);
  }
}
