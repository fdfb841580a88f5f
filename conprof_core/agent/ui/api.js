// Requests to the agent. A newer request of the same kind cancels the older one.
import { outer, selected, state, withLabel } from "./state.js";

const running = new Map();

async function get(path, parameters, kind = path) {
  running.get(kind)?.abort();
  const controller = new AbortController();
  running.set(kind, controller);
  try {
    const response = await fetch(`api/v1/${path}?${parameters}`, { signal: controller.signal });
    const body = await response.json();
    if (!response.ok) throw new Error(body.error ?? `HTTP ${response.status}`);
    return body;
  } finally {
    if (running.get(kind) === controller) running.delete(kind);
  }
}

/** Parameters of a selection; `labels` and range may be given instead of the state's. */
export function selection({ range = selected(), labels = state.labels } = {}) {
  const p = new URLSearchParams({
    service: state.service, type: state.type, from: range[0] / 1000, to: range[1] / 1000,
  });
  for (const label of labels) p.append("label", label);
  return p;
}

export const status = () => get("status", "");
export const services = (from, to) =>
  get("services", new URLSearchParams({ from: from / 1000, to: to / 1000 }));
export const labels = () => {
  const p = selection();
  p.delete("label");
  return get("labels", p);
};
/** Rows of a label; `base` asks for what a comparison compares with. */
export const table = (by, base = null) => {
  const p = selection(base ? baseOf(base) : {});
  p.set("by", by);
  return get("table", p, base ? "table of the base" : "table");
};
export const losses = () => get("losses", selection());
export const series = (by, step) => {
  const p = selection({ range: outer() });
  if (by) p.set("by", by);
  p.set("step", step);
  return get("series", p);
};
export const flamegraph = () => get("flamegraph", selection());
export const top = (limit = 1000) => {
  const p = selection();
  p.set("limit", limit);
  return get("top", p);
};

/** What differs between a selection and what it is compared with: its range, or a label. */
function baseOf(base) {
  if (base.from) return { range: [base.from, base.to] };
  return { labels: withLabel(state.labels, base.key, [base.value]) };
}

/** Parameters of a comparison: the selection, and under "base." what it is compared with. */
export function comparison(base) {
  const p = selection();
  const { range, labels = [] } = baseOf(base);
  if (range) {
    p.set("base.from", range[0] / 1000);
    p.set("base.to", range[1] / 1000);
  }
  for (const label of labels) p.append("base.label", label);
  return p;
}
export const diff = (base) => get("diff", comparison(base));

export function exportAddress(format, base = null) {
  const p = selection(base ? baseOf(base) : {});
  p.set("format", format);
  return new URL(`api/v1/flamegraph?${p}`, location.href).href;
}

export const isAbort = (error) => error.name === "AbortError";
