// What is being looked at, kept in the address bar: a link restores the view.
//
// span       seconds shown on the timeline, ending at `end` (null: now, and moving)
// from, to   the part of it that is selected, unix ms, or null for all of it
// base       what is compared with: {from, to} or {key, value}, or null

const DEFAULTS = {
  service: "", type: "cpu", span: 3600, end: null, from: null, to: null, labels: [],
  view: "routes", by: "http.route", query: "", invert: false, colour: "module", focus: "",
  base: null, zoom: "", sort: "", measure: "rate",
};
const VIEWS = ["routes", "flame", "top", "diff"];

export const state = { ...DEFAULTS };
const listeners = new Set();

export function onChange(listener) {
  listeners.add(listener);
}

/** Change some of the state; the listeners get the names of what really changed. */
export function set(changes, { replace = false, quiet = false } = {}) {
  const changed = new Set();
  for (const [name, value] of Object.entries(changes)) {
    if (JSON.stringify(state[name]) !== JSON.stringify(value)) {
      state[name] = value;
      changed.add(name);
    }
  }
  if (!changed.size) return;
  const address = link(state);
  if (replace) history.replaceState(null, "", address);
  else history.pushState(null, "", address);
  if (!quiet) for (const listener of listeners) listener(changed);
}

/** The address of a state. With `freeze`, "now" becomes the present moment. */
export function link(from, { freeze = false } = {}) {
  const p = new URLSearchParams();
  for (const name of ["service", "type", "view", "by", "query", "colour", "focus", "zoom", "sort", "measure"]) {
    if (from[name] !== DEFAULTS[name]) p.set(name, from[name]);
  }
  if (from.span !== DEFAULTS.span || freeze) p.set("span", from.span);
  const end = from.end ?? (freeze ? Date.now() : null);
  if (end !== null) p.set("end", Math.round(end));
  if (from.from !== null) {
    p.set("from", Math.round(from.from));
    p.set("to", Math.round(from.to));
  }
  if (from.invert) p.set("invert", "1");
  for (const label of from.labels) p.append("label", label);
  if (from.base?.from) {
    p.set("base.from", Math.round(from.base.from));
    p.set("base.to", Math.round(from.base.to));
  } else if (from.base?.key) {
    p.set("base.label", `${from.base.key}=${from.base.value}`);
  }
  const text = p.toString();
  return location.pathname + (text ? `?${text}` : "");
}

/** Read the address bar; what it does not say is as it is by default. */
export function restore() {
  const p = new URLSearchParams(location.search);
  const number = (name) => {
    const value = p.has(name) ? Number(p.get(name)) : NaN;
    return Number.isFinite(value) && value > 0 ? value : null;
  };
  const next = { ...DEFAULTS };
  for (const name of ["service", "type", "by", "query", "focus", "zoom", "sort"]) {
    if (p.has(name)) next[name] = p.get(name);
  }
  if (VIEWS.includes(p.get("view"))) next.view = p.get("view");
  if (["module", "own"].includes(p.get("colour"))) next.colour = p.get("colour");
  if (["rate", "share"].includes(p.get("measure"))) next.measure = p.get("measure");
  next.span = number("span") ?? DEFAULTS.span;
  next.end = number("end");
  if (number("from") && number("to") > number("from")) {
    next.from = number("from");
    next.to = number("to");
  }
  next.invert = p.get("invert") === "1";
  next.labels = p.getAll("label").filter((label) => label.includes("="));
  if (number("base.from") && number("base.to")) {
    next.base = { from: number("base.from"), to: number("base.to") };
  } else if (p.get("base.label")?.includes("=")) {
    const label = p.get("base.label");
    const at = label.indexOf("=");
    next.base = { key: label.slice(0, at), value: label.slice(at + 1) };
  }
  Object.assign(state, next);
}

addEventListener("popstate", () => {
  const before = structuredClone(state);
  restore();
  const changed = new Set(
    Object.keys(state).filter((k) => JSON.stringify(state[k]) !== JSON.stringify(before[k])),
  );
  if (changed.size) for (const listener of listeners) listener(changed);
});

/** The outer range in ms. */
export function outer(now = Date.now()) {
  const end = state.end ?? now;
  return [end - state.span * 1000, end];
}

/** The selected range in ms: the part dragged over, or everything shown. */
export function selected(now = Date.now()) {
  return state.from !== null ? [state.from, state.to] : outer(now);
}

export const isLive = () => state.end === null && state.from === null;

/** Add or replace a label filter; an empty list of values removes the key. */
export function withLabel(labels, key, values, negated = false) {
  const sign = negated ? "!=" : "=";
  const others = labels.filter((label) => splitLabel(label).key !== key);
  return [...others, ...values.map((value) => `${key}${sign}${value}`)];
}

export function splitLabel(label) {
  const at = label.indexOf("=");
  const negated = label[at - 1] === "!";
  return { key: label.slice(0, negated ? at - 1 : at), value: label.slice(at + 1), negated };
}
