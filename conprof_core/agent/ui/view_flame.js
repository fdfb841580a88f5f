// The flame graph with its tools: search, invert, colours, sandwich.
import * as api from "./api.js";
import { isDark, swatch } from "./colors.js";
import { fill, h } from "./dom.js";
import { FlameGraph } from "./flamegraph.js";
import * as format from "./format.js";
import { set, state } from "./state.js";
import * as tooltip from "./tooltip.js";
import { Tree } from "./tree.js";

const SEPARATOR = "\u0002";

/** options: load() → answer; compare(answer) → {scales, show} or null; legend(answer) → node. */
export function flameView({ load, compare = () => null, legend = null, label = "Flame graph" }) {
  let answer = null;
  let whole = null;
  let compared = null;
  const events = (graph) => ({
    hover: (node, x, y) => tooltip.show(x, y, ...tooltip.describe(graph().tree, node, answer.unit, compared)),
    leave: tooltip.hide,
    zoom: (node) => {
      if (graph() === main) set({ zoom: graph().keysOf(node).join(SEPARATOR) }, { replace: true, quiet: true });
      trail();
    },
    focus: () => trail(),
    sandwich: (node) => {
      tooltip.hide();
      set({ focus: graph().tree.key(node) });
    },
  });
  const main = new FlameGraph({ label, events: events(() => main) });
  const callers = new FlameGraph({ label: "Callers", upwards: true, events: events(() => callers) });
  const callees = new FlameGraph({ label: "Callees", events: events(() => callees) });
  const found = h("span", { class: "found", "aria-live": "polite" });
  const search = h("input", {
    type: "search", class: "search", placeholder: "Search functions  /", "aria-label": "Search functions",
    oninput: () => {
      set({ query: search.value }, { replace: true, quiet: true });
      runSearch();
    },
  });
  const invert = toggle("Invert", "Leaves first: where time is spent, callers below (i)",
    () => set({ invert: !state.invert, zoom: "" }));
  const colour = h("select", {
    class: "picker", "aria-label": "Colours", onchange: () => set({ colour: colour.value }, { replace: true }),
  }, h("option", { value: "module" }, "Colours: modules"), h("option", { value: "own" }, "Colours: own code"));
  const reset = h("button", { class: "quiet", onclick: () => graphs().forEach((g) => g.zoomTo(0)) }, "Reset zoom");
  const crumbs = h("nav", { class: "crumbs", "aria-label": "Path to the selected function" });
  const key = h("div", { class: "legend" });
  const stage = h("div", { class: "stage" });
  const note = h("div", { class: "note" });
  const element = h("section", { class: "view", "aria-label": label },
    h("div", { class: "toolbar" }, search, found, h("span", { class: "grow" }), invert, legend ? null : colour, reset),
    crumbs, stage, h("div", { class: "under" }, key, note));

  const graphs = () => (state.focus && whole && focusNumber() >= 0 ? [callers, callees] : [main]);
  const focusNumber = () => whole.functions.findIndex((f) => `${f[0]}\u0001${f[1]}` === state.focus);

  function weigh(tree) {
    return compared ? tree.weigh(compared.scales[0], compared.scales[1]) : tree.weigh();
  }

  function draw({ keepZoom = true } = {}) {
    if (!whole) return;
    invert.setAttribute("aria-pressed", String(state.invert));
    colour.value = state.colour;
    search.value = state.query;
    const f = state.focus ? focusNumber() : -1;
    invert.disabled = f >= 0;
    stage.classList.toggle("sandwich", f >= 0);
    if (f >= 0) {
      fill(stage,
        h("h3", { class: "half" }, "Callers", h("span", { class: "faint" }, " who led here")), callers.element,
        h("h3", { class: "half" }, "Callees", h("span", { class: "faint" }, " what it does")), callees.element);
      for (const [graph, tree] of [[callers, whole.callersOf(f)], [callees, whole.calleesOf(f)]]) {
        weigh(tree);
        tree.rootName = `${format.percent(tree.weight[0] / (whole.weight[0] || 1))} of everything`;
        graph.setTree(tree, []);
      }
    } else {
      fill(stage, main.element);
      const tree = weigh(state.invert ? whole.inverted() : whole);
      main.setTree(tree, keepZoom && state.zoom ? state.zoom.split(SEPARATOR) : []);
    }
    for (const graph of graphs()) graph.setColours(state.colour, compared?.scales ?? null);
    runSearch();
    trail();
    drawKey();
    note.textContent = answer.hidden_nodes
      ? `${answer.hidden_nodes.toLocaleString("en")} of the smallest frames are not drawn; their time is in their callers.` : "";
  }

  function runSearch() {
    const result = graphs().map((g) => g.search(state.query)).at(-1);
    found.textContent = result ? `${format.percent(result.share)} in ${result.count} frames` : "";
    found.classList.toggle("nothing", Boolean(result) && !result.count);
  }

  function trail() {
    const graph = graphs().at(-1);
    if (!graph.tree) return;
    const path = [];
    for (let at = graph.selected; at > 0; at = graph.tree.parent[at]) path.unshift(at);
    const focus = state.focus && focusNumber() >= 0;
    fill(crumbs,
      focus && [h("span", { class: "chip" }, h("span", { class: "chip-key" }, "Sandwich"),
        h("span", { class: "chip-value mono" }, whole.functions[focusNumber()][0]),
        h("button", { class: "chip-x", "aria-label": "Leave the sandwich", onclick: () => set({ focus: "" }) }, "×"))],
      !focus && h("button", { class: "crumb", onclick: () => graph.zoomTo(0) }, "everything"),
      !focus && path.slice(-6).map((node) => [h("span", { class: "faint" }, "›"),
        h("button", { class: "crumb mono", onclick: () => graph.zoomTo(node) }, graph.tree.name(node))]),
      !focus && path.length > 0 && h("button", {
        class: "quiet small", title: "Callers and callees of this function (s, or double click)",
        onclick: () => set({ focus: graph.tree.key(path.at(-1)) }),
      }, "Sandwich"));
  }

  function drawKey() {
    if (legend) fill(key, legend(answer));
    else {
      fill(key, ["own", "library", "stdlib"].map((kind) =>
        h("span", {}, h("i", { class: "swatch", style: { background: swatch(kind, state.colour, isDark()) } }),
          { own: "own code", library: "libraries", stdlib: "standard library" }[kind])));
    }
  }

  return {
    element,
    async load() {
      const next = await load();
      if (!next) return null;
      answer = next;
      whole = weighed(Tree.fromAnswer(answer));
      draw();
      return answer;
    },
    redraw: draw,
    focusSearch: () => search.focus(),
    toggleInvert: () => set({ invert: !state.invert, zoom: "" }),
    tree: () => whole,
    graph: () => graphs()[0],
  };

  function weighed(tree) {
    compared = compare(answer);
    return weigh(tree);
  }
}

function toggle(text, title, onclick) {
  return h("button", { class: "quiet toggle", title, "aria-pressed": "false", onclick }, text);
}

export const singleFlame = () => flameView({ load: api.flamegraph });
