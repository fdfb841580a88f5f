// The tables under a comparison: values of a label, and functions, by how much they changed.
import { fill, h } from "./dom.js";
import * as format from "./format.js";
import { Table } from "./table.js";
import { functionCell } from "./view_top.js";

const ROWS = 2000;

/** Columns after the name. What only grows is asked of a state, else what changed most either way. */
function columns(text, isState) {
  const sign = (r) => (r.change > 0 ? "more" : r.change < 0 ? "fewer" : "");
  return [
    {
      key: "change", title: isState ? "Growth" : "Change", numeric: true, value: (r) => (isState ? r.change : Math.abs(r.change)),
      cell: (r) => h("span", { class: sign(r) }, format.signed(text(Math.abs(r.change)), r.change)),
    },
    {
      key: "relative", title: "Relative", numeric: true, value: (r) => (r.before ? r.now / r.before : Infinity),
      cell: (r) => (!r.before ? "new" : !r.now ? "gone" : format.signed(format.percent(Math.abs(r.now / r.before - 1)), r.now - r.before)),
    },
    { key: "before", title: "Baseline", numeric: true, value: (r) => r.before, cell: (r) => text(r.before) },
    { key: "now", title: "Selection", numeric: true, value: (r) => r.now, cell: (r) => text(r.now) },
  ];
}

const table = (name, rows, text, isState, options) => {
  const made = new Table([name, ...columns(text, isState)], { sort: "-change", empty: "Nothing to compare.", ...options });
  made.setRows(rows.filter((row) => row.now || row.before).sort((a, b) => Math.abs(b.change) - Math.abs(a.change)).slice(0, ROWS));
  return made.element;
};

/** Functions by the change of what they use themselves. */
export function functionsTable(tree, scales, text, isState, onRow) {
  const rows = tree.top().filter((row) => row.f !== 0).map((row) => {
    const now = row.self * scales[0];
    const before = row.base_self * scales[1];
    return { ...row, now, before, change: now - before };
  });
  const name = { key: "function", title: "Function, itself", class: "name", value: (r) => r.function, cell: functionCell };
  return table(name, rows, text, isState, { label: "Changed functions", onRow });
}

/** Values of a label, from two answers of the API's `table`, brought to one scale. */
export function labelsTable(own, base, scales, text, isState, onRow) {
  const rows = new Map();
  for (const row of own.rows) rows.set(row.value, { value: row.value, now: row.total * scales[0], before: 0 });
  for (const row of base.rows) {
    const known = rows.get(row.value) ?? { value: row.value, now: 0 };
    rows.set(row.value, { ...known, before: row.total * scales[1] });
  }
  for (const row of rows.values()) row.change = row.now - row.before;
  const key = format.keyName(own.by);
  const name = {
    key: "value", title: key, class: "name", value: (r) => r.value,
    cell: (r) => h("span", { class: r.value ? "mono" : "faint" }, r.value || `no ${key.toLowerCase()}`),
  };
  return table(name, [...rows.values()], text, isState, { label: `Changed ${key}`, onRow });
}

/** A heading with what belongs to it. */
export const part = (title, control, ...content) => {
  const box = h("div", {});
  fill(box, h("h3", { class: "half changed" }, title, control), content);
  return box;
};
