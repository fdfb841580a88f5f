// The top table: functions by what they use themselves, or with all they call.
import * as api from "./api.js";
import { frameColour, isDark } from "./colors.js";
import { h } from "./dom.js";
import * as format from "./format.js";
import { set, state } from "./state.js";
import { shareBar, Table } from "./table.js";

/** The cell that names a function: colour of its module, name, source line. */
export function functionCell(row) {
  const colour = frameColour([row.function, row.file, row.module, row.kind], state.colour, isDark());
  return [
    h("i", { class: "dot square", style: { background: colour } }),
    h("span", { class: "two-lines" },
      h("span", { class: "mono" }, row.function),
      h("span", { class: "where mono", title: row.file }, format.place(row.file, row.line) || row.module)),
  ];
}

export function topView() {
  let answer = null;
  let table = null;
  const own = h("input", { type: "checkbox", onchange: () => draw() });
  const found = h("span", { class: "found" });
  const search = h("input", {
    type: "search", class: "search", placeholder: "Search functions  /", "aria-label": "Search functions",
    oninput: () => {
      set({ query: search.value }, { replace: true, quiet: true });
      draw();
    },
  });
  const box = h("div");
  const element = h("section", { class: "view", "aria-label": "Top functions" },
    h("div", { class: "toolbar" }, search, found, h("span", { class: "grow" }),
      h("label", { class: "field check" }, own, "Own code only")), box);

  function draw() {
    if (!answer) return;
    search.value = state.query;
    const low = state.query.toLowerCase();
    const rows = answer.rows.filter((row) =>
      (!own.checked || row.kind === "own")
      && (!low || row.function.toLowerCase().includes(low) || row.file.toLowerCase().includes(low)));
    const all = answer.total || 1;
    const unit = answer.unit;
    const columns = [
      { key: "function", title: "Function", class: "name", value: (r) => r.function, cell: functionCell },
      { key: "module", title: "Module", class: "module", value: (r) => r.module, cell: (r) => h("span", { class: "faint" }, r.module) },
      { key: "self", title: "Self", numeric: true, value: (r) => r.self, hint: "In the function itself", cell: (r) => format.amount(r.self, unit) },
      { key: "self_share", title: "", numeric: true, cell: (r) => shareBar(r.self / all, format.percent(r.self / all)) },
      { key: "total", title: "Total", numeric: true, value: (r) => r.total, hint: "With everything it calls; recursion counts once", cell: (r) => format.amount(r.total, unit) },
      { key: "total_share", title: "", numeric: true, cell: (r) => shareBar(r.total / all, format.percent(r.total / all)) },
    ];
    const known = ["function", "module", "self", "total"];
    const next = new Table(columns, {
      label: "Functions",
      sort: known.includes(state.sort.replace(/^-/, "")) ? state.sort : "-self",
      onSort: (sort) => set({ sort }, { replace: true, quiet: true }),
      onRow: (row) => set({ view: "flame", focus: `${row.function}\u0001${row.file}`, zoom: "" }),
      empty: "No function matches.",
    });
    next.setRows(rows);
    table = next.replace(box, table);
    const share = rows.reduce((sum, row) => sum + row.self, 0) / all;
    found.textContent = `${rows.length} of ${answer.distinct} functions · ${format.percent(share)} of self time`;
  }

  return {
    element,
    async load() {
      answer = await api.top(5000);
      draw();
    },
    redraw: draw,
    focusSearch: () => search.focus(),
  };
}
