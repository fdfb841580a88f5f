// The flame graph: draws the visible part of a tree on a canvas, and lets people walk in it.
//
// Only rows on screen are drawn, and a subtree narrower than a third of a pixel is skipped as a
// whole, so the cost of a frame follows what is seen, not what is stored. Bars are pixels (see
// raster.js), names are text on them.
import { changeColour, frameColour, isDark } from "./colors.js";
import { css, h } from "./dom.js";
import { packed, Raster } from "./raster.js";

const ROW = 20;
const FONT = 11.5;
const TINY = 0.35;
const ZOOM_MS = 170;
const FADED = 0.28;
const CHANGES = 50; // steps of colour from no change to a full one

export class FlameGraph {
  /**
   * events: hover(node, x, y), leave(), focus(node), zoom(node), sandwich(node).
   * upwards: the root is the lowest row.
   */
  constructor({ label, upwards = false, events = {} }) {
    this.upwards = upwards;
    this.events = events;
    this.tree = null;
    this.mode = "module";
    this.scales = null;
    this.matches = null;
    this.selected = 0;
    this.hovered = -1;
    this.zoomed = 0;
    this.view = [0, 1];
    this.canvas = h("canvas", {});
    this.raster = new Raster(this.canvas, ROW);
    this.spacer = h("div", { class: "flame-spacer" });
    this.live = h("div", { class: "sr-only", "aria-live": "polite" });
    this.element = h(
      "div",
      { class: "flame", tabindex: 0, role: "application", "aria-label": label,
        "aria-roledescription": "flame graph" },
      this.canvas, this.spacer, this.live,
    );
    this.listen();
  }

  listen() {
    const el = this.element;
    el.addEventListener("scroll", () => this.draw());
    el.addEventListener("mousemove", (e) => this.onMove(e));
    el.addEventListener("mouseleave", () => this.setHover(-1));
    el.addEventListener("click", (e) => this.onClick(e));
    el.addEventListener("dblclick", (e) => {
      const node = this.nodeAt(e);
      if (node > 0) this.events.sandwich?.(node);
    });
    el.addEventListener("wheel", (e) => this.onWheel(e), { passive: false });
    el.addEventListener("keydown", (e) => this.onKey(e));
    new ResizeObserver(() => this.draw()).observe(el);
  }

  /** Show another tree; where one was zoomed in before is found again by its names. */
  setTree(tree, zoomKeys = null) {
    const keys = zoomKeys ?? (this.tree && this.zoomed ? this.keysOf(this.zoomed) : []);
    this.tree = tree;
    this.order = null;
    this.hovered = -1;
    this.selected = tree.find(keys);
    this.zoomed = this.selected;
    this.view = this.span(this.zoomed);
    this.search(this.needle ?? "");
    this.recolour();
    this.resize();
  }

  keysOf(node) {
    const keys = [];
    for (let at = node; at > 0; at = this.tree.parent[at]) keys.push(this.tree.key(at));
    return keys.reverse();
  }

  /** scales: [own, base] factors that bring both sides of a comparison to one unit, or null. */
  setColours(mode, scales = null) {
    this.mode = mode;
    this.scales = scales;
    this.recolour();
    this.draw();
  }

  recolour() {
    if (!this.tree) return;
    this.dark = isDark();
    this.colours = this.tree.functions.map((f) => frameColour(f, this.mode, this.dark));
    this.ink = css("--frame-ink");
    const colours = this.scales
      ? Array.from({ length: 2 * CHANGES + 1 }, (_, i) => changeColour(i / CHANGES - 1, this.dark)) : this.colours;
    this.palette = {
      root: packed(css("--root")), match: packed(css("--match")),
      plain: colours.map((colour) => packed(colour)), faded: colours.map((colour) => packed(colour, FADED)),
    };
  }

  resize() {
    const rows = this.tree ? this.tree.maxDepth + 1 : 1;
    this.spacer.style.height = `${rows * ROW}px`;
    if (this.upwards) this.element.scrollTop = this.element.scrollHeight;
    this.draw();
  }

  /** Mark functions whose name or file holds the text; returns their share, nested ones once. */
  search(needle) {
    this.needle = needle;
    this.matches = null;
    if (!needle || !this.tree) {
      this.draw();
      return null;
    }
    const low = needle.toLowerCase();
    const t = this.tree;
    this.matches = t.functions.map((f, i) =>
      i !== t.func[0] && (f[0].toLowerCase().includes(low) || f[1].toLowerCase().includes(low)));
    const inside = new Uint8Array(t.length);
    let sum = 0;
    let count = 0;
    for (let node = 1; node < t.length; node += 1) {
      const hit = this.matches[t.func[node]];
      if (hit) count += 1;
      if (inside[t.parent[node]]) inside[node] = 1;
      else if (hit) {
        inside[node] = 1;
        sum += t.weight[node];
      }
    }
    this.draw();
    return { share: t.weight[0] ? sum / t.weight[0] : 0, count };
  }

  span(node) {
    const t = this.tree;
    return [t.x[node], t.x[node] + Math.max(t.weight[node], 1e-12)];
  }

  zoomTo(node, { animate = true } = {}) {
    if (!this.tree) return;
    this.zoomed = node;
    this.selected = node;
    this.glide(this.span(node), animate);
    this.reveal(node);
    this.say(node);
    this.events.zoom?.(node);
  }

  glide(target, animate) {
    cancelAnimationFrame(this.frame);
    if (!animate || matchMedia("(prefers-reduced-motion: reduce)").matches) {
      this.view = target;
      this.draw();
      return;
    }
    const from = [...this.view];
    const start = performance.now();
    const step = (now) => {
      const t = Math.min(1, (now - start) / ZOOM_MS);
      const eased = 1 - (1 - t) ** 3;
      this.view = [0, 1].map((i) => from[i] + (target[i] - from[i]) * eased);
      this.paint();
      if (t < 1) this.frame = requestAnimationFrame(step);
    };
    this.frame = requestAnimationFrame(step);
  }

  draw() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = 0;
      this.paint();
    });
  }

  /** The upper edge of the root's row, and what a row down adds to it. Asks the page: once a frame. */
  rows() {
    const { clientHeight, scrollTop } = this.element;
    if (!this.upwards) return [-scrollTop, ROW];
    return [Math.max((this.tree.maxDepth + 1) * ROW, clientHeight) - ROW - scrollTop, -ROW];
  }

  top(depth) {
    const [first, step] = this.rows();
    return first + depth * step;
  }

  paint() {
    const width = this.element.clientWidth;
    const height = this.element.clientHeight;
    if (!this.tree || !width || !height) return;
    const c = this.raster.begin(width, height);
    c.font = `${FONT}px ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace`;
    c.textBaseline = "middle";
    this.letter ??= c.measureText("0123456789").width / 10;
    const t = this.tree;
    const scale = width / (this.view[1] - this.view[0]);
    const [first, step] = this.rows();
    const stack = [0];
    const named = [];
    const wide = 3 * this.letter + 9;
    this.drawn = 0;
    while (stack.length) {
      const node = stack.pop();
      const left = (t.x[node] - this.view[0]) * scale;
      const right = left + t.weight[node] * scale;
      if (right <= 0 || left >= width || right - left < TINY) continue;
      const y = first + t.depth[node] * step;
      if (y > -ROW && y < height) {
        const from = Math.max(0, left);
        const to = Math.min(width, right);
        const isHit = this.matches?.[t.func[node]];
        this.raster.bar(from, to, y, this.colourOf(node, isHit), isHit ? this.palette.match : 0);
        this.drawn += 1;
        if (to - from >= wide) named.push([node, from, to, y, isHit]);
      }
      if (this.upwards ? y < -ROW : y > height) continue;
      for (let k = t.first[node]; k < t.first[node + 1]; k += 1) stack.push(t.children[k]);
    }
    this.raster.end(c);
    c.fillStyle = this.ink;
    for (const [node, from, to, y, isHit] of named) {
      const room = Math.floor((to - from - 9) / this.letter);
      const name = t.name(node);
      c.globalAlpha = this.matches && !isHit && node ? 0.62 : 1;
      c.fillText(name.length > room ? `${name.slice(0, room - 1)}…` : name, from + 4, y + ROW / 2);
    }
    c.globalAlpha = 1;
    if (this.hovered >= 0) this.outline(c, this.hovered, scale, this.ink, 1);
    if (this.selected > 0 && document.activeElement === this.element) {
      this.outline(c, this.selected, scale, css("--accent"), 2);
    }
  }

  /** The pixel of a node's bar: the root's, that of a change, or that of its function. */
  colourOf(node, isHit) {
    if (node === 0) return this.palette.root;
    const colours = this.matches && !isHit ? this.palette.faded : this.palette.plain;
    if (!this.scales || !this.tree.baseTotal) return colours[this.tree.func[node]];
    return colours[Math.round((this.change(node) + 1) * CHANGES)];
  }

  /** From -1 (only in the base) to 1 (only in the selection). */
  change(node) {
    const now = this.tree.total[node] * this.scales[0];
    const before = this.tree.baseTotal[node] * this.scales[1];
    return now + before > 0 ? (now - before) / Math.max(now, before) : 0;
  }

  outline(c, node, scale, colour, line) {
    const t = this.tree;
    const left = Math.max(0, (t.x[node] - this.view[0]) * scale);
    const right = Math.min(c.canvas.clientWidth, (t.x[node] + t.weight[node] - this.view[0]) * scale);
    if (right < left) return;
    c.strokeStyle = colour;
    c.lineWidth = line;
    c.strokeRect(left + line / 2, this.top(t.depth[node]) + line / 2, Math.max(1, right - left - 1 - line), ROW - 1 - line);
  }

  nodeAt(event) {
    if (!this.tree) return -1;
    const box = this.canvas.getBoundingClientRect();
    const x = this.view[0] + ((event.clientX - box.left) / box.width) * (this.view[1] - this.view[0]);
    const y = event.clientY - box.top;
    const t = this.tree;
    let node = 0;
    if (x < t.x[0] || x > t.x[0] + t.weight[0]) return -1;
    for (;;) {
      const rowTop = this.top(t.depth[node]);
      if (y >= rowTop && y < rowTop + ROW) return node;
      let next = -1;
      for (const child of t.childrenOf(node)) {
        if (x >= t.x[child] && x < t.x[child] + t.weight[child]) next = child;
      }
      if (next < 0) return -1;
      node = next;
    }
  }

  onMove(event) {
    this.setHover(this.nodeAt(event), event);
  }

  setHover(node, event) {
    if (node !== this.hovered) {
      this.hovered = node;
      this.element.style.cursor = node >= 0 ? "pointer" : "default";
      this.draw();
    }
    if (node >= 0) this.events.hover?.(node, event.clientX, event.clientY);
    else this.events.leave?.();
  }

  onClick(event) {
    const node = this.nodeAt(event);
    if (node < 0) return;
    if (event.altKey) this.events.sandwich?.(node);
    else this.zoomTo(node === this.zoomed ? Math.max(0, this.tree.parent[node]) : node);
  }

  onWheel(event) {
    if (!event.ctrlKey && !event.metaKey && Math.abs(event.deltaX) <= Math.abs(event.deltaY)) return;
    event.preventDefault();
    const box = this.canvas.getBoundingClientRect();
    const [from, to] = this.view;
    const width = to - from;
    const whole = this.span(0);
    let next;
    if (event.ctrlKey || event.metaKey) {
      const at = from + ((event.clientX - box.left) / box.width) * width;
      const factor = Math.exp(Math.max(-60, Math.min(60, event.deltaY)) * 0.01);
      next = [at - (at - from) * factor, at + (to - at) * factor];
    } else {
      const by = (event.deltaX / box.width) * width;
      next = [from + by, to + by];
    }
    const size = Math.min(next[1] - next[0], whole[1] - whole[0]);
    const start = Math.min(Math.max(next[0], whole[0]), whole[1] - size);
    this.glide([start, start + size], false);
  }

  onKey(event) {
    const t = this.tree;
    if (!t || event.ctrlKey || event.metaKey || event.altKey) return;
    const at = this.selected;
    const siblings = at ? [...t.childrenOf(t.parent[at])] : [0];
    const down = this.upwards ? "ArrowUp" : "ArrowDown";
    const up = this.upwards ? "ArrowDown" : "ArrowUp";
    let next = at;
    if (event.key === down) {
      let best = -1;
      for (const child of t.childrenOf(at)) if (best < 0 || t.weight[child] > t.weight[best]) best = child;
      next = best < 0 ? at : best;
    } else if (event.key === up) next = Math.max(0, t.parent[at]);
    else if (event.key === "ArrowRight") next = siblings[siblings.indexOf(at) + 1] ?? at;
    else if (event.key === "ArrowLeft") next = siblings[siblings.indexOf(at) - 1] ?? at;
    else if (event.key === "Home") next = 0;
    else if (event.key === "Enter" || event.key === " ") this.zoomTo(at);
    else if (event.key === "s" && at > 0) this.events.sandwich?.(at);
    else if (event.key === "Escape" && (this.zoomed || at)) this.zoomTo(0);
    else return;
    event.preventDefault();
    event.stopPropagation();
    if (next !== at) {
      this.selected = next;
      this.reveal(next);
      this.say(next);
      this.draw();
    }
  }

  /** Scroll a node's row into sight, and widen the view when the node lies outside it. */
  reveal(node) {
    const y = this.top(this.tree.depth[node]);
    if (y < 0) this.element.scrollTop += y;
    else if (y + ROW > this.element.clientHeight) {
      this.element.scrollTop += y + ROW - this.element.clientHeight;
    }
    const [from, to] = this.span(node);
    if (to <= this.view[0] || from >= this.view[1]) this.glide(this.span(this.tree.parent[node] || 0), true);
  }

  say(node) {
    const share = this.tree.weight[0] ? this.tree.weight[node] / this.tree.weight[0] : 0;
    this.live.textContent = `${this.tree.name(node)}, ${(share * 100).toFixed(1)} percent`;
    this.events.focus?.(node);
  }
}
