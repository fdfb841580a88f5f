// Two selections beside each other: an earlier range, or another value of a label.
import * as api from "./api.js";
import { fill, h } from "./dom.js";
import * as format from "./format.js";
import { selected, set, splitLabel, state, withLabel } from "./state.js";
import { Table } from "./table.js";
import { functionCell } from "./view_top.js";
import { flameView } from "./view_flame.js";

export function diffView() {
  let answer = null;
  const head = h("div", { class: "toolbar compare" });
  const tableBox = h("div");
  const empty = h("div", { class: "empty small" },
    h("h2", {}, "Compare with what?"),
    h("p", {}, "Hold Shift and drag on the timeline, or choose here:"),
    h("div", { class: "choices" },
      h("button", { class: "primary", onclick: previous }, "The range before this one"),
      h("button", { class: "quiet", onclick: dayBefore }, "Same time yesterday")));
  const flame = flameView({
    load: async () => (answer = await api.diff(state.base)),
    compare: (a) => ({ scales: scalesOf(a), show: showScaled(a) }),
    legend: () => [
      h("span", {}, h("i", { class: "swatch less" }), "less than the baseline"),
      h("span", {}, h("i", { class: "swatch same" }), "as before"),
      h("span", {}, h("i", { class: "swatch rise" }), "more"),
      h("span", { class: "faint" }, "width: both sides together"),
    ],
    label: "Difference",
  });
  const full = h("div", {}, flame.element, h("h3", { class: "half changed" }, "Functions that changed most"), tableBox);
  const body = h("div");
  const element = h("section", { class: "view", "aria-label": "Compare" }, head, body);

  function scalesOf(a) {
    if (state.measure === "share") return [1 / (a.total || 1), 1 / (a.base_total || 1)];
    if (a.instant) return [1, 1];
    return [1 / (a.covered_s || 1), 1 / (a.base.covered_s || 1)];
  }

  function showScaled(a) {
    return state.measure === "share" ? format.percent : (v) => format.rate(v, a.unit, a.instant);
  }

  function previous() {
    const [from, to] = selected();
    set({ base: { from: from - (to - from), to: from }, from, to });
  }

  function dayBefore() {
    const [from, to] = selected();
    set({ base: { from: from - 86400000, to: to - 86400000 }, from, to });
  }

  async function labelPicker() {
    const { labels } = await api.labels();
    const many = labels.filter((l) => l.values.length > 1);
    const key = h("select", { class: "picker", "aria-label": "Label to compare by" });
    const left = h("select", { class: "picker", "aria-label": "Baseline value" });
    const right = h("select", { class: "picker", "aria-label": "Selected value" });
    const chosen = state.labels.map(splitLabel);
    const showValues = (baseValue, ownValue) => {
      const values = many.find((l) => l.key === key.value)?.values ?? [];
      const options = (picked) => values.map((v) => h("option", { value: v.value, selected: v.value === picked }, v.value || "none"));
      fill(left, h("option", { value: "\0" }, "baseline …"), options(baseValue));
      fill(right, h("option", { value: "\0" }, "selection …"), options(ownValue));
    };
    fill(key, h("option", { value: "" }, "two values of a label …"),
      many.map((l) => h("option", { value: l.key, selected: l.key === state.base?.key }, format.keyName(l.key))));
    const apply = () => {
      if (left.value === "\0" || right.value === "\0" || !key.value) return;
      set({ base: { key: key.value, value: left.value }, labels: withLabel(state.labels, key.value, [right.value]) });
    };
    const own = chosen.find((l) => l.key === state.base?.key)?.value;
    showValues(state.base?.value, own);
    left.hidden = right.hidden = !key.value;
    key.addEventListener("change", () => {
      left.hidden = right.hidden = !key.value;
      showValues(null, null);
    });
    left.addEventListener("change", apply);
    right.addEventListener("change", apply);
    return [key, left, right];
  }

  async function drawHead() {
    const measure = h("select", {
      class: "picker", "aria-label": "Compare by",
      onchange: () => set({ measure: measure.value }, { replace: true }),
    }, h("option", { value: "rate", selected: state.measure === "rate" }, "per second"),
      h("option", { value: "share", selected: state.measure === "share" }, "share of the total"));
    const pickers = await labelPicker();
    fill(head,
      h("button", { class: "quiet", onclick: previous }, "Previous range"),
      h("button", { class: "quiet", onclick: dayBefore }, "Yesterday"),
      pickers, h("span", { class: "grow" }), measure,
      state.base && h("button", { class: "quiet", onclick: () => set({ base: null }) }, "Clear"));
  }

  function summary() {
    const text = showScaled(answer);
    const scales = scalesOf(answer);
    const now = answer.total * scales[0];
    const before = answer.base_total * scales[1];
    const [from, to] = selected();
    const nameOf = (base) => (base.from ? format.range(base.from, base.to) : `${format.keyName(base.key)} ${base.value || "none"}`);
    const own = state.base.key ? state.labels.map(splitLabel).find((l) => l.key === state.base.key) : null;
    return h("div", { class: "versus" },
      side("Baseline", nameOf(state.base), text(before), "base"),
      side("Selection", own ? nameOf(own) : format.range(from, to), text(now), "accent"),
      h("div", { class: "side" }, h("span", { class: "side-title" }, "Change"),
        before
          ? h("b", { class: now > before ? "more" : "fewer" }, format.signed(format.percent(Math.abs(now / before - 1)), now - before))
          : h("span", { class: "faint" }, "nothing in the baseline")));
  }

  function drawTable() {
    const scales = scalesOf(answer);
    const text = showScaled(answer);
    const rows = flame.tree().top()
      .filter((row) => row.f !== 0)
      .map((row) => ({ ...row, now: row.self * scales[0], before: row.base_self * scales[1], change: row.self * scales[0] - row.base_self * scales[1] }))
      .filter((row) => row.now || row.before);
    const table = new Table([
      { key: "function", title: "Function", class: "name", value: (r) => r.function, cell: functionCell },
      { key: "before", title: "Baseline, self", numeric: true, value: (r) => r.before, cell: (r) => text(r.before) },
      { key: "now", title: "Selection, self", numeric: true, value: (r) => r.now, cell: (r) => text(r.now) },
      {
        key: "size", title: "Change", numeric: true, value: (r) => Math.abs(r.change),
        cell: (r) => h("span", { class: r.change > 0 ? "more" : r.change < 0 ? "fewer" : "" }, format.signed(text(Math.abs(r.change)), r.change)),
      },
      {
        key: "relative", title: "Relative", numeric: true, value: (r) => (r.before ? r.now / r.before : Infinity),
        cell: (r) => (!r.before ? "new" : !r.now ? "gone" : format.signed(format.percent(Math.abs(r.now / r.before - 1)), r.now - r.before)),
      },
    ], { label: "Changed functions", sort: "-size", onRow: (row) => set({ focus: `${row.function}\u0001${row.file}` }), empty: "Nothing to compare." });
    table.setRows(rows.slice(0, 2000));
    fill(tableBox, table.element);
  }

  const side = (title, what, value, className) => h("div", { class: `side ${className}` },
    h("span", { class: "side-title" }, title), h("span", { class: "side-what" }, what), h("b", {}, value));

  function draw() {
    if (!state.base || !answer) return;
    fill(body, summary(), full);
    drawTable();
  }

  return {
    element,
    async load() {
      await drawHead();
      if (!state.base) {
        answer = null;
        fill(body, empty);
        return;
      }
      await flame.load();
      head.querySelector("option[value=rate]").textContent = answer.instant ? "average" : "per second";
      draw();
    },
    redraw() {
      if (answer) flame.redraw();
      draw();
    },
    focusSearch: flame.focusSearch,
    graph: flame.graph,
  };
}
