// Bars as pixels: a graph of 100 000 frames has tens of thousands on screen, and one call of the
// canvas for each would take a third of a second.
//
// All bars of a row are alike from top to bottom, so each row is one line of pixels, written once
// and then copied down. Positions are whole pixels of the screen; of bars that share a pixel the
// last one is seen.
import { prepareCanvas } from "./dom.js";

const isLittleEndian = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;

function pixel(red, green, blue, alpha) {
  return (isLittleEndian
    ? (alpha << 24) | (blue << 16) | (green << 8) | red
    : (red << 24) | (green << 16) | (blue << 8) | alpha) >>> 0;
}

/**
 * A colour as one number, as a canvas's pixels have it. Written "hsl(h s% l%)", as colors.js does, or
 * "#rrggbb", as the style sheet does: reading one back from a canvas is what browsers may forbid.
 */
export function packed(colour, opacity = 1) {
  const alpha = Math.round(255 * opacity);
  const hex = /^#([0-9a-f]{6})$/i.exec(colour);
  if (hex) {
    const n = Number.parseInt(hex[1], 16);
    return pixel(n >> 16, (n >> 8) & 255, n & 255, alpha);
  }
  const [hue, saturation, lightness] = /^hsl\(([\d.]+) ([\d.]+)% ([\d.]+)%\)$/.exec(colour).slice(1).map(Number);
  const l = lightness / 100;
  const chroma = (saturation / 100) * Math.min(l, 1 - l);
  const channel = (n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (l - chroma * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return pixel(channel(0), channel(8), channel(4), alpha);
}

export class Raster {
  constructor(canvas, rowHeight) {
    this.canvas = canvas;
    this.rowHeight = rowHeight;
    this.image = null;
  }

  /** Start over at a size in CSS pixels; returns the canvas's context. */
  begin(width, height) {
    const context = prepareCanvas(this.canvas, width, height);
    this.ratio = this.canvas.width / width;
    const { width: w, height: h } = this.canvas;
    if (this.image?.width !== w || this.image?.height !== h) {
      this.image = context.createImageData(w, h);
      this.pixels = new Uint32Array(this.image.data.buffer);
      const slots = Math.ceil(height / this.rowHeight) + 2;
      this.lines = new Uint32Array(slots * w);
      this.marks = new Uint32Array(slots * w);
      this.tops = new Float64Array(slots);
    }
    this.lines.fill(0);
    this.marks.fill(0);
    this.tops.fill(NaN);
    this.isMarked = false;
    return context;
  }

  /** A bar of the row whose upper edge is at y; with a mark, a line of that colour at its foot. */
  bar(left, right, y, colour, mark = 0) {
    const w = this.image.width;
    const slot = Math.floor(y / this.rowHeight) + 1;
    this.tops[slot] = y;
    const from = Math.round(left * this.ratio);
    let to = Math.max(from + 1, Math.round(right * this.ratio));
    // A gap between neighbours, as long as there is room for it.
    if (right - left > 2.5) to -= Math.max(1, Math.round(this.ratio));
    const at = slot * w;
    this.lines.fill(colour, at + from, at + Math.min(to, w));
    if (mark) {
      this.isMarked = true;
      this.marks.fill(mark, at + from, at + Math.min(to, w));
    }
  }

  /** Put everything on the canvas. */
  end(context) {
    const { width: w, height: h } = this.image;
    this.pixels.fill(0);
    for (let slot = 0; slot < this.tops.length; slot += 1) {
      if (Number.isNaN(this.tops[slot])) continue;
      const line = this.lines.subarray(slot * w, (slot + 1) * w);
      const top = this.tops[slot];
      this.copy(line, top, top + this.rowHeight - 1, w, h);
      if (this.isMarked) this.mark(slot * w, top + this.rowHeight - 4, top + this.rowHeight - 1, w, h);
    }
    context.putImageData(this.image, 0, 0);
  }

  copy(line, top, bottom, w, h) {
    const to = Math.min(h, Math.round(bottom * this.ratio));
    for (let y = Math.max(0, Math.round(top * this.ratio)); y < to; y += 1) this.pixels.set(line, y * w);
  }

  mark(at, top, bottom, w, h) {
    const to = Math.min(h, Math.round(bottom * this.ratio));
    for (let y = Math.max(0, Math.round(top * this.ratio)); y < to; y += 1) {
      for (let x = 0; x < w; x += 1) if (this.marks[at + x]) this.pixels[y * w + x] = this.marks[at + x];
    }
  }
}
