// Wires the parts together: the state changes, what depends on it is fetched and drawn again.
import * as api from "./api.js";
import { announce, fill, h } from "./dom.js";
import { nothingSelected, nothingStored } from "./empty.js";
import { filterBar } from "./filters.js";
import * as format from "./format.js";
import { header } from "./header.js";
import { showHelp } from "./help.js";
import { isLive, onChange, outer, restore, selected, set, state } from "./state.js";
import { scaleEnds, stepFor, Timeline } from "./timeline.js";
import * as tooltip from "./tooltip.js";
import { diffView } from "./view_diff.js";
import { singleFlame } from "./view_flame.js";
import { routesView } from "./view_routes.js";
import { topView } from "./view_top.js";

const REFRESH_MS = 10000;
const VIEWS = [["routes", "Routes"], ["flame", "Flame graph"], ["top", "Top functions"], ["diff", "Compare"]];
const DRAWN_FROM = new Set(["query", "colour", "invert", "focus", "zoom", "sort", "measure"]);

let services = [];
let lastSeries = null;
const shared = { series: (by) => (lastSeries?.by === by ? lastSeries : null) };

const timeline = new Timeline({
  select: (from, to, isBase) => {
    if (isBase) set({ base: { from, to }, view: "diff", ...freeze() });
    else set({ from, to, zoom: state.zoom });
  },
  clear: () => set({ from: null, to: null }),
});
const views = { routes: routesView(shared), flame: singleFlame(), top: topView(), diff: diffView(shared) };
const bar = header({ onTheme: nextTheme });
const filters = filterBar();
const tabs = h("div", { class: "tabs", role: "tablist", "aria-label": "Views" }, VIEWS.map(([name, title]) =>
  h("button", { class: "tab", role: "tab", id: `tab-${name}`, "aria-controls": "view", onclick: () => set({ view: name }) }, title)));
const rangeText = h("button", { class: "quiet range-text", title: "Clear the selection", onclick: () => set({ from: null, to: null }) });
const main = h("main", { id: "view", tabindex: -1 });
const foot = h("footer", {});
const problem = h("div", { class: "problem", role: "alert", hidden: true });
fill(document.querySelector("#app"),
  bar.element,
  h("div", { class: "strip" }, timeline.element),
  h("div", { class: "bar" }, tabs, h("span", { class: "grow" }), filters.element, rangeText),
  problem, main, foot);

function freeze() {
  const [from, to] = selected();
  return { from, to };
}

function nextTheme() {
  const order = [undefined, "light", "dark"];
  const now = document.documentElement.dataset.theme;
  applyTheme(order[(order.indexOf(now) + 1) % 3]);
  drawChrome();
  timeline.draw();
  views[state.view].redraw();
}

function applyTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  try {
    if (theme) localStorage.setItem("theme", theme);
    else localStorage.removeItem("theme");
  } catch { /* storage may be closed to us: the choice lasts as long as the page */ }
}

function drawChrome() {
  bar.update(services);
  filters.update();
  for (const tab of tabs.children) {
    const active = tab.id === `tab-${state.view}`;
    tab.setAttribute("aria-selected", String(active));
    tab.tabIndex = active ? 0 : -1;
    if (active) main.setAttribute("aria-labelledby", tab.id);
  }
  const [from, to] = selected();
  rangeText.hidden = state.from === null;
  fill(rangeText, `${format.range(from, to)} · ${format.duration((to - from) / 1000)}`, h("span", { class: "x" }, "×"));
  const language = services.find((s) => s.name === state.service)?.language;
  document.title = state.service ? `${state.service} · ${format.typeName(state.type, language)} · conprof` : "conprof";
}

function drawTimeline() {
  const selection = state.from !== null ? [state.from, state.to] : null;
  const base = state.view === "diff" && state.base?.from ? [state.base.from, state.base.to] : null;
  timeline.set(lastSeries, outer(), selection, base);
}

async function loadServices() {
  const [from, to] = outer();
  services = (await api.services(from, to)).services;
  if (!services.length) return;
  if (!services.some((s) => s.name === state.service)) {
    if (state.service) return;
    const busiest = [...services].sort((a, b) => (b.types[0]?.total ?? 0) - (a.types[0]?.total ?? 0))[0];
    set({ service: busiest.name }, { replace: true, quiet: true });
  }
  const types = services.find((s) => s.name === state.service)?.types ?? [];
  if (types.length && !types.some((t) => t.name === state.type)) {
    set({ type: types[0].name }, { replace: true, quiet: true });
  }
}

async function loadTimeline() {
  const step = stepFor(state.span, timeline.element.clientWidth || 1000, 45);
  const by = state.by;
  lastSeries = { ...scaleEnds(await api.series(by, step)), by };
  drawTimeline();
}

let loading = 0;
async function load({ quiet = false } = {}) {
  const ticket = (loading += 1);
  if (!quiet) main.classList.add("loading");
  try {
    await loadServices();
    drawChrome();
    const known = services.some((s) => s.name === state.service);
    if (!services.length || !known) {
      const ever = (await api.services(0, Date.now() + 3600000)).services;
      const last = ever.filter((s) => !state.service || s.name === state.service || !services.length)
        .sort((a, b) => b.last_ms - a.last_ms)[0];
      lastSeries = null;
      drawTimeline();
      fill(main, nothingStored(last));
    } else {
      // The timeline first: the table takes its colours and trends from it.
      await loadTimeline();
      await views[state.view].load();
      if (ticket !== loading) return;
      const view = views[state.view].element;
      const isEmpty = !lastSeries.lines.length && !state.base;
      if (isEmpty) fill(main, nothingSelected());
      else if (main.firstChild !== view) fill(main, view);
      views[state.view].redraw();
    }
    problem.hidden = true;
    drawFoot();
  } catch (error) {
    if (api.isAbort(error)) return;
    problem.hidden = false;
    problem.textContent = error instanceof TypeError
      ? "The agent does not answer. Is conprof agent still running?" : error.message;
  } finally {
    if (ticket === loading) main.classList.remove("loading");
  }
}

// Weight of these samples went to the next one: sums are exact, places are coarser.
const CARRIED = new Set(["timer_overruns", "walks_carried", "ring_full_carried", "dear_walks_carried"]);

/** What is missing from the range, or was merged, by the probes' own account. */
function lostNote(reasons) {
  const rows = Object.entries(reasons);
  if (!rows.length) return null;
  const lost = rows.filter(([name]) => !CARRIED.has(name));
  const shown = lost.length ? lost : rows;
  const sum = format.amount(shown.reduce((total, [, n]) => total + n, 0), "count");
  const spoken = ([name, n]) => `${format.amount(n, "count")} ${name.replaceAll("_", " ")}`;
  return h("span", { class: lost.length ? "help-text warn" : "help-text", title: rows.map(spoken).join("\n") },
    lost.length ? `lost or cut short: ${lost.slice(0, 3).map(spoken).join(", ")}` : `${sum} samples merged, sums exact`);
}

async function drawFoot() {
  const [s, lost] = await Promise.all([api.status(), api.losses()]).catch(() => []);
  if (!s) return;
  const found = services.find((each) => each.name === state.service);
  fill(foot,
    h("span", {}, `conprof ${s.version}`),
    found && h("span", {}, `${found.processes} ${found.processes === 1 ? "process" : "processes"} in range`),
    h("span", {}, `${format.amount(s.store.bytes, "bytes")} stored, kept ${s.store.keep_days} days`),
    lostNote(lost.reasons),
    s.uploads.refused > 0 && h("span", { class: "warn", title: s.uploads.last_refusal }, `${s.uploads.refused} uploads refused`),
    h("span", { class: "grow" }),
    h("button", { class: "link", onclick: showHelp }, "Keyboard ?"));
}

onChange((changed) => {
  tooltip.hide();
  drawChrome();
  drawTimeline();
  if ([...changed].every((name) => DRAWN_FROM.has(name))) views[state.view].redraw();
  else load();
});

addEventListener("keydown", (event) => {
  const typing = event.target.matches?.("input, select, textarea");
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (document.querySelector("dialog") && event.key !== "?") return; // it closes itself on Escape
  if (typing) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const view = views[state.view];
  const n = Number(event.key);
  if (n >= 1 && n <= VIEWS.length) set({ view: VIEWS[n - 1][0] });
  else if (event.key === "/" && view.focusSearch) view.focusSearch();
  else if (event.key === "i" && view.toggleInvert) view.toggleInvert();
  else if (event.key === "t") nextTheme();
  else if (event.key === "?") showHelp();
  else if (event.key === "Escape") {
    if (state.focus) set({ focus: "" });
    else if (state.zoom) view.graph?.().zoomTo(0);
    else if (state.from !== null) set({ from: null, to: null });
  } else return;
  event.preventDefault();
});

tabs.addEventListener("keydown", (event) => {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!by) return;
  const at = VIEWS.findIndex(([name]) => name === state.view);
  const [next] = VIEWS[(at + by + VIEWS.length) % VIEWS.length];
  set({ view: next });
  document.getElementById(`tab-${next}`).focus();
});

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  timeline.draw();
  views[state.view].redraw();
});

setInterval(() => {
  const busy = document.hidden || document.querySelector(".panel-menu, dialog") || String(getSelection());
  if (isLive() && !busy && !main.classList.contains("loading")) load({ quiet: true });
}, REFRESH_MS);

restore();
try {
  applyTheme(localStorage.getItem("theme") ?? undefined);
} catch { /* as the system */ }
load().catch((error) => announce(error.message));
// For tests and for the curious: what is drawn, without reading pixels.
window.conprof = { state, views, timeline, load };
