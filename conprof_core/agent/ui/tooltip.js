// The card beside the pointer: what a frame is, where its source line is, what it costs.
import { h, fill } from "./dom.js";
import * as format from "./format.js";

const card = h("div", { class: "tip card", role: "tooltip", hidden: true });
document.body.append(card);

export function hide() {
  card.hidden = true;
}

export function show(x, y, ...content) {
  fill(card, ...content);
  card.hidden = false;
  const width = card.offsetWidth;
  const height = card.offsetHeight;
  const left = x + 16 + width > innerWidth ? x - width - 12 : x + 16;
  const top = y + 18 + height > innerHeight ? y - height - 12 : y + 18;
  card.style.left = `${Math.max(4, left)}px`;
  card.style.top = `${Math.max(4, top)}px`;
}

const KINDS = { own: "own code", library: "library", stdlib: "standard library", runtime: "runtime" };

/** What to show for a node. `compared`: {scales, unit text} when the tree has two sides. */
export function describe(tree, node, unit, compared = null) {
  if (node === 0) {
    return [h("b", {}, tree.rootName ?? "Everything selected"), h("div", { class: "tip-values" }, format.amount(tree.total[0], unit))];
  }
  const [name, file, module, kind] = tree.functions[tree.func[node]];
  const line = tree.line[node];
  const all = tree.weight[0] || 1;
  const above = tree.weight[tree.parent[node]] || 1;
  const head = [
    h("b", { class: "mono" }, name),
    file ? h("div", { class: "mono tip-place" }, line ? `${file}:${line}` : file) : null,
    h("div", { class: "tip-module" }, `${module} · ${KINDS[kind] ?? kind}`),
  ];
  if (compared) return [...head, comparedRows(tree, node, compared)];
  const row = (title, value, extra) =>
    h("tr", {}, h("th", {}, title), h("td", {}, format.amount(value, unit)), h("td", {}, extra));
  return [
    ...head,
    h("table", { class: "tip-values" },
      row("total", tree.total[node], format.percent(tree.weight[node] / all)),
      row("self", tree.self[node], format.percent(tree.self[node] / (tree.total[0] || 1))),
      tree.parent[node] > 0
        ? h("tr", {}, h("th", {}, "of its caller"), h("td"), h("td", {}, format.percent(tree.weight[node] / above)))
        : null),
  ];
}

function comparedRows(tree, node, { scales, show: text }) {
  const now = tree.total[node] * scales[0];
  const before = tree.baseTotal[node] * scales[1];
  const row = (title, value) => h("tr", {}, h("th", {}, title), h("td", {}, text(value)));
  const change = before ? format.signed(format.percent(Math.abs(now / before - 1)), now - before) : "new";
  return h("table", { class: "tip-values" },
    row("baseline", before), row("selection", now),
    h("tr", {}, h("th", {}, "change"), h("td", {}, format.signed(text(Math.abs(now - before)), now - before)),
      h("td", {}, now ? change : "gone")));
}
