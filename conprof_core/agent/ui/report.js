// The page that `conprof report --html` and `conprof diff --html` write: the data is in the file.
import { frameColour, isDark } from "./colors.js";
import { fill, h } from "./dom.js";
import { FlameGraph } from "./flamegraph.js";
import * as format from "./format.js";
import { shareBar, Table } from "./table.js";
import * as tooltip from "./tooltip.js";
import { Tree } from "./tree.js";

const data = JSON.parse(document.getElementById("profile").textContent);
const compared = data.compared
  ? { scales: data.scales, show: data.scaled === "share" ? format.percent : (v) => format.rate(v, data.unit, data.scaled === "state") } : null;
const whole = Tree.fromAnswer(data);
const weigh = (tree) => (compared ? tree.weigh(...compared.scales) : tree.weigh());
weigh(whole);
let inverted = false;

const graph = new FlameGraph({
  label: "Flame graph",
  events: {
    hover: (node, x, y) => tooltip.show(x, y, ...tooltip.describe(graph.tree, node, data.unit, compared)),
    leave: tooltip.hide,
  },
});
const found = h("span", { class: "found" });
const search = h("input", {
  type: "search", class: "search", placeholder: "Search functions", "aria-label": "Search functions",
  oninput: () => {
    const result = graph.search(search.value);
    found.textContent = result ? `${format.percent(result.share)} in ${result.count} frames` : "";
  },
});
const invert = h("button", { class: "quiet toggle", "aria-pressed": "false", onclick: () => {
  inverted = !inverted;
  invert.setAttribute("aria-pressed", String(inverted));
  draw();
} }, "Invert");

function draw() {
  graph.setTree(inverted ? weigh(whole.inverted()) : whole, []);
  graph.setColours("module", compared?.scales ?? null);
}

function groups() {
  const columns = compared
    ? [
      { key: "before", title: "Baseline", numeric: true, value: (r) => r.before, cell: (r) => compared.show(r.before) },
      { key: "now", title: "Selection", numeric: true, value: (r) => r.now, cell: (r) => compared.show(r.now) },
    ]
    : [
      { key: "share", title: "Share", numeric: true, value: (r) => r.share, cell: (r) => shareBar(r.share, format.percent(r.share)) },
      { key: "total", title: "Total", numeric: true, value: (r) => r.total, cell: (r) => format.amount(r.total, data.unit) },
    ];
  const name = format.keyName(data.by);
  const table = new Table([
    { key: "value", title: name, class: "name", value: (r) => r.value, cell: (r) => h("span", { class: "mono" }, r.value || `no ${name.toLowerCase()}`) },
    ...columns,
  ], { label: name, sort: `-${columns.at(-1).key}`, empty: "No sample has this label." });
  table.setRows(data.rows);
  return table.element;
}

function functions() {
  const all = data.total || 1;
  const table = new Table([
    {
      key: "function", title: "Function", class: "name", value: (r) => r.function,
      cell: (r) => [
        h("i", { class: "dot square", style: { background: frameColour([r.function, r.file, r.module, r.kind], "module", isDark()) } }),
        h("span", { class: "two-lines" }, h("span", { class: "mono" }, r.function), h("span", { class: "where mono" }, format.place(r.file, r.line)))],
    },
    { key: "self", title: "Self", numeric: true, value: (r) => r.self, cell: (r) => format.amount(r.self, data.unit) },
    { key: "share", title: "", numeric: true, cell: (r) => shareBar(r.self / all, format.percent(r.self / all)) },
    { key: "total", title: "Total", numeric: true, value: (r) => r.total, cell: (r) => format.amount(r.total, data.unit) },
  ], { label: "Functions", sort: "-self", empty: "No function." });
  table.setRows(whole.top().filter((r) => r.f !== whole.func[0]).slice(0, 2000));
  return table.element;
}

fill(document.getElementById("app"),
  h("header", { class: "top" }, h("span", { class: "brand" }, "conprof"), h("span", {}, data.title),
    h("span", { class: "grow" }), h("span", { class: "note" }, `${format.typeName(data.type)}, ${format.amount(data.total, data.unit)}`)),
  h("section", { class: "view" }, groups()),
  h("main", {}, h("section", { class: "view" },
    h("div", { class: "toolbar" }, search, found, h("span", { class: "grow" }), invert,
      h("button", { class: "quiet", onclick: () => graph.zoomTo(0) }, "Reset zoom")),
    h("div", { class: "stage" }, graph.element),
    h("div", { class: "under" }, data.hidden_nodes ? `${data.hidden_nodes} of the smallest frames are not drawn.` : ""))),
  h("main", {}, h("section", { class: "view" }, functions())));
draw();
